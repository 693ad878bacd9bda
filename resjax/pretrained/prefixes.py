"""Finding the network among a file's tensors: the prefix under which a known layout stands.

Training programs save a network beside others and beside their own state, and wrap it: ``state_dict.`` and
``module.`` precede its names, or ``encoder_q.``, ``teacher.backbone.``. Each known layout has a tensor that
every network of that layout contains (``layouts.MARKERS``); what precedes its name is a prefix.
"""

from typing import NamedTuple

from resjax.pretrained.files import Tensors, under
from resjax.pretrained.layouts import MARKERS


class Selection(NamedTuple):
    """The tensors under one prefix."""

    prefix: str  # "" or with a dot at its end
    tensors: Tensors  # named without the prefix
    ignored: tuple[str, ...]  # the full names of the tensors elsewhere in the file


def prefixes(tensors: Tensors) -> list[str]:
    """Every prefix under which a known layout stands, in the file's order."""
    found = {
        name.removesuffix(marker): None
        for name in tensors
        for marker in MARKERS
        if name == marker or name.endswith(f".{marker}")
    }
    return list(found)


def select(tensors: Tensors, prefix: str | None = None) -> Selection:
    """The tensors under ``prefix``, or under the only prefix that a known layout has.

    Raises:
      ValueError: no tensor has the prefix, or several prefixes are possible; the message lists them.
    """
    found = prefixes(tensors)
    if prefix is None:
        if len(found) > 1:
            raise ValueError(f"several networks: choose one with --prefix, of {', '.join(found)}")
        chosen = found[0] if found else ""
    else:
        chosen = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
    names = {name.removeprefix(chosen): name for name in tensors if name.startswith(chosen)}
    if not names:
        raise ValueError(f"no tensor's name begins with {chosen!r}")
    ignored = tuple(name for name in tensors if not name.startswith(chosen))
    return Selection(chosen, under(tensors, names), ignored)
