"""Analyses of trained networks: similarity to their pretrained weights, stages, and attributions."""
