"""The papers' CIFAR-10 runs, each by one command, restartable, results as they come.

    python launch/reproduce.py veit --data=cifar10.npz --out=runs/reproduced
    timeout 580 python launch/reproduce.py degradation …     # where a machine is lent for minutes

A name (see ``RUNS``) stands for some networks and the studies of each. They are trained one after another.
After each network and each study the numbers lie under OUT: ``NAME.json`` (configuration, commit, versions,
device, every evaluation) and ``NAME/`` (a JSON file and a picture for each study, and ``tolerances.json``:
what they say to docs/results/claims.md). ``timeout`` sends SIGTERM: the training saves and ends. The same
command continues there, and does nothing twice.

Without --data, CIFAR-10 is read as ``python -m resjax.data.prepare cifar10`` left it. --smoke trains small
networks for four steps, to see that everything runs.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from absl import flags

from resjax import command
from resjax import config as configs
from resjax.analyze import analyze
from resjax.report import Options
from resjax.train import train_and_evaluate
from resjax.workdir import write

HOME = Path(__file__).resolve().parent.parent

# In the order of what is worth most, for a host that may be gone before the last.
EVERYTHING = ("lesion", "paths", "deletions", "reorder", "path_growth", "recalibrate", "identity",
              "responses", "path_counts", "committee", "gradients")  # fmt: skip
OPTIONS = Options(path_draws=1000)
SMOKE = Options(max_examples=20, gradient_batches=1, draws=2, path_draws=2)


class Net(NamedTuple):
    """One training and what is looked at afterwards: the file under configs/, fields that differ, studies."""

    config: str
    changes: dict[str, Any]
    studies: tuple[str, ...] = ()


POST = {"model.placement": "post"}
SCALE = {**POST, "model.shortcut": "scale"}

RUNS: dict[str, dict[str, Net]] = {
    # Veit et al. 2016, Fig. 3, 5, 6; six checkpoints for the growth of paths over training.
    "veit": {
        "veit110": Net(
            "cifar10_veit", {"checkpoint.every": "12800 steps", "checkpoint.keep": 6}, EVERYTHING
        )
    },
    # He et al. 2015, Table 6 and Fig. 6, 7.
    "degradation": {
        f"{kind}{depth}": Net(f"cifar10_{kind}", {"model.depth": depth}, ("lesion", "responses"))
        for depth in (20, 32, 44, 56)
        for kind in ("resnet", "plain")
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
        "depth110_constant": Net(
            "cifar10_stochastic_depth", {"model.unit_dropout": "none"}, ("lesion",)
        ),
    },
    "seeds": {
        f"veit110_seed{seed}": Net("cifar10_veit", {"seed": seed}, EVERYTHING[:4])
        for seed in (1, 2)
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


def make_config(net: Net, data: str, smoke: bool) -> Any:
    """The configuration of one training; the small form keeps its depth and its length."""
    path = HOME / "configs" / f"{net.config}.py"
    config = configs.load_file(path, "smoke" if smoke else "")
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
    names: list[str], out: Path, data: str = "", smoke: bool = False, only: tuple[str, ...] = ()
) -> None:
    """Trains and studies all networks of some runs; what is finished is not done again.

    Args:
      names: of ``RUNS``.
      out: for workdirs (OUT/runs) and results.
      data: an .npz file of CIFAR-10, '' for the prepared set.
      smoke: the small form.
      only: names of networks, to leave out others; () for all.

    Raises:
      ValueError: an unknown name.
      Stopped: a signal came; what was finished is kept.
    """
    chosen = {label: net for name in names for label, net in RUNS.get(name, {}).items()}
    wrong = [name for name in names if name not in RUNS] + [n for n in only if n not in chosen]
    if wrong or not names:
        raise ValueError(
            f"{', '.join(wrong) or 'no name'}; allowed: {', '.join(RUNS)}; of networks in "
            f"{', '.join(names)}: {', '.join(chosen)}"
        )
    collect, tolerances = script("collect"), script("tolerances")
    for label, net in chosen.items():
        if only and label not in only:
            continue
        workdir, done = out / "runs" / label, out / f"{label}.json"
        if not done.is_file():
            train_and_evaluate(make_config(net, data, smoke), workdir)
            collect.collect_run(workdir, done)
        for i in range(len(net.studies)):
            study = net.studies[i]
            if (out / label / f"{study}.json").is_file():
                continue
            # A report of all so far: studies that are done are read back.
            report = analyze([workdir], net.studies[: i + 1], None, SMOKE if smoke else OPTIONS)
            found = tolerances.tolerances(report.parent)
            text = json.dumps(found, indent=1, ensure_ascii=False)
            write(report.parent / "tolerances.json", text + "\n")
            collect.collect_report(report.parent, out / label)
        print(f"{label}: {done}", flush=True)


def _main(argv: list[str]) -> None:
    reproduce(argv[1:], Path(_OUT.value), _DATA.value, _SMOKE.value, tuple(_ONLY.value))


if __name__ == "__main__":
    _OUT = flags.DEFINE_string("out", "runs/reproduced", "where everything goes")
    _DATA = flags.DEFINE_string("data", "", ".npz file of CIFAR-10; default: the prepared set")
    _ONLY = flags.DEFINE_list("only", [], "names of networks, to leave out the others")
    _SMOKE = flags.DEFINE_bool("smoke", False, "small networks, few steps, to see that it runs")
    command.run(_main)
