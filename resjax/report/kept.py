"""Finished results stay in the folder of their run, so that no study is repeated without need.

``WORKDIR/studies/NAME.json`` holds a result and the key that it was made under: study, options,
configuration, checkpoints, log, version of JAX, and a hash of all source code. Another key, and it is
computed anew. So ``analyze`` can be stopped and started again, and a run that is compared with another one
is not analysed twice.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import inspect
import json
from pathlib import Path

import jax

import resjax
from resjax import config as configs
from resjax.analysis.result import Result
from resjax.analysis.run import Run
from resjax.provenance import provenance
from resjax.report.study import Options, Study
from resjax.workdir import write


def load(run: Run, study: Study, options: Options) -> Result | None:
    """The finished result, or None where there is none or it was made under another key."""
    path, now = _path(run, study), key(run, study, options)
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text("utf-8"))
        return study.result.from_json(data["result"]) if data["key"] == now else None
    except (ValueError, KeyError, TypeError):  # damaged, or of another kind: made anew
        return None


def save(run: Run, study: Study, options: Options, result: Result) -> None:
    """Keeps ``result``, whole or not at all."""
    path = _path(run, study)
    path.parent.mkdir(exist_ok=True)
    data = {"key": key(run, study, options), "made": provenance(), "result": result.to_json()}
    write(path, json.dumps(data) + "\n")


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
        "versions": [jax.__version__, jax.default_backend()],
        "code": [_hash(Path(resjax.__file__).parent), _own_builder(run.config.model.name)],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _path(run: Run, study: Study) -> Path:
    return run.workdir / "studies" / f"{study.name}.json"


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
