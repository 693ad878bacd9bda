"""Rows 13, 18 and 19 in kind: what stochastic depth changes (Huang et al. 2016; Veit et al. 2016, Fig. 8).

    python docs/results/stochastic_depth.py WORKDIR [DATA] [--seeds=N] [--smoke]

*Protocol.* The network of ``configs/cifar10_stochastic_depth.py`` at depth 20 instead of 110, with stochastic
depth (survival falls linearly to 0.5; branches are scaled at test) and without. It is trained for 90 epochs,
three times as long as the other rows in kind, as the paper trains three times as long (500 epochs) as He et
al. Otherwise as ``by_seed.in_kind`` says. Each unit is deleted in turn, on 2,000 images that no network was
trained on. The gradient's norm of the first convolution of the first unit is logged at every fourth step.

*Criteria, fixed before the training*, each judged by Student's t interval over seeds, but for the sign test.

* **Row 13**, "stochastic depth helps only where the shape changes". As docs/results/claims.md says: the mean
  rise of the two units that change the shape is lower with stochastic depth (sign test over seeds, one-sided:
  5 of 5 has p = 0.03), and the median rise of the other seven is larger by at most 1 point. The word "only"
  is judged, too: that median is not lower by more than 1 point either.
* **Row 18**, "it lowers the error". 0.6 points of 6.41 % are 9.4 %: its error ÷ the other's is at most 0.906.
* **Row 19**, "its early gradients are larger". Ratio of the two networks' norms, each the mean of an epoch:
  above 1 in every epoch after the first drop of the rate, above 3 in the geometric mean of these epochs.
"""

from __future__ import annotations

from pathlib import Path

import by_seed
import numpy as np
from by_seed import Criterion, Row
from scipy import stats

from resjax.analysis import lesion
from resjax.studies import style
from resjax.studies.run import Run

NETWORKS = {"constant": "depth110_constant", "stochastic": "depth110"}
EPOCHS, IMAGES = 90, 2000
LEVEL = 0.05
NOT_LARGER = Criterion("median rise elsewhere, stochastic − constant, ≤ 1 point", most=1)
ONLY = Criterion("median rise elsewhere, stochastic − constant, ≥ −1 point", least=-1)
GAIN = Criterion("error ÷ the constant network's ≤ 0.906", most=0.906)
EACH = Criterion("gradient ratio > 1 in each epoch after the first drop", least=1)
MEAN = Criterion("gradient ratio > 3 in the mean of these epochs", least=3)


def configs_of(data: str) -> by_seed.Configs:
    """seed → the configuration of each network."""

    def make(seed: int) -> by_seed.ByNetwork:
        found = {name: by_seed.in_kind(label, seed, data, epochs=EPOCHS) for name, label in NETWORKS.items()}
        for config in found.values():
            config.log.every = "4 steps"
        return found

    return make


def measured(run: Run) -> Row:
    """Errors, the rise of the error after each deletion, and the first unit's gradient norm by epoch."""
    deleted = lesion(run.network, run.variables, *run.examples(run.split, IMAGES), loss=run.loss)
    rise = 100 * (deleted.error - deleted.intact_error)
    opening = np.array([u in ("stage2/unit1", "stage3/unit1") for u in deleted.unit])
    norms: dict[int, list[float]] = {}
    for record in run.records:
        if "norms" in record:
            # Epochs end at whole numbers: a record at 2.0 belongs to the second epoch, of index 1.
            epoch = int(np.ceil(record["epoch"])) - 1
            norms.setdefault(epoch, []).append(record["norms"]["gradient"]["stage1/conv1/kernel"][0])
    return {
        **by_seed.errors(run.workdir),
        "unit": list(deleted.unit),
        "rise": rise.tolist(),
        "opening": float(rise[opening].mean()),
        "elsewhere": float(np.median(rise[~opening])),
        "gradient": [float(np.mean(norms[epoch])) for epoch in sorted(norms)],
    }


def ratios(rows: list[Row]) -> np.ndarray:
    """float [seed, epoch]: gradient norm with stochastic depth ÷ without."""
    norms = {n: np.array([r["gradient"] for r in rows if r["network"] == n]) for n in NETWORKS}
    return norms["stochastic"] / norms["constant"]


