"""Finished results stay on disk, so that no study or claim is repeated without need.

``WORKDIR/studies/NAME.json`` holds a result and the key that it was made under: study, options,
configuration, checkpoints, log, version of JAX, and a hash of all source code. Another key, and it is
computed anew. So ``analyze`` can be stopped and started again, and a run that is compared with another one
is not analysed twice. Claims have no run: theirs are in the folder of the report, ``OUT/kept/NAME.json``,
under the claim, its size, the seed, versions and code.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax

import resjax
from resjax import config as configs
from resjax.studies.result import Result
from resjax.studies.run import Run
from resjax.studies.study import Claim, Options, Study
from resjax.workdir.provenance import provenance
from resjax.workdir.workdir import write

T = TypeVar("T")


def load(run: Run, study: Study, options: Options) -> Result | None:
    """The finished result, or None where there is none or it was made under another key."""
    return _load(_path(run, study), key(run, study, options), study.result.from_json)


def save(run: Run, study: Study, options: Options, result: Result) -> None:
    """Keeps ``result``, whole or not at all."""
    _save(_path(run, study), key(run, study, options), result.to_json())


def load_claim(out: Path, claim: Claim, smoke: bool, seed: int) -> dict[str, Result] | None:
    """{label: result} as finished before, or None as ``load``."""

    def results(data: dict[str, Any]) -> dict[str, Result]:
        return {label: claim.result.from_json(one) for label, one in data.items()}

    return _load(_claim_path(out, claim), claim_key(claim, smoke, seed), results)


def save_claim(
    out: Path, claim: Claim, smoke: bool, seed: int, results: Mapping[str, Result]
) -> None:
    """Keeps the results of a claim, whole or not at all."""
    data = {label: result.to_json() for label, result in results.items()}
    _save(_claim_path(out, claim), claim_key(claim, smoke, seed), data)


def key(run: Run, study: Study, options: Options) -> str:
    """Changes with all that could change the result."""
    facts = {
        "study": study.name,
        "options": dataclasses.asdict(options),
        "config": configs.to_json(run.config),
        "steps": run.steps,
        "parameters": run.fingerprint,
        "starts": [start.get("imported") for start in run.starts],
        "records": len(run.records),
        "versions": _versions(),
        "code": [_hash(Path(resjax.__file__).parent), _own_builder(run.config.model.name)],
    }
    return _digest(facts)


def claim_key(claim: Claim, smoke: bool, seed: int) -> str:
    """Changes with all that could change the results of a claim."""
    code = [_hash(Path(resjax.__file__).parent)]
    return _digest(
        {"claim": claim.name, "smoke": smoke, "seed": seed, "versions": _versions(), "code": code}
    )


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _versions() -> list[str]:
    return [jax.__version__, jax.default_backend()]


def _load(path: Path, key: str, restore: Callable[[dict[str, Any]], T]) -> T | None:
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text("utf-8"))
        return restore(data["result"]) if data["key"] == key else None
    except (ValueError, KeyError, TypeError, AttributeError):  # damaged, or another kind: made anew
        return None


def _save(path: Path, key: str, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps({"key": key, "made": provenance(), "result": result}) + "\n")


def _path(run: Run, study: Study) -> Path:
    return run.workdir / "studies" / f"{study.name}.json"


def _claim_path(out: Path, claim: Claim) -> Path:
    return out / "kept" / f"{claim.name}.json"


@functools.cache
def _hash(source: Path) -> str:
    """Of one file, or of all Python files of a package."""
    files = sorted(source.rglob("*.py")) if source.is_dir() else [source]
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(source.parent)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _own_builder(name: str) -> str | None:
    """The source of a user's own builder, 'package.module:function': its module, or in a notebook itself."""
    module, colon, function = name.partition(":")
    if not colon:
        return None
    own = importlib.import_module(module)
    return inspect.getsource(getattr(own, function) if module == "__main__" else own)
