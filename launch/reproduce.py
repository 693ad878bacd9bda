"""The papers' CIFAR-10 runs, each by one command, restartable, results as they come.

    python launch/reproduce.py veit --data=cifar10.npz --out=runs/reproduced
    timeout 580 python launch/reproduce.py degradation …     # where a machine is lent for minutes

A name (see ``RUNS``) stands for some networks and the studies of each. They are trained one after another,
all of the first seed before the next seed. Three seeds are trained (``SEEDS``); --seeds=N for another number.
A seed other than 0 has workdir and results of its own, ``NETWORK_seed1``, and the first four studies.

After each network and each study the numbers lie under OUT: ``NETWORK.json`` (configuration, commit,
versions, device, every evaluation, and at the end the minutes to the last figure) and ``NETWORK/`` (a JSON
file and a picture for each study, ``minutes.json``, and ``tolerances.json``: what they say to
docs/results/claims.md). When all networks of a name are through, ``NAME/`` has them side by side (the page is
``reports/NAME/report.html``): training curves, the studies that all of them have, and ``tolerances.json``
with rows that compare networks. Where a training or a study fails, ``NETWORK.failed.txt`` says why, and the
others go on. ``timeout`` sends SIGTERM: the training saves and ends. The same command
continues there, and does nothing twice.

Without --data, CIFAR-10 is read as ``python -m resjax.data.prepare cifar10`` left it. --smoke trains small
networks for four steps, to see that everything runs.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from absl import flags

from resjax import command
from resjax import config as configs
from resjax.analyze import analyze
from resjax.studies.options import Options
from resjax.train import train_and_evaluate
from resjax.workdir.workdir import write

HOME = Path(__file__).resolve().parent.parent

# In the order of what is worth most, for a host that may be gone before the last.
EVERYTHING = ("lesion", "paths", "deletions", "reorder", "path_growth", "recalibrate", "identity",
              "responses", "path_counts", "committee", "gradients")  # fmt: skip
FOR_OTHER_SEEDS = 4
# Veit et al. 2016 draw 1,000 paths of each length, and delete every number of units from 1 to 20.
OPTIONS = Options(path_draws=1000, delete_up_to=20)
# With 30 sets of each size, the largest of 20 steps of the median is mostly noise: in simulations of a true
# curve without a step above 10 points, 9 of 10 experiments find one above 15; with 1,000 sets, 1 of 100.
MANY = dataclasses.replace(OPTIONS, draws=1000, max_examples=2000)
MANY_DRAWS = ("deletions", "reorder")
SMOKE = Options(max_examples=20, gradient_batches=1, draws=2, path_draws=2)


class Net(NamedTuple):
    """One training and what is looked at afterwards: the file under configs/, fields that differ, studies."""

    config: str
    changes: dict[str, Any]
    studies: tuple[str, ...] = ()


TOTAL = "minutes_from_start_to_last_figure"
POST = {"model.placement": "post"}
SCALE = {**POST, "model.shortcut": "scale"}

RUNS: dict[str, dict[str, Net]] = {
    # Veit et al. 2016, Fig. 3, 5, 6; six checkpoints for the growth of paths over training.
    "veit": {
        "veit110": Net("cifar10_veit", {"checkpoint.every": "12800 steps", "checkpoint.keep": 6}, EVERYTHING)
    },
    # He et al. 2015, Table 6 and Fig. 6, 7.
    "degradation": {
        f"{kind}{depth}": Net(f"cifar10_{kind}", {"model.depth": depth}, ("lesion", "responses"))
        for depth in (20, 32, 44, 56)
        for kind in ("resnet", "plain")
    }
    | {
        "resnet110": Net(
            "cifar10_resnet",
            {"model.depth": 110, "optimizer.warmup": "400 steps"},
            ("lesion", "responses"),
        )
    },
    # Veit et al. 2016, §5 (both choices for the test) and §4.1; Huang et al. 2016.
    "parts": {
        "effective110": Net("cifar10_effective_paths", {}, ("lesion", "paths")),
        "effective110_unscaled": Net(
            "cifar10_effective_paths", {"model.unit_scale_at_test": False}, ("lesion",)
        ),
        "plain15": Net("cifar10_veit_plain", {}, ("lesion",)),
        "plain15_bn": Net("cifar10_veit_plain", {"model.norm": True}, ("lesion", "recalibrate")),
        "depth110": Net("cifar10_stochastic_depth", {}, ("lesion", "paths")),
        "depth110_constant": Net("cifar10_stochastic_depth", {"model.unit_dropout": "none"}, ("lesion",)),
    },
    # He et al. 2016, Table 1.
    "shortcuts": {
        "original": Net("cifar10_preact", POST),
        "scale_0_1": Net("cifar10_preact", {**SCALE, "model.shortcut_scale": 0.0}),
        "scale_half_1": Net("cifar10_preact", {**SCALE, "model.shortcut_scale": 0.5}),
        "scale_half_half": Net(
            "cifar10_preact",
            {**SCALE, "model.shortcut_scale": 0.5, "model.shortcut_branch_scale": 0.5},
        ),
        "exclusive_gate_6": Net("cifar10_preact", {**POST, "model.shortcut": "exclusive_gate"}),
        "exclusive_gate_0": Net(
            "cifar10_preact", {**POST, "model.shortcut": "exclusive_gate", "model.gate_bias": 0.0}
        ),
        "shortcut_gate_6": Net("cifar10_preact", {**POST, "model.shortcut": "shortcut_gate"}),
        "shortcut_gate_0": Net(
            "cifar10_preact", {**POST, "model.shortcut": "shortcut_gate", "model.gate_bias": 0.0}
        ),
        "projection": Net("cifar10_preact", {**POST, "model.shortcut": "projection"}),
        "dropout": Net("cifar10_preact", {**POST, "model.shortcut": "dropout"}),
    },
    # He et al. 2016, Table 2; full pre-activation is veit110, the original stands above.
    "placements": {
        placement: Net("cifar10_preact", {"model.placement": placement})
        for placement in ("bn_after_add", "relu_before_add", "relu_pre")
    },
}
# A recipe is judged over seeds: with one, the rows that compare recipes (1, 11, 13 to 19) stay undecided.
SEEDS = 3
# Networks of other names that a claim compares with, shown beside once they are trained.
BESIDE = {"parts": ("veit110",), "placements": ("veit110", "original")}


def make_config(net: Net, data: str, smoke: bool, seed: int = 0) -> Any:
    """The configuration of one training; the small form keeps its depth and its length."""
    path = HOME / "configs" / f"{net.config}.py"
    config = configs.load_file(path, "smoke" if smoke else "")
    config.seed = seed
    for field, value in net.changes.items():
        if not (smoke and field in ("model.depth", "checkpoint.every")):
            section, _, name = field.rpartition(".")
            (config[section] if section else config)[name] = value
    if data:
        config.data.name = data
    return config


def script(name: str) -> ModuleType:
    """A script of docs/results as a module."""
    spec = importlib.util.spec_from_file_location(name, HOME / "docs" / "results" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reproduce(
    names: Sequence[str],
    out: Path,
    data: str = "",
    smoke: bool = False,
    only: Sequence[str] = (),
    seeds: int = 0,
) -> None:
    """Trains and studies all networks of some runs; what is finished is not done again.

    Args:
      names: of ``RUNS``.
      out: for workdirs (OUT/runs), reports (OUT/reports) and results.
      data: an .npz file of CIFAR-10, '' for the prepared set.
      smoke: the small form.
      only: names of networks, to leave out others; () for all.
      seeds: 0, 1, … of each network; 0 for ``SEEDS``.

    Raises:
      ValueError: an unknown name.
      Stopped: a signal came; what was finished is kept.
    """
    known = [label for name in names for label in RUNS.get(name, {})]
    wrong = [name for name in names if name not in RUNS] + [n for n in only if n not in known]
    if wrong or not names:
        raise ValueError(
            f"{', '.join(wrong) or 'no name'}; allowed: {', '.join(RUNS)}; of networks in "
            f"{', '.join(names)}: {', '.join(known)}"
        )
    for seed in range(seeds or SEEDS):
        for name in names:
            for label, net in RUNS[name].items():
                if not only or label in only:
                    # One that fails, as some are expected to, must not keep the others from their turn.
                    with _noted(out / f"{_seeded(label, seed)}.failed.txt"):
                        one_network(_seeded(label, seed), net, out, data, smoke, seed)
            side_by_side(name, out, smoke)


def one_network(label: str, net: Net, out: Path, data: str, smoke: bool, seed: int) -> None:
    """Trains one network of one seed, studies it, and leaves its results as OUT/label."""
    workdir, done, folder = out / "runs" / label, out / f"{label}.json", out / label
    folder.mkdir(parents=True, exist_ok=True)
    if not done.is_file():
        with _minutes(folder, "training"):
            train_and_evaluate(make_config(net, data, smoke, seed), workdir)
        script("collect").collect_run(workdir, done)
    studies = studies_of(net, seed)
    for i, study in enumerate(studies):
        if (folder / f"{study}.json").is_file():
            continue
        with _minutes(folder, study):
            # A report of all so far: studies that are done are read back.
            _analyze([workdir], studies[: i + 1], workdir / "analysis", folder, smoke)
    result = json.loads(done.read_text())
    minutes = folder / "minutes.json"  # not there in results of earlier versions
    spent = json.loads(minutes.read_text()) if minutes.is_file() else {}
    total = round(sum(spent.values()), 2)
    if result.get(TOTAL) != total:
        write(done, json.dumps({**result, TOTAL: total}, indent=1) + "\n")
    print(f"{label}: {done}", flush=True)


def studies_of(net: Net, seed: int) -> tuple[str, ...]:
    """What is looked at; of other seeds than 0 the first, of which claims want an interval."""
    return net.studies if seed == 0 else net.studies[:FOR_OTHER_SEEDS]


def side_by_side(name: str, out: Path, smoke: bool) -> None:
    """One report of all networks of a name, and those beside it, that are trained, of every seed."""
    known = {label: net for run in RUNS.values() for label, net in run.items()}
    nets: dict[str, tuple[Net, int]] = {}
    for label in (*RUNS[name], *BESIDE.get(name, ())):
        for seed in itertools.count():
            if not (out / f"{_seeded(label, seed)}.json").is_file():
                break
            nets[_seeded(label, seed)] = known[label], seed
    shown = out / name / "networks.json"
    text = json.dumps(list(nets)) + "\n"
    if len(nets) < 2 or (shown.is_file() and shown.read_text() == text):
        return
    shared = set.intersection(*(set(studies_of(*chosen)) for chosen in nets.values()))
    studies = ("curves", *(s for s in EVERYTHING if s in shared))
    reports = out / "reports" / name
    _analyze([out / "runs" / label for label in nets], studies, reports, out / name, smoke)
    write(shown, text)
    print(f"{name}: {reports}", flush=True)


def _seeded(label: str, seed: int) -> str:
    return f"{label}_seed{seed}" if seed else label


def _analyze(workdirs: list[Path], studies: Sequence[str], out: Path, to: Path, smoke: bool) -> None:
    """Two reports, ``out`` and the one with many draws beside it, collected in the folder ``to`` together
    with what they say to claims.md."""
    many = [study for study in studies if study in MANY_DRAWS]
    few = [study for study in studies if study not in MANY_DRAWS]
    for chosen, options, report in (
        (few, OPTIONS, out),
        (many, MANY, out.with_name(f"{out.name}_many_draws")),
    ):
        if chosen:
            analyze(workdirs, chosen, report, SMOKE if smoke else options)
            script("collect").collect_report(report, to)
    found = script("tolerances").tolerances(to)
    write(to / "tolerances.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def _noted(failure: Path) -> Iterator[None]:
    """Writes what went wrong to a file, which goes away where it goes well the next time."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        failure.parent.mkdir(parents=True, exist_ok=True)
        write(failure, f"{error}\n")
        print(f"{failure}: {error}", flush=True)
    else:
        failure.unlink(missing_ok=True)


