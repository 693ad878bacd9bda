"""Deleting, reordering and changing units."""
