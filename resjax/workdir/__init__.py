"""The folder of a run: its files, metrics, provenance, and graceful shutdown."""
