"""Hyperparameter search by inner validation."""
