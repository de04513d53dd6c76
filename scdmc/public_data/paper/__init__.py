"""The data sets of the paper: where their files are, how they come here, and how each of them is read."""
