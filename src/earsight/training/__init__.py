"""Training: the loop, trials, and running them."""
