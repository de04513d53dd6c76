"""Labels of new cells by several views of each cell, weighed by the labelled cells."""
