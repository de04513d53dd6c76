"""Cell types: fine-tuning, baselines, annotating files."""
