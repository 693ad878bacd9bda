"""The folder of a run:

``config.json``     the resolved configuration
``runs.json``       for each start: commit, versions, device, date, command, and the teacher's checkpoint
``metrics.jsonl``   one JSON object per line, see ``resjax.workdir.writers``; lines that a start repeats
                    are moved to ``metrics.jsonl.set-aside-1``, ``-2``, …
``checkpoints/``    see ``resjax.training.checkpoint``
"""

import glob
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from resjax import config as configs
from resjax import data
from resjax.data import digest
from resjax.data.files import read_json
from resjax.data.info import TABLE
from resjax.workdir.atomic import is_temporary, write
from resjax.workdir.paths import local, writable
from resjax.workdir.provenance import provenance


def claim(workdir: str | Path, config: ConfigDict, **facts: Any) -> Path:
    """Makes ``workdir`` the folder of a run with ``config``, or continues one; returns its absolute path.

    ``facts`` become part of this start's entry in ``runs.json``.

    Raises:
      ValueError: the folder belongs to a run with another configuration (the differences are listed) or with
        another number of devices that affects results, or it holds other files.
    """
    path = local(workdir)
    if jax.process_index() > 0:  # the first host checks and writes for all
        return path
    writable(workdir)
    config = _stored(config)
    runs = read_starts(path)
    if (path / "config.json").exists():
        try:
            stored = configs.load(path, allow_code=config.model.name)  # which the caller names
        except configs.NotAllowed as error:
            raise ValueError(
                f"{path} belongs to a run of another network, which is none of resjax and not "
                f"model.name={config.model.name!r}; use another --workdir, or the --config of that run"
            ) from error
        differences = configs.differences(_with_paths_of(config, stored), config)
        if runs and all(map(loaded, runs)):
            # Nothing was trained here, and the given weights do not depend on how they will be.
            differences = [text for text in differences if not text.startswith(_LATER)]
        if differences:
            listed = "\n  ".join(differences)
            raise ValueError(
                f"{path} belongs to a run with another configuration:\n  {listed}\n"
                "Use another --workdir, or set these fields back."
            )
        _need_given(path, runs)
    else:
        need_empty(path)
    if config.parallel.mode == "pmap":
        _check_devices(path, runs)
    write_config(path, config)
    add_start(path, **facts)
    return path


def need_empty(path: Path, flag: str = "--workdir") -> None:
    """Raises ValueError if ``path``, a folder without a run that ``flag`` named, holds anything but a killed
    process's rest."""
    if (path / "runs.json").is_file():
        raise ValueError(
            f"{path} holds no whole run: it has runs.json, but no config.json. "
            f"{configs.remedy_of_no_config(path, flag)}"
        )
    if path.is_dir() and not all(map(is_temporary, path.iterdir())):
        raise ValueError(f"{path} is not empty and holds no run; use another {flag}")


def write_config(path: Path, config: ConfigDict) -> None:
    """Writes ``config.json``, with its own ``sha256``. A folder that has none is no run."""
    stored = json.loads(configs.to_json(_stored(config)))
    # In front, so that what is left without this line is JSON.
    content = {"sha256": digest.sha256(stored), **stored}
    write(path / "config.json", json.dumps(content, indent=2) + "\n")


def _stored(config: ConfigDict) -> ConfigDict:
    """A copy as it is stored: with absolute paths, since an analysis may start in another folder."""
    config = config.copy_and_resolve_references()
    config.data = data.absolute(config.data)
    if config.train.teacher:
        config.train.teacher = str(local(config.train.teacher, "train.teacher", reads=True))
    return config


def add_start(path: Path, **facts: Any) -> None:
    """Adds an entry to ``runs.json``: the ``provenance`` of this process, and ``facts``."""
    starts = [*read_starts(path), provenance() | facts]
    write(path / "runs.json", json.dumps(starts, indent=2) + "\n")


# What an entry of runs.json holds at least, beside ``commit``; and what else, if it has that.
_START = {"date": str, "command": str, "device": str, "device_count": int, "machine": str}
_FURTHER: dict[str, dict[str, type]] = {
    "imported": {"file": str, "sha256": str, "layout": str},
    "cut": {"from": str, "step": int, "units": list, "by": str},
    "teacher": {"workdir": str, "step": int, "sha256": str},
}
# Fields that only the training behind an import or a cut reads, and that leave the form of its state.
_SCHEDULE = ("learning_rate", "schedule", "boundaries", "factor", "warmup")
_LATER = ("train.", *(f"optimizer.{field}" for field in _SCHEDULE))


def loaded(start: Mapping[str, Any]) -> bool:
    """Whether an entry of ``runs.json`` is that of an import or a cut, which began with given weights."""
    return "imported" in start or "cut" in start


