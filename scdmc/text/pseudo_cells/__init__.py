"""Cells made from a text: a generator of counts, how it is trained, and how what it makes is judged."""
