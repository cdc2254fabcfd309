"""The version, in one place: setup, the package and every checkpoint read it here."""

__version__ = "0.1.0"
