"""Count matrices of any format, read block by block."""
