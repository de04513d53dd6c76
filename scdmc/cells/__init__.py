"""What all tasks share: cells with labels and expression, splits, scores, clusters."""
