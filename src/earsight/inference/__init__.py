"""Predictions, events and explanations of sounds, by a model file."""
