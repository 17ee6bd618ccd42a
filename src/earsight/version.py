"""The version of earsight, apart from the package's face so that any module may ask for it."""

__version__ = "0.1.0"
