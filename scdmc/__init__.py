"""scDMC: a dual-stream single-cell language model.

Submodules are loaded on first use: torch costs seconds and hundreds of megabytes, and the tokenizer needs none of it.
"""

__version__ = "0.1.0"
