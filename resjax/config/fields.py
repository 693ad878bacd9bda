"""The fields of a configuration as a flat table: their values, durations, and differences between two."""

import json
from typing import Any

from ml_collections import ConfigDict

# Sections and fields that affect at most the order of sums, so a run may continue with new values.
FREE = ("log", "checkpoint", "parallel.distributed", "parallel.cpu_devices", "eval.batch_size",
        "model.unroll", "data.data_dir", "data.workers", "train.steps_per_dispatch")  # fmt: skip


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"train": {"batch_size": 64}}`` → ``{"train.batch_size": 64}``."""
    fields: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}.{name}" if prefix else name
        fields.update(flat(value, path) if isinstance(value, dict) else {path: value})
    return fields


def value_of(config: ConfigDict, field: str) -> Any:
    """The value of a field such as "train.batch_size"."""
    section, _, name = field.rpartition(".")
    return config[section][name] if section else config[name]


def to_json(config: ConfigDict) -> str:
    """The resolved configuration as JSON, for the workdir."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def affecting(config: ConfigDict) -> dict[str, Any]:
    """The fields that affect results, ``{"model.depth": 56, …}``: all but those of ``FREE``."""
    return {
        field: value
        for field, value in flat(json.loads(to_json(config))).items()
        if not any(field == free or field.startswith(f"{free}.") for free in FREE)
    }


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Differing fields that affect results, as ``field: old → new``."""
    old_flat, new_flat = affecting(old), affecting(new)
    return [
        f"{field}: {old_flat.get(field, 'absent')!r} → {new_flat.get(field, 'absent')!r}"
        for field in sorted({*old_flat, *new_flat})
        if old_flat.get(field, "absent") != new_flat.get(field, "absent")
    ]


def steps_of(duration: str, steps_per_epoch: float, field: str) -> int:
    """``"64000 steps"`` or ``"20 epochs"`` → whole steps (epochs are rounded to the nearest step).

    ``steps_per_epoch`` is training examples / batch size; ``field`` is named in the error if ``duration`` is
    not a number ≥ 0 with a unit.
    """
    number, _, unit = duration.strip().partition(" ")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    factors = {"steps": 1.0, "step": 1.0, "epochs": steps_per_epoch, "epoch": steps_per_epoch}
    if not 0 <= value < float("inf") or unit.strip() not in factors:
        raise ValueError(f"{field}={duration!r}; a duration is a number and a unit: '500 steps', '20 epochs'")
    return round(value * factors[unit.strip()])
