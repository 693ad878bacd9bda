"""A page on which a network is taken apart by hand: ``python -m resjax.play``."""
