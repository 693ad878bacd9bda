"""What a deletion costs where no statistics can be stale.

    python docs/results/without_batchnorm.py WORKDIR

Residual networks of depth 20 (9 units) on digits, with the recipe of configs/digits.py, three seeds each:
with BatchNorm, measured with running and with re-estimated statistics (the study ``recalibrate``), and two
without it, whose branches start at 0: SkipInit (De & Smith 2020) and Fixup (Zhang et al. 2019). The rate of
each kind is chosen on 300 training images held out, with seed 100, among three; the test images decide
nothing. A finished run is not repeated. After seven minutes the script ends with exit status 3, and goes on
when it is called again. At the end it writes without_batchnorm.json and .png beside this file.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from resjax import config as configs
from resjax.analysis import lesion, load_run, recalibrate
from resjax.studies import style
from resjax.studies.intervals import bootstrap
from resjax.studies.run import Run
from resjax.studies.verdicts import spared
from resjax.train import train_and_evaluate
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance

HERE = Path(__file__).parent
KINDS: dict[str, dict[str, Any]] = {
    "BatchNorm": {},
    "SkipInit": {"norm": False, "branch_scale": "skipinit"},
    "Fixup": {"norm": False, "branch_scale": "fixup", "placement": "post"},
}
DEPTH, SEEDS, RATES, HOLDOUT, SECONDS = 20, (0, 1, 2), (0.02, 0.05, 0.1), 300, 420
START = time.monotonic()


def config_of(kind: str, rate: float, seed: int, holdout: int = 0) -> ConfigDict:
    """One run's configuration."""
    c = configs.load_file(HERE.parents[1] / "configs/digits.py")
    c.seed, c.model.depth = seed, DEPTH
    c.model.update(KINDS[kind])
    c.optimizer.learning_rate, c.data.holdout = rate, holdout
    if kind == "Fixup":
        c.optimizer.scalar_factor = 0.1  # of the biases and scales, as in the paper (§4)
    c.eval.every = c.checkpoint.every = c.train.duration
    c.checkpoint.keep = 1
    return c


def trained(config: ConfigDict, workdir: Path) -> Run:
    """The run, which is trained first if it is not there."""
    if not (workdir / "finished").is_file():
        if time.monotonic() - START > SECONDS:
            sys.exit(3)
        train_and_evaluate(config, workdir)
        write(workdir / "finished", "")
        print(f"{workdir.name}: {time.monotonic() - START:.0f} s", flush=True)
    return load_run(workdir)


def chosen_rate(kind: str, folder: Path) -> tuple[float, dict[str, float]]:
    """The rate with the lowest loss on the images held out, and all losses."""
    losses = {}
    for rate in RATES:
        run = trained(config_of(kind, rate, 100, HOLDOUT), folder / f"{kind}-rate{rate}")
        losses[str(rate)] = float(run.records[-1]["holdout_loss"])
    best = min(losses, key=lambda rate: (not np.isfinite(losses[rate]), losses[rate]))
    return float(best), losses


def damage(error: np.ndarray, intact: float) -> dict[str, Any]:
    """What deletions of single units cost, in shares of the test images."""
    rises = error - intact
    return {
        "intact": float(intact),
        "median rise": float(np.nanmedian(rises)),
        "mean rise": float(np.nanmean(np.clip(rises, 0, None))),
        "worst rise": float(np.nanmax(rises)),
        "units that may go": int(spared(error, intact).sum()),
        "error": error.tolist(),
    }


def measured(run: Run, kind: str) -> dict[str, dict[str, Any]]:
    """{label: damage} of one network."""
    given = run.evaluation(10_000)
    if kind != "BatchNorm":
        result = lesion(*given, loss=run.loss)
        return {kind: damage(result.error, result.intact_error)}
    reference, _ = run.examples("train", 2048, augmented=True)
    both = recalibrate(*given, reference=reference, loss=run.loss)
    rows = zip(both.statistics, both.error, both.intact_error, strict=True)
    return {f"BatchNorm, {name}": damage(error, float(intact)) for name, error, intact in rows}


def over_seeds(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and Student's t interval over seeds, of every number."""
    found: dict[str, Any] = {}
    for name in rows[0].keys() - {"error"}:
        values = np.array([row[name] for row in rows], float)
        low, high = (float(v) for v in bootstrap(values))
        found[name] = {"mean": float(values.mean()), "interval_95": [low, high], "seeds": values.tolist()}
    return found


def plot(rows: dict[str, list[dict[str, Any]]]) -> Any:
    """Error after each deletion: a line for each network, thin for each seed and thick for their mean."""
    fig, ax = style.axes()
    for i, (label, own) in enumerate(rows.items()):
        errors = 100 * np.array([row["error"] for row in own])
        number, color = 1 + np.arange(errors.shape[1]), style.color(i)
        for error in errors:
            ax.plot(number, error, "-", lw=0.7, alpha=0.45, color=color)
        ax.plot(number, errors.mean(0), style.marker(i) + "-", color=color, label=label)
    ax.set(xlabel="deleted unit", ylabel="error (%)", ylim=(-3, 104))
    style.integer_ticks(ax)
    style.legend_above(fig, ax)
    return fig


def main(folder: Path) -> None:
    rows: dict[str, list[dict[str, Any]]] = {}
    rates: dict[str, Any] = {}
    for kind in KINDS:
        rate, losses = chosen_rate(kind, folder)
        rates[kind] = {"chosen": rate, "loss on images held out": losses}
        for seed in SEEDS:
            run = trained(config_of(kind, rate, seed), folder / f"{kind}-seed{seed}")
            for label, own in measured(run, kind).items():
                rows.setdefault(label, []).append(own)
            print(f"{kind}, seed {seed}: {time.monotonic() - START:.0f} s", flush=True)
    record = {
        "made": {k: v for k, v in provenance().items() if k != "command"},
        "command": "python docs/results/without_batchnorm.py WORKDIR",
        "config": {**config_of("BatchNorm", 0.05, 0).to_dict(), "seed": list(SEEDS), "kinds": KINDS},
        "learning rates": rates,
        "summary": {label: over_seeds(own) for label, own in rows.items()},
        "runs": rows,
    }
    write(HERE / "without_batchnorm.json", json.dumps(record, indent=1) + "\n")
    with style.theme():
        plot(rows).savefig(HERE / "without_batchnorm.png", dpi=150, facecolor="white")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
