"""Renaming foreign tensors with a table of regular expressions."""

from pathlib import Path

from resjax.pretrained.files import Tensors


def renamed(tensors: Tensors, table: str | Path) -> Tensors:
    """``tensors`` with the names that the table in the file ``table`` gives them."""
    raise NotImplementedError(f"{table}: to be written")
