"""Evaluation of cells and texts, beside baselines and controls (docs/text.md, "Evaluation")."""
