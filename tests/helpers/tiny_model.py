"""Overrides by which a network and its spectrograms are small enough to train in a moment."""

TINY_MODEL = (
    *("backbone.name=test_resnet", "backbone.weights=none", "features.bands=32", "features.frames=32"),
    *("training.epochs=2", "augment.pitch_semitones=0", "training.batch_size=16"),
)
