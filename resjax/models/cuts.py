"""The fields of ``config.model`` that say which units a network lacks.

Every model has them, that of one's own too:

* ``cut``: names of units of the network that the builder returns: ``("stage1/unit3", "stage2/unit1")``.
* ``map``: what stands in the place of each run of such units (``resjax.network.maps``): 'none', 'affine', or
  'linear' of rank ``map_rank``.
* ``cut_again``: one text for each further cut of the network that the cuts before it leave, with the names
  of the units in that network: ``"none stage1/unit2"``, ``"affine stage1/unit2 stage2/unit1"`` or
  ``"linear:8 stage1/unit2"``. Each cut has maps of its own kind, in the place of its own units.

So the fields describe the network without any of the networks that it was made from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from resjax.models.checks import one_of, positive
from resjax.network import Network
from resjax.network.cut import cut
from resjax.network.maps import KINDS

# With the defaults, nothing is cut.
FIELDS: dict[str, Any] = {"cut": (), "map": "none", "map_rank": 8, "cut_again": ()}
TYPES: dict[str, Any] = {"cut": tuple[str, ...], "map": str, "map_rank": int, "cut_again": tuple[str, ...]}

Maps = tuple[str, int] | None  # kind and rank


def without(network: Network, fields: Mapping[str, Any], example: Any) -> Network:
    """``network`` without the units that are cut by ``fields`` (those of ``FIELDS``), one cut after another.

    Raises:
      ValueError: a value is not allowed, or its units can't be cut (``resjax.network.cut``); the message
        names the field.
    """
    for field, gone, maps in _cuts(fields):
        try:
            network = cut(network, gone, example, maps)
        except ValueError as error:
            raise ValueError(f"{field}: {error}") from error
    return network


def add(model: ConfigDict, units: Sequence[str], maps: Maps) -> None:
    """Changes ``model`` into the description of its network without ``units``, named as in that network."""
    if model.cut or model.cut_again:
        kind, rank = maps or ("none", 0)
        said = f"{kind}:{rank}" if kind == "linear" else kind
        model.cut_again = (*model.cut_again, " ".join([said, *units]))
    else:
        model.cut = tuple(units)
        model.map, model.map_rank = maps or (FIELDS["map"], FIELDS["map_rank"])


def _cuts(fields: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[str], Maps]]:
    """Field and value, units and maps of each cut."""
    gone, kind, rank = tuple(fields["cut"]), fields["map"], fields["map_rank"]
    one_of("model.map", kind, ("none", *KINDS))
    positive("model.map_rank", rank)
    yield f"model.cut={gone}", gone, None if kind == "none" else (kind, rank)
    for text in fields["cut_again"]:
        yield f"model.cut_again={text!r}", *_read(text)


def _read(text: str) -> tuple[list[str], Maps]:
    said, *units = text.split() or [""]
    kind, _, rank = said.partition(":")
    if kind == "linear" and rank.isdecimal():
        maps: Maps = kind, int(rank)
    elif said in ("none", "affine"):
        maps = None if said == "none" else (said, 1)
    else:
        units = []
    if not units:
        raise ValueError(
            f"model.cut_again={text!r}; allowed: 'none', 'affine' or 'linear:RANK', and names of units, such "
            "as 'linear:8 stage1/unit2 stage2/unit1'"
        )
    return units, maps
