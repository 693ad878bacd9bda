"""The folder of a run:

``config.json``     the resolved configuration
``runs.json``       for each start: commit, versions, device, date, command
``metrics.jsonl``   one JSON object per line, see ``resjax.workdir.writers``
``checkpoints/``    see ``resjax.training.checkpoint``
"""

import json
import os
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from resjax import config as configs
from resjax.workdir.provenance import provenance


def claim(workdir: str | Path, config: ConfigDict) -> Path:
    """Makes ``workdir`` the folder of a run with ``config``, or continues one; returns its absolute path.

    Raises:
      ValueError: the folder belongs to a run with another configuration (the differences are listed) or with
        another number of devices that affects results, or it holds other files.
    """
    path = Path(workdir).expanduser().resolve()
    if jax.process_index() > 0:  # the first host checks and writes for all
        return path
    if path.exists() and not path.is_dir():
        raise ValueError(f"--workdir={workdir} is a file; name a folder")
    if (path / "config.json").is_file():
        differences = configs.differences(configs.load(path), config)
        if differences:
            listed = "\n  ".join(differences)
            raise ValueError(
                f"{path} belongs to a run with another configuration:\n  {listed}\n"
                "Use another --workdir, or set these fields back."
            )
    elif path.is_dir() and any(path.iterdir()):
        raise ValueError(f"{path} is not empty and holds no run; use another --workdir")
    runs_file = path / "runs.json"
    runs = json.loads(runs_file.read_text()) if runs_file.is_file() else []
    if config.parallel.mode == "pmap":
        _check_devices(path, runs)
    path.mkdir(parents=True, exist_ok=True)
    write(path / "config.json", configs.to_json(config))
    write(runs_file, json.dumps([*runs, provenance()], indent=2) + "\n")
    return path


def _check_devices(path: Path, runs: list[dict[str, Any]]) -> None:
    """Under pmap, BatchNorm sees the share of one device, so results depend on the number of devices."""
    trained = [run for run in runs if "imported" not in run]
    saved = any(folder.name.isdigit() for folder in (path / "checkpoints").glob("*"))
    if not trained or not saved:
        return  # nothing has been trained here
    before, now = trained[-1].get("device_count"), jax.device_count()
    if before != now:
        raise ValueError(
            f"{path} was trained on {before} devices with parallel.mode=pmap, where BatchNorm sees the "
            f"share of one device; this start has {now}. Continue on {before}, or use another --workdir."
        )


def write(path: Path, text: str) -> None:
    """Writes a file atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
