"""Cells and text: what cell types are called and described as, and cells annotated by words."""
