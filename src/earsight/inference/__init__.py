"""A model file applied to sound."""
