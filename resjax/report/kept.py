"""Keeps finished results on disk, so that no study or claim is repeated unnecessarily.

``WORKDIR/studies/NAME.json`` holds a result and its cache key: study, the options that it read, what the run
is (configuration, checkpoints, log), versions, and a hash of the code that measures
(``resjax.report.fingerprint``). If the key differs, or the result is not the one that was saved, it is
recomputed. So ``analyze`` can be stopped and restarted, and a run in several comparisons is analyzed only
once. More draws repeat no study that draws nothing, and a study whose ``adds`` names the option that differs
starts from the result with fewer (``earlier``). Studies that delete or reorder units share scores, which
``resjax.report.kept_scores`` keeps: they repeat neither examples nor draws. Results of claims, and of a
network that somebody else made and trained, are in the folder of the report, ``OUT/kept/NAME.json``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

from resjax.data.files import read_bytes
from resjax.report.fingerprint import code_fingerprint
from resjax.studies.initial import at_initialization
from resjax.studies.options import ClaimOptions, Options
from resjax.studies.result import Result
from resjax.studies.study import Claim, Study
from resjax.studies.subject import Subject
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance

T = TypeVar("T")
_LONGEST = 1 << 27  # bytes of a file that is read


class Finished(NamedTuple):
    """A kept result that is still that of the run and of the code."""

    options: Options  # with which it was computed
    read: Collection[str]  # those on which it depends, as ``Recorded`` remembers them
    result: Result


def load(run: Subject, study: Study, options: Options) -> Result | None:
    """The finished result; None if there is none, or if its key differs."""

    def own_key(data: dict[str, Any]) -> str:
        return key(run, study, options, data.get("read", _ALL))

    return _load(_path(run, study), own_key, lambda data: study.result.from_json(data["result"]))


def options_of(run: Subject, study: Study) -> Options | None:
    """The options of the finished result, if it is still that of the run and of the code; else None."""
    found = _finished(run, study)
    return None if found is None else found.options


def earlier(run: Subject, study: Study, options: Options) -> Result | None:
    """The finished result if its options differ in ``study.adds`` alone; else None."""
    found = _finished(run, study) if study.adds else None
    if found is None:
        return None
    others = set(found.read) - set(study.adds)
    same = all(found.options.value(entry) == options.value(entry) for entry in others)
    return found.result if same else None


def _finished(run: Subject, study: Study) -> Finished | None:
    def own_key(data: dict[str, Any]) -> str:
        return key(run, study, Options(**data["options"]), data.get("read", _ALL))

    def restore(data: dict[str, Any]) -> Finished:
        result = study.result.from_json(data["result"])
        return Finished(Options(**data["options"]), data.get("read", _ALL), result)

    return _load(_path(run, study), own_key, restore)  # earlier versions wrote no options


def save(
    run: Subject, study: Study, options: Options, result: Result, read: Collection[str] | None = None
) -> None:
    """Saves ``result`` atomically; ``read`` says on which options it depends (``Recorded``), None for all."""
    names = sorted(_ALL if read is None else read)
    more = {"options": dataclasses.asdict(options), "read": names}
    _save(_path(run, study), key(run, study, options, names), result.to_json(), more)


def load_claim(out: Path, claim: Claim, options: ClaimOptions) -> dict[str, Result] | None:
    """The finished {label: result}; None as in ``load``."""

    def results(data: dict[str, Any]) -> dict[str, Result]:
        return {label: claim.result.from_json(one) for label, one in data["result"].items()}

    return _load(_claim_path(out, claim), lambda data: claim_key(claim, options), results)


def save_claim(out: Path, claim: Claim, options: ClaimOptions, results: Mapping[str, Result]) -> None:
    """Saves the results of a claim atomically."""
    data = {label: result.to_json() for label, result in results.items()}
    _save(_claim_path(out, claim), claim_key(claim, options), data)


_ALL = tuple(field.name for field in dataclasses.fields(Options))


def key(run: Subject, study: Study, options: Options, read: Collection[str] = _ALL) -> str:
    """Changes with everything that could change the result, of the options with what ``read`` says."""
    own = {entry: options.value(entry) for entry in read}
    return _digest(study, own, **run.identity, subject=code_fingerprint(type(run)))


def claim_key(claim: Claim, options: ClaimOptions) -> str:
    """Changes with everything that could change the results of a claim."""
    return _digest(claim, dataclasses.asdict(options))


def _digest(study: Study, options: dict[str, Any], **facts: Any) -> str:
    facts |= {
        "study": study.name,
        "options": options,
        "code": code_fingerprint(study.measure),
        "control": code_fingerprint(at_initialization) if study.control else None,
    }
    return hashed(facts)


def hashed(facts: Mapping[str, Any]) -> str:
    """A key: the hash of JSON-ready facts and of what every result depends on, JAX and its backend."""
    every = {**facts, "versions": [jax.__version__, jax.default_backend()]}
    return hashlib.sha256(json.dumps(every, sort_keys=True).encode()).hexdigest()


def _load(
    path: Path, key: Callable[[dict[str, Any]], str], restore: Callable[[dict[str, Any]], T]
) -> T | None:
    try:
        data = _read(path)
        result = data["result"]
        same = data["key"] == key(data) and data.get("sha256", _sha256(result)) == _sha256(result)
        return restore(data) if same else None
    except _NOT_A_RESULT:
        return None


# What reading raises where a file is not there, can't be read, is damaged, or is in another format.
_NOT_A_RESULT = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def _read(path: Path) -> Any:
    if path.stat().st_size > _LONGEST:
        raise ValueError(f"{path} has more than {_LONGEST:,} bytes")
    return json.loads(read_bytes(path))


def _save(path: Path, key: str, result: dict[str, Any], more: Mapping[str, Any] | None = None) -> None:
    content = {"key": key, "sha256": _sha256(result), "made": provenance(), **(more or {}), "result": result}
    write(path, json.dumps(content) + "\n")


def _sha256(result: dict[str, Any]) -> str:
    """Of the numbers themselves, so that a changed digit is noticed. Earlier versions wrote none."""
    return hashlib.sha256(json.dumps(result).encode()).hexdigest()


def _path(run: Subject, study: Study) -> Path:
    return run.kept / f"{study.name}.json"


def _claim_path(out: Path, claim: Claim) -> Path:
    return out / "kept" / f"{claim.name}.json"
