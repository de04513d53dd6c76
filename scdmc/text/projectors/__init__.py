"""What reads the states of a cell's genes and becomes a vector in the space of texts."""
