"""Embeddings and labels of more cells than one file should hold, shard by shard."""
