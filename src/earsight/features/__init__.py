"""Spectrograms of sound: the front end, random changes, and the store."""
