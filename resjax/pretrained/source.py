"""From a file to a network in it: read, rename, find, recognize."""

import dataclasses
from pathlib import Path
from typing import Any

from resjax.pretrained.files import Tensors, read_checkpoint
from resjax.pretrained.layouts import Layout, recognize
from resjax.pretrained.names import renamed
from resjax.pretrained.prefixes import select
from resjax.pretrained.reparametrized import effective


@dataclasses.dataclass(frozen=True)
class Source:
    """A network in a file."""

    path: Path
    tensors: Tensors  # with the names of ``layout``
    layout: Layout
    prefix: str  # of the network's tensors in the file; "" or with a dot at its end
    ignored: tuple[str, ...]  # the full names of the tensors that are no part of it
    values: dict[str, Any]  # numbers, strings and truth values of the file, by full name


def read(path: str | Path, *, prefix: str | None = None, names: str | Path | None = None) -> Source:
    """The network in a file of safetensors or ``torch.save``.

    Args:
      path: the file.
      prefix: what precedes the names of the network's tensors; None to find it.
      names: a file with a table that renames the tensors (``resjax.pretrained.names``).

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it can't be read without running code, it holds several networks and no ``prefix`` chooses
        one, its layout is unknown, or its network can't be represented here.
    """
    checkpoint = read_checkpoint(path)
    tensors = renamed(checkpoint.tensors, names) if names else checkpoint.tensors
    found = select(effective(tensors), prefix)
    layout = recognize(found.tensors)
    return Source(checkpoint.path, found.tensors, layout, found.prefix, found.ignored, checkpoint.values)
