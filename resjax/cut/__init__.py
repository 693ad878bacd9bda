"""Runs whose network is that of another run without some of its units: ``python -m resjax.cut``."""
