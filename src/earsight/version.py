"""The version, kept out of earsight/__init__.py so that any module can import it."""

__version__ = "0.1.0"
