"""The checksum of ``config.json``."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def sha256(stored: Mapping[str, Any]) -> str:
    """Of all values of a stored configuration but the place of the data, which may move."""
    section = {k: v for k, v in dict(stored.get("data", {})).items() if k not in ("name", "data_dir")}
    return hashlib.sha256(json.dumps({**stored, "data": section}, sort_keys=True).encode()).hexdigest()


def under_another_name(stored: Mapping[str, Any]) -> str | None:
    """The checksum in a configuration in which its name has changed; None if there is none."""
    texts = {name: value for name, value in stored.items() if isinstance(value, str) and len(value) == 64}
    for name, value in texts.items():
        if value == sha256({k: v for k, v in stored.items() if k != name}):
            return value
    return None
