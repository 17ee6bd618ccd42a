"""Metrics, statistics and summaries of saved predictions."""
