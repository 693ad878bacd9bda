"""The whole argument in minutes: ``make demo``, or ``python -m resjax.demo [--smoke] [--workdir=DIR]``.

Trains a pre-activation ResNet-56 and its plain twin (the same branches, so the same parameters, without
shortcuts) on scikit-learn's digits, deletes each unit of each in turn, compares the gradients of their
layers at initialization and after training, and writes a report. No download.
"""

from __future__ import annotations

import time
from pathlib import Path

from absl import app, flags

from resjax import command
from resjax import config as configs
from resjax.analyze import analyze
from resjax.train import train_and_evaluate

TWINS = {"residual": "digits.py", "plain": "digits_plain.py"}


def demo(directory: Path, smoke: bool) -> Path:
    """Trains both networks under ``directory`` (what is there already is not repeated); the report's path."""
    folder = Path(__file__).parent.parent / "configs"
    workdirs = []
    for number, (name, file) in enumerate(TWINS.items(), 1):
        config = configs.load_file(folder / file, "smoke" if smoke else "")
        print(f"[{number}/3] {name}: configs/{file}{':smoke' if smoke else ''}", flush=True)
        workdirs.append(directory / name)
        train_and_evaluate(config, workdirs[-1])
    print("[3/3] taking both apart", flush=True)
    return analyze(workdirs, out=directory / "report")


def _main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; see --help")
    start = time.perf_counter()
    report = demo(Path(_WORKDIR.value), _SMOKE.value)
    print(f"{time.perf_counter() - start:.0f} s. Open the report: {report}")


if __name__ == "__main__":
    _SMOKE = flags.DEFINE_bool(
        "smoke", False, "smaller networks and shorter training, to see that it runs"
    )
    _WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "where everything goes")
    command.run(_main)
