"""From counts to two streams of tokens, and their parquet files."""
