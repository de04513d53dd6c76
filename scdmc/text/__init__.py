"""Cells and text: the Cell Ontology, labels as its terms, texts of terms and cells."""