def sign_test(differences: np.ndarray) -> Row:
    """One-sided sign test of "below 0": shown if p ≤ 0.05, contradicted if that holds for "above 0"."""
    below, above = int(np.sum(differences < 0)), int(np.sum(differences > 0))
    lower, higher = (
        float(stats.binomtest(k, below + above, alternative="greater").pvalue) if below + above else 1.0
        for k in (below, above)
    )
    verdict = "shown" if lower <= LEVEL else "contradicted" if higher <= LEVEL else "undecided"
    return {
        "criterion": "mean rise where the shape changes is lower, sign test",
        **by_seed.estimate(differences),
        "lower in": f"{below} of {len(differences)} seeds",
        "p": lower,
        "verdict": verdict,
    }


def judged(rows: list[Row]) -> Row:
    """Rows 13, 18, 19."""

    def difference(name: str) -> np.ndarray:
        constant, stochastic = (by_seed.column(rows, network, name) for network in NETWORKS)
        return stochastic - constant

    def levels(name: str, factor: float = 1) -> Row:
        return {n: by_seed.estimate(factor * by_seed.column(rows, n, name)) for n in NETWORKS}

    constant, stochastic = (by_seed.column(rows, network, "error") for network in NETWORKS)
    ratio = ratios(rows)
    late = ratio[:, ratio.shape[1] // 2 :]
    row13 = {
        "where the shape changes": sign_test(difference("opening")),
        "elsewhere not larger": by_seed.judge(NOT_LARGER, difference("elsewhere")),
    }
    row19 = {
        "each epoch": by_seed.judge(EACH, late.min(1)),
        "mean": by_seed.judge(MEAN, np.exp(np.log(late).mean(1))),
    }
    return {
        "13": {
            "verdict": by_seed.verdict_of(row13),
            **row13,
            "only there": by_seed.judge(ONLY, difference("elsewhere")),
            "rise where the shape changes": levels("opening"),
            "rise elsewhere": levels("elsewhere"),
        },
        "18": {
            **by_seed.judge(GAIN, stochastic / constant),
            "errors": levels("error", 100),
            "training errors": by_seed.training_errors(rows),
        },
        "19": {"verdict": by_seed.verdict_of(row19), **row19},
    }


def plot(rows: list[Row]) -> style.Figure:
    """Rises by unit, and the ratio of gradients by epoch: each seed thin, the mean thick."""
    fig, ((left, right),) = style.axes_grid(1, 2)
    for i, name in enumerate(NETWORKS):
        rise = np.array([r["rise"] for r in rows if r["network"] == name])
        x = np.arange(rise.shape[1])
        left.plot(x, rise.T, lw=0.6, alpha=0.7, color=style.color(i))
        error = 100 * by_seed.column(rows, name, "error").mean()
        look = {"color": style.color(i), "marker": style.marker(i), "lw": 2.2}
        left.plot(x, rise.mean(0), label=f"{name} depth (error {error:.1f} %)", **look)
        left.set_xticks(x, rows[0]["unit"], rotation=60, ha="right")
    left.set(ylabel="rise of the error (points)", title="one unit deleted")
    ratio = ratios(rows)
    x = np.arange(1, ratio.shape[1] + 1)
    right.plot(x, ratio.T, lw=0.6, alpha=0.7, color=style.color(2))
    right.plot(x, np.exp(np.log(ratio).mean(0)), lw=2.2, color=style.color(2))
    right.axhline(1, lw=1, ls=":", color=style.ink())
    for drop in (0.5, 0.75):
        right.axvline(drop * len(x), lw=1, ls="--", color=style.ink())
    right.set(xlabel="epoch", yscale="log", title="gradient of the first unit: stochastic ÷ constant")
    style.legend_above(fig, left)
    return fig


def run(workdir: Path, options: by_seed.Options) -> Row:
    """Everything; see ``by_seed.run_all``."""
    return by_seed.run_all(
        "stochastic_depth", configs_of(options.data), workdir, by_seed.measured_run(measured), judged, plot,
        options=options,
    )  # fmt: skip


if __name__ == "__main__":
    by_seed.main(run, __doc__)
