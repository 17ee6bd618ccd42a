"""Training: data preparation, the loop, and one trial."""
