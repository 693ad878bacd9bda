"""The configuration that a workdir holds, ``config.json``."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from ml_collections import ConfigDict

from resjax import models
from resjax.config.defaults import default
from resjax.config.kinds import check_types
from resjax.data import digest as digests
from resjax.data.config import check as check_data
from resjax.data.files import read_json


class NotAllowed(ValueError):
    """A ``config.json`` names a builder outside of resjax that is not allowed by name."""


def load(workdir: str | Path, allow_code: str | Iterable[str] = ()) -> ConfigDict:
    """The configuration of a workdir.

    Args:
      workdir: its folder.
      allow_code: the names of builders, 'package.module:function', that the configuration may name. Using
        it imports and runs such a module. The networks of resjax are always allowed.

    Raises:
      FileNotFoundError: there is no run in ``workdir``, or one without a configuration.
      ValueError: the file is damaged.
      NotAllowed (a ValueError): it names a builder that is not allowed.
    """
    path = Path(workdir) / "config.json"
    remedy = _restore(path)
    try:
        stored = read_json(path, dict, remedy)
    except FileNotFoundError:
        if (path.parent / "runs.json").is_file():
            raise FileNotFoundError(f"{path} does not exist. {remedy_of_no_config(path.parent)}") from None
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not above.is_dir():
            raise FileNotFoundError(f"{workdir} holds no run: {above} is a file; name a folder") from None
        raise FileNotFoundError(
            f"{path} does not exist: {workdir} holds no run. Make one with "
            f"python -m resjax.train --config=digits --workdir={shlex.quote(str(workdir))}"
        ) from None
    digest = stored.pop("sha256", None) or digests.under_another_name(stored)
    model = stored.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        raise ValueError(f"{path} has no model with a name, so it is no configuration. {remedy}")
    _refuse_code(path, model["name"], {allow_code} if isinstance(allow_code, str) else set(allow_code))
    # Fields that are younger than the workdir have their defaults, which change nothing.
    known = default().to_dict() | {"model": models.fields_of(model["name"])}
    for name, value in known.items():
        if isinstance(stored.get(name, value), dict) != isinstance(value, dict):
            raise ValueError(f"{path} has {name}={stored[name]!r}, a value of a wrong kind. {remedy}")
    filled = {
        name: value | stored.get(name, {}) if isinstance(value, dict) else stored.get(name, value)
        for name, value in known.items()
    }
    config = ConfigDict(stored | filled, convert_dict=True)
    try:
        check_types(config)
        check_data(config.data)
    except ValueError as error:
        raise ValueError(f"{path} has {error}. {remedy}") from error
    if digest not in (None, digests.sha256(stored)):
        raise ValueError(
            f'{path} has changed since it was written. If you changed it, remove its line "sha256"; else '
            f"{_restore(path, 'restore')}"
        )
    return config


def _refuse_code(path: Path, name: str, allowed: set[str]) -> None:
    """Raises NotAllowed if a configuration names a builder outside of resjax that is not ``allowed``."""
    if models.runs_code(name) and name not in allowed:
        shown = ascii(name)[1:-1]
        raise NotAllowed(
            f"{path} names the builder {shown}, which is none of resjax: using this workdir imports and runs "
            f"the module {shown.partition(':')[0]}. If you trust it, add to the command that reads the "
            f"workdir --allow_code={shlex.quote(shown)}; in Python, allow_code={shown!r}"
        )


def remedy_of_no_config(workdir: Path, flag: str = "--workdir") -> str:
    """What to do about a folder with ``runs.json`` and without ``config.json``, which imports and cuts write
    last; ``flag`` named the folder."""
    return (
        f"If an import or a cut was interrupted: rm -r {shlex.quote(str(workdir))}, and repeat it; or use "
        f"another {flag}. If the file was lost, {_restore(workdir / 'config.json', 'restore')}"
    )


def _restore(path: Path, verb: str = "Restore") -> str:
    return (
        f"{verb} it: begin the training once more with its --config and another --workdir, and copy "
        f"config.json from there to {shlex.quote(str(path))}"
    )
