"""The encoder and its heads, model folders, and embeddings of cells."""
