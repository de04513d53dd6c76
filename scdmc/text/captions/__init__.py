"""Captions: a language model says in words what a Q-Former found in a cell."""
