"""What a trained network kept of its weights, what it needs of them, and what it looks at."""
