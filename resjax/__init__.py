"""resjax: train convolutional networks, then take them apart into paths."""

__version__ = "0.1.0"
