"""Ensembles of trained members: selection, model files and their evaluation."""
