"""The whole argument in minutes: ``make demo``, or ``python -m resjax.demo [--smoke] [--workdir=DIR]``.

Trains a pre-activation ResNet-56 and its plain twin (the same branches, so the same parameters, without
shortcuts) on scikit-learn's digits, deletes units, runs them in another order, sorts the gradient by path
length, compares the gradients of layers, and writes a report. Then it makes a network without the units that
can go together. Nothing is downloaded. The demo runs only the studies that take minutes, with few draws;
``python -m resjax.analyze`` on the same folders runs all of them.
"""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from absl import flags
from rich.console import Console

from resjax import command
from resjax import config as configs
from resjax.analyze import analyze
from resjax.cut import costs
from resjax.cut.steps import CutOptions, cut_run
from resjax.studies.options import Options
from resjax.studies.run import load_run
from resjax.train import train_and_evaluate
from resjax.workdir.paths import writable

TWINS = {"residual": "digits", "plain": "digits_plain"}
STUDIES = (
    "curves",
    "lesion",
    "recalibrate",
    "deletions",
    "reorder",
    "path_counts",
    "paths",
    "gradients",
)
OPTIONS = Options(draws=16, path_draws=30)
CUTTING = CutOptions(examples=128)


def demo(directory: Path, smoke: bool) -> Path:
    """Trains both networks under ``directory`` (finished work is not repeated); returns the report's path."""
    files = configs.files()
    workdirs = []
    for number, (name, twin) in enumerate(TWINS.items(), 1):
        config = configs.load_file(files[twin], "smoke" if smoke else "")
        print(f"[{number}/4] {name}: {twin}{':smoke' if smoke else ''}", flush=True)
        workdirs.append(directory / name)
        train_and_evaluate(config, workdirs[-1])
    print("[3/4] analyzing both", flush=True)
    report = analyze(workdirs, STUDIES, directory / "report", OPTIONS)
    print("[4/4] cutting units out of residual", flush=True)
    said = cut_short(workdirs[0], directory / "shorter", smoke)
    Console(highlight=False).print(f"• {said}", markup=False)
    return report


def cut_short(workdir: Path, out: Path, smoke: bool) -> str:
    """Cuts what may go together out of a run (finished work is not repeated); returns what that saves."""
    if not (out / "config.json").exists():
        criterion = (
            {"count": 1} if smoke else {"rise": 1.0}
        )  # a network that hardly trained can spare nothing
        cut_run(load_run(workdir), out, programs=("batch",), budget=4.0, options=CUTTING, **criterion)
    return costs.in_one_sentence(workdir.name, costs.read(out))


def _main(argv: list[str]) -> None:
    command.no_arguments(argv)
    start, directory = time.perf_counter(), writable(_WORKDIR.value)
    report = demo(directory, _SMOKE.value)
    print(f"{time.perf_counter() - start:.0f} s. Open the report: {report}")
    workdirs = ",".join(str(directory / name) for name in TWINS)
    print(f"Take both apart by hand: python -m resjax.play --workdir={shlex.quote(workdirs)}")


if __name__ == "__main__":
    _SMOKE = flags.DEFINE_bool("smoke", False, "smaller networks and shorter training, to check that it runs")
    _WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "folder of runs and report")
    command.run(_main)
