"""What can be chosen in tokenizing. Nothing heavy is imported here, so that ``--help`` is quick."""

MODEL_INPUT_SIZE = 2048


CELLS_PER_SHARD = 100_000


# Values kept as they are: 8 bytes each, twice that when they are sorted in the end.
EXACT_LIMIT = 30_000_000


# Larger than for a file: a read from a bucket has its price, however small it is.
CENSUS_BLOCK_SIZE = 2048
