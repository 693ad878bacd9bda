"""Keeps the scores that studies share on disk, so that a rerun adds examples and draws to them.

``WORKDIR/studies/scores.npz`` holds the outcomes of ``resjax.studies.lesions.known`` for the network, and
``scores_initial.npz`` those for the network at initialization. Studies that delete or reorder units take from
them what is known of a network, on the examples on which it is known. A study whose result is kept
(``resjax.report.kept``) needs neither.

A file is used if its key is that of the run and of the code: what the run is (configuration, checkpoints),
versions, batch size, and hashes of the code that measures. Else it is replaced.

*Size.* About nine bytes for each network and example: 1 MB for 250 networks and 400 examples, 40 MB for 450
networks and 10,000 examples; in memory ten, for all runs of a command. What is known stays, whatever options
a later command has. A file of more than 1 GiB is not read, so its place is taken by a new one.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resjax.data.files import read_bytes
from resjax.report.fingerprint import code_fingerprint
from resjax.report.kept import hashed
from resjax.studies.initial import at_initialization
from resjax.studies.lesions.known import KnownScores
from resjax.studies.lesions.single_deletions import score_deletions
from resjax.studies.scores import Outcomes
from resjax.studies.subject import Subject
from resjax.workdir.atomic import write

_LONGEST = 1 << 30  # bytes of a file that is read


class _Open(NamedTuple):
    scores: KnownScores
    key: str
    size: int  # of the scores that the file has


class KeptScores:
    """The scores of all networks of one command: ``stored`` of ``Study.run``."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._open: dict[Path, _Open] = {}

    def __call__(self, subject: Subject, initial: bool) -> KnownScores:
        """What is known of a network, or of one at ``initial``ization; a study adds to it."""
        path = subject.kept / ("scores_initial.npz" if initial else "scores.npz")
        key = _key(subject, initial, self._batch_size)
        scores = _load(path, key)
        self._open[path] = _Open(scores, key, scores.size)
        return scores

    def save(self, folder: Path) -> None:
        """Writes the scores of this folder of finished results, if something was added to them.

        Raises:
          OSError: it can't be written.
        """
        for path, own in self._open.items():
            if path.parent == folder and own.scores.size > own.size:
                write(path, _packed(own.scores, own.key))
                self._open[path] = own._replace(size=own.scores.size)


def _key(subject: Subject, initial: bool, batch_size: int) -> str:
    facts = {
        **subject.identity,
        "batch_size": batch_size,
        "code": [code_fingerprint(part) for part in (score_deletions, KnownScores, type(subject))],
        "control": code_fingerprint(at_initialization) if initial else None,
    }
    return hashed(facts)


def _packed(scores: KnownScores, key: str) -> bytes:
    """An npz file with the rows, how many examples each has, and all outcomes, one row after the other."""
    rows, found = list(scores.rows), list(scores.rows.values())
    arrays: dict[str, Any] = {
        "key": np.array(key),
        "rows": np.stack([np.frombuffer(row, np.int64) for row in rows]),
        "count": np.array([len(own.loss) for own in found]),
        **{name: np.concatenate([getattr(own, name) for own in found]) for name in Outcomes._fields},
    }
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _load(path: Path, key: str) -> KnownScores:
    """The scores of a file, or none if it has another key, is damaged, or is not there."""
    try:
        if path.stat().st_size > _LONGEST:
            raise ValueError(f"{path} has more than {_LONGEST:,} bytes")
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as data:
            if str(data["key"]) != key:
                return KnownScores()
            ends = np.cumsum(data["count"])
            every = (np.split(data[name], ends[:-1]) for name in Outcomes._fields)
            found = [Outcomes(*own) for own in zip(*every, strict=True)]
            return KnownScores(zip(data["rows"], found, strict=True))
    except Exception:  # of zipfile, zlib or numpy, by the place of the damage; or there is no file
        return KnownScores()
