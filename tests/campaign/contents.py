"""What a folder holds, in a form that is equal for two runs exactly if they found the same.

Dates, speeds and machines are left out; arrays are compared bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from resjax import data

Contents = dict[str, Any]
"""{name of a file or of a checkpoint: what it holds}."""

# What is no result: files that a killed process leaves, and what a start has set aside.
ASIDE = re.compile(
    r"(.*/)?(\..+\.\d+|metrics\.jsonl\.set-aside-\d+|[^/]+\.damaged(-\d+)?|\d+\.incomplete)(/.*)?"
)
# TFDS's name for an unfinished preparation; the next one names it to the user.
ASIDE_DATA = re.compile(r".*/incomplete\.[^/]*/.*")


def contents(folder: Path, parts: Iterable[str] = (".",)) -> Contents:
    """What these files and folders of ``folder`` hold.

    Raises:
      Exception: a file can't be read. (Whatever the reader raises.)
    """
    found: Contents = {}
    within = [path for part in parts for path in (folder / part, *(folder / part).rglob("*"))]
    for path in sorted(within):
        name = path.relative_to(folder).as_posix()
        if ASIDE.fullmatch(name) or ASIDE_DATA.fullmatch(name):
            continue
        if path.parent.name == "checkpoints" and path.is_dir():
            found[name] = arrays(path)
        elif path.is_file() and "/checkpoints/" not in f"/{name}":
            found[name] = _held(path)
    return found


def difference(found: Contents, truth: Contents) -> str:
    """The first name under which two folders differ, and how; '' if they do not."""
    for name in sorted(found.keys() | truth.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in truth:
            return f"{name} is there besides"
        if found[name] != truth[name]:
            return f"{name}: {_first(found[name], truth[name])}"
    return ""


def arrays(checkpoint: Path) -> dict[str, str]:
    """{name: dtype, shape and SHA-256} of the arrays of a checkpoint."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of orbax: the devices are those of the save
        tree = ocp.load(checkpoint)
    found = {}
    for place, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.asarray(
            jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        )
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        found[jax.tree_util.keystr(place)] = f"{array.dtype} {array.shape} {digest}"
    return found


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a log, without the speed, and so without their checksums."""
    lines = [_loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    return [{k: v for k, v in line.items() if k not in ("crc32", "images_per_second")} for line in lines]


def after_a_stop(found: list[dict[str, Any]], truth: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``found`` with the mean losses of ``truth`` where a stop has closed a record earlier: that record is
    left out, and the next one has the mean of fewer steps."""
    steps = {(record["step"], "loss" in record) for record in truth}
    kept, shortened = [], False
    for record in found:
        trained = "loss" in record
        if trained and (record["step"], True) not in steps:
            shortened = True
            continue
        if trained and shortened:
            same = next(r for r in truth if r["step"] == record["step"] and "loss" in r)
            record = {**record, "loss": same["loss"], "error": same["error"]}
            shortened = False
        kept.append(record)
    return kept


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=str)  # NaN would differ from itself


def same_checkpoints(found: Contents, truth: Contents) -> None:
    """Leaves out of both what a stop changes: its checkpoint is one more, so an older one goes earlier. The
    last one of ``truth`` stays."""
    saved = sorted(
        (name for name in truth if "/checkpoints/" in name), key=lambda n: int(n.rpartition("/")[2])
    )
    last = saved[-1] if saved else ""
    for one, other in ((found, truth), (truth, found)):
        for name in [n for n in one if "/checkpoints/" in n and n not in other and n != last]:
            del one[name]


def _held(path: Path) -> Any:
    kind = next((read for pattern, read in _KINDS if re.fullmatch(pattern, path.as_posix())), _bytes)
    return kind(path)


def _bytes(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _tensors(path: Path) -> dict[str, Any]:
    """The metadata, which are in no order, and the SHA-256 of the tensors."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    return {
        "table": _loads(content[8:start].decode()),
        "tensors": hashlib.sha256(content[start:]).hexdigest(),
    }


def _examples(path: Path) -> str:
    """The SHA-256 of the examples of one part of MNIST, whose records may have their fields in any order."""
    config = data.defaults()
    config.name, config.data_dir, config.workers = "mnist", str(path.parents[2]), 0
    found, part = data.load(config), path.name.partition("-")[2].partition(".")[0]
    arrays = (getattr(found, f"{part}_{kind}") for kind in ("images", "labels"))
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


def _json(path: Path) -> Any:
    return _loads(path.read_text("utf-8"))


def _starts(path: Path) -> list[str]:
    """Where the weights come from."""
    return [name for name in ("imported", "cut") if name in _json(path)[0]]


def _kept(path: Path) -> dict[str, Any]:
    kept = _json(path)
    return {"key": kept["key"], "result": kept["result"]}


def _of_report(path: Path) -> dict[str, Any]:
    found = _json(path)
    if "runs" not in found:
        return found
    return {"study": found["study"], "runs": {label: run["result"] for label, run in found["runs"].items()}}


def _ends(*ends: bytes) -> Callable[[Path], str]:
    def read(path: Path) -> str:
        if not path.read_bytes().rstrip().endswith(ends):
            raise ValueError(f"{path} has no end")
        return "whole"

    return read


_KINDS = [
    (r".*/metrics\.jsonl", records),
    (r".*/runs\.json", _starts),
    (r".*/costs\.json", lambda path: _json(path)["counts"]),  # without times
    (r".*/(studies|kept)/[^/]+\.json", _kept),
    (r".*/(analysis|claims)/[^/]+\.json", _of_report),
    (r".*/data/.*\.json", lambda path: "not compared"),  # of TFDS, with dates
    (r".*\.json", _json),
    (r".*\.safetensors", _tensors),
    (r".*\.array_record-.*", _examples),
    (r".*\.html", _ends(b"</html>")),
    (r".*\.pdf", _ends(b"%%EOF")),
]


def _first(found: Any, truth: Any) -> str:
    """Where two values differ first."""
    if isinstance(found, dict) and isinstance(truth, dict):
        for key in sorted(found.keys() | truth.keys()):
            if found.get(key) != truth.get(key):
                return f"{key}: {_first(found.get(key), truth.get(key))}"
    if isinstance(found, list) and isinstance(truth, list):
        for place, (one, other) in enumerate(zip(found, truth, strict=False)):
            if one != other:
                return f"[{place}] {_first(one, other)}"
        return f"{len(found)} entries, not {len(truth)}"
    return f"{str(found)[:80]}, not {str(truth)[:80]}"
