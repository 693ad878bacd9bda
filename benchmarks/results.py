"""What benchmarks leave: a JSON file that is written anew after each row, for one may be stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def save(path: Path | None, record: dict[str, Any]) -> None:
    """Writes the numbers so far and where they come from, whole or not at all; nothing without a path.

    It starts JAX. Where other processes measure afterwards, leave them the memory of a GPU: set
    XLA_PYTHON_CLIENT_PREALLOCATE=false before.
    """
    # Not above: processes that time their own start import this file.
    from resjax.workdir.atomic import write
    from resjax.workdir.provenance import provenance

    if path is not None:
        write(path, json.dumps({"provenance": provenance(), **record}, indent=1) + "\n")
