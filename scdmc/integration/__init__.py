"""Batches: methods, scores, adaptation."""
