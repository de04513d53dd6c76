"""Command lines: the parser, and the groups of flags that scripts share."""
