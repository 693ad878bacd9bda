"""Names that are spelled almost right."""

import difflib
import re
from collections.abc import Iterable


def nearest(name: str, allowed: Iterable[str], cutoff: float = 0.6) -> str:
    """The name in ``allowed`` that is most similar to ``name``; '' if none is.

    Upper case, hyphens and underscores make no difference. ``cutoff`` is the least similarity in 0 … 1.
    """
    names = {plain(one): one for one in allowed}
    found = difflib.get_close_matches(plain(name), names, 1, cutoff)
    return names[found[0]] if found else ""


def plain(name: str) -> str:
    """``name`` in lower case, without hyphens and underscores."""
    return re.sub(r"[-_]", "", name).lower()
