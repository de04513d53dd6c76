"""Pre-training: batches, objectives, the loop, checkpoints."""
