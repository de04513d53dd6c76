"""What a gene is: ids, symbols, and the vocabulary of tokens."""