def read_starts(workdir: str | Path) -> list[dict[str, Any]]:
    """The entries of ``runs.json``, one for each start; [] without such a file.

    Raises:
      ValueError: the file is damaged.
    """
    path = Path(workdir) / "runs.json"
    aside = shlex.join(["mv", str(path), f"{path}.damaged"])
    remedy = (
        f"If the network was trained here, go on without the list of its starts: {aside}; if it was "
        "imported or cut, repeat that with another folder"
    )
    try:
        starts: list[dict[str, Any]] = read_json(path, list, remedy)
    except FileNotFoundError:
        return []
    for number, start in enumerate(starts, 1):
        fits = _has(start, _START) and "commit" in start
        if not fits or not all(_has(start[k], kinds) for k, kinds in _FURTHER.items() if k in start):
            raise ValueError(f"{path} is damaged: entry {number} is not what a start writes. {remedy}")
    return starts


def _has(value: Any, kinds: Mapping[str, type]) -> bool:
    """Whether ``value`` is an object with at least these fields, each of its kind; lists are of texts."""
    if not isinstance(value, dict) or not all(isinstance(value.get(k), kind) for k, kind in kinds.items()):
        return False
    lists = (value[k] for k, kind in kinds.items() if kind is list)
    return all(isinstance(element, str) for one in lists for element in one)


def _with_paths_of(config: ConfigDict, older: ConfigDict) -> ConfigDict:
    """``older`` with the absolute path of ``config``, where it has a relative path with which that one ends.

    Earlier versions stored relative paths and not the folder where they start.
    """
    stored, given = Path(older.data.name), Path(config.data.name)
    parts = tuple(part for part in Path(os.path.normpath(stored)).parts if part != "..")
    if older.data.name not in TABLE and not stored.is_absolute() and given.parts[-len(parts) :] == parts:
        older.data.name = config.data.name
    return older


def find(workdirs: Iterable[str | Path]) -> list[Path]:
    """Absolute paths of folders of runs, in the order given.

    A pattern, such as ``runs/seed*``, stands for all folders that match it and hold a run, by number: seed2
    comes before seed10.

    Raises:
      FileNotFoundError: no run matches a pattern.
      ValueError: a workdir is a URL.
    """
    found: list[Path] = []
    for workdir in workdirs:
        local(workdir, reads=True)
        path = Path(workdir).expanduser()
        if path.exists() or not glob.has_magic(str(path)):
            found.append(path.resolve())
            continue
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        runs = [match.resolve() for match in matches if (match / "config.json").is_file()]
        if not runs:
            what = f"matches {len(matches)} paths, but none holds a run" if matches else "matches nothing"
            raise FileNotFoundError(f"--workdir={workdir} {what}")
        found += sorted(runs, key=_by_number)
    return found


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of different paths that distinguish them, all of the same number of parts."""
    length = 1
    while len({path.parts[-length:] for path in paths}) < len(paths):
        length += 1
    return ["/".join(path.parts[-length:]) for path in paths]


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Sorts numbers in names by value."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _need_given(path: Path, runs: list[dict[str, Any]]) -> None:
    """Raises ValueError if the network in ``path`` was imported or cut and no checkpoint is left: a training
    would start from random weights."""
    start = next(filter(loaded, runs), None)
    if start is None or _has_checkpoints(path):
        return
    if "cut" in start:
        source, units = start["cut"]["from"], ",".join(start["cut"]["units"])
        made = f"cut from the run in {source}"
        words = ["python -m resjax.cut", f"--workdir={shlex.quote(source)}", "--out=OTHER"]
        repeat = f"cut that run again: {' '.join(words)} --units={shlex.quote(units)}"
    else:
        made = f"imported from {start['imported']['file']}"
        repeat = "import the file again: python -m resjax.pretrained FILE --workdir=OTHER"
    raise ValueError(
        f"{path} was {made}, and its checkpoints are gone. Copy one to {path / 'checkpoints'} from "
        f"elsewhere, or {repeat}"
    )


def _has_checkpoints(path: Path) -> bool:
    """Whether there are any, intact or not."""
    found = (path / "checkpoints").glob("[0-9]*")
    return any(re.fullmatch(r"\d+(\.damaged.*)?", folder.name) for folder in found)


def _check_devices(path: Path, runs: list[dict[str, Any]]) -> None:
    """Under pmap, BatchNorm sees the share of one device, so results depend on the number of devices."""
    trained = [run for run in runs if not loaded(run)]
    if not trained or not _has_checkpoints(path):
        return  # nothing has been trained here
    before, now = trained[-1].get("device_count"), jax.device_count()
    if before != now:
        raise ValueError(
            f"{path} was trained on {before} devices with parallel.mode=pmap, where BatchNorm sees the "
            f"share of one device; this start has {now}. Continue on {before}, or use another --workdir."
        )
