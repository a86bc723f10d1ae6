"""Support package of the early-exit study: the notebooks explain, this package computes."""

__version__ = "0.6.0"