@contextmanager
def _minutes(folder: Path, part: str) -> Iterator[None]:
    """Adds the minutes spent to folder/minutes.json, also where a signal ends them early."""
    path, start = folder / "minutes.json", time.monotonic()
    try:
        yield
    finally:
        spent = json.loads(path.read_text()) if path.is_file() else {}
        spent[part] = round(spent.get(part, 0) + (time.monotonic() - start) / 60, 3)
        write(path, json.dumps(spent, indent=1) + "\n")


def _main(argv: list[str]) -> None:
    out = Path(_OUT.value)
    reproduce(argv[1:], out, _DATA.value, _SMOKE.value, _ONLY.value, _SEEDS.value)


if __name__ == "__main__":
    _OUT = flags.DEFINE_string("out", "runs/reproduced", "where everything goes")
    _DATA = flags.DEFINE_string("data", "", ".npz file of CIFAR-10; default: the prepared set")
    _ONLY = flags.DEFINE_list("only", [], "names of networks, to leave out the others")
    _SEEDS = flags.DEFINE_integer(
        "seeds", 0, "of each network; 0: as many as the claims ask for", lower_bound=0
    )
    _SMOKE = flags.DEFINE_bool("smoke", False, "small networks, few steps, to see that it runs")
    command.run(_main)
