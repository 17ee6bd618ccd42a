"""Spectrograms: front end, augmentation, and the store on disk."""
