"""Backbones, their weights, and the model file."""
