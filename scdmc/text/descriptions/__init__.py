"""Cells and groups of cells in words (docs/text.md, "Descriptions")."""
