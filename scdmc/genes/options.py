"""What can be chosen of genes. Nothing heavy is imported here, so that ``--help`` is quick."""

SPECIES = ("human", "mouse")
