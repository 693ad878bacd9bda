"""Row 16 in kind: shortcuts other than the identity are worse (He et al. 2016, Table 1).

    python docs/results/shortcuts.py WORKDIR [DATA] [--seeds=N] [--smoke]

*Protocol.* The ten networks of ``launch/reproduce.py shortcuts`` (the eight of the table, gates with two
biases), post-activation, at depth 20 instead of 110; otherwise as ``by_seed.in_kind`` says.

*Criteria, fixed before the training.* (a) *Worse*: the error of each alteration ÷ the original's is above 1.
(b) *Fail*: the paper calls an error above 20 % a failure, 3.0 times the original's 6.61 %. So the four
networks that fail there (shortcut × 0 and × 0.5, exclusive gate with bias 0, dropout) have at least 3.0
times the original's error here. (c) *Order*: the rank correlation of the ten errors with the paper's,
failures tied, is at least 0.5. Each is judged by Student's t interval over seeds of that number. The paper's
networks have 54 units, these have 9: what multiplies over units has a weaker effect here.
"""

from __future__ import annotations

from pathlib import Path

import by_seed
import numpy as np
from by_seed import CHANCE, Criterion, Row

from resjax.studies import style
from resjax.studies.ranks import spearman

FAIL = 100.0
# Error in the paper's Table 1, in percent; its failures have no number, and come last.
PAPER = {
    "original": 6.61,
    "scale_0_1": FAIL,
    "scale_half_1": FAIL,
    "scale_half_half": 12.35,
    "exclusive_gate_6": 8.70,
    "exclusive_gate_0": FAIL,
    "shortcut_gate_6": 6.91,
    "shortcut_gate_0": 12.86,
    "projection": 12.22,
    "dropout": FAIL,
}
TIMES = 3.0
TICKS = (1, 2, 5, 10, 20, 30, 50, 90)
LABELS = (
    "original", "shortcut × 0", "shortcut × 0.5", "both × 0.5", "exclusive gate, −6", "exclusive gate, 0",
    "shortcut gate, −6", "shortcut gate, 0", "1×1 convolution", "dropout",
)  # fmt: skip
WORSE = Criterion("error ÷ the original's > 1", least=1)
FAILS = Criterion(f"error ÷ the original's ≥ {TIMES:g}", least=TIMES)
ORDER = Criterion("rank correlation with the paper's errors ≥ 0.5", least=0.5)


def configs_of(data: str) -> by_seed.Configs:
    """seed → the configuration of each network."""
    return lambda seed: {name: by_seed.in_kind(name, seed, data) for name in PAPER}


def judged(rows: list[Row]) -> Row:
    """Row 16."""
    errors = {name: by_seed.column(rows, name, "error") for name in PAPER}
    ratios = {name: e / errors["original"] for name, e in errors.items() if name != "original"}
    criteria = {f"{name}: worse": by_seed.judge(WORSE, ratio) for name, ratio in ratios.items()}
    for name, ratio in ratios.items():
        if PAPER[name] == FAIL:
            criteria[f"{name}: fails"] = by_seed.judge(FAILS, ratio)
    table = np.array(list(errors.values()))
    ranks = [spearman(np.array(list(PAPER.values())), column) for column in table.T]
    criteria["order"] = by_seed.judge(ORDER, ranks)
    return {
        "16": {
            "verdict": by_seed.verdict_of(criteria),
            "errors": {name: by_seed.estimate(100 * e) for name, e in errors.items()},
            "training errors": by_seed.training_errors(rows),
            **criteria,
        }
    }


def plot(rows: list[Row]) -> style.Figure:
    """The errors of the ten networks."""
    paper = ["fail" if error == FAIL else f"{error:.2f} %" for error in PAPER.values()]
    fig = by_seed.draw_errors(rows, paper)
    for ax in fig.axes:
        ax.set_xscale("log")
        ax.set_xticks(TICKS, [str(tick) for tick in TICKS])
        ax.minorticks_off()
    fig.axes[0].set_yticks(range(len(LABELS)), LABELS)
    fig.axes[0].set_xlim(1, 100)
    fig.axes[1].set_xlim(18, 100)
    return fig


def run(workdir: Path, options: by_seed.Options) -> Row:
    """Everything; see ``by_seed.run_all``."""
    return by_seed.run_all(
        "shortcuts", configs_of(options.data), workdir, by_seed.errors, judged, plot,
        options=options, diverged={"train_error": CHANCE, "error": CHANCE},
    )  # fmt: skip


if __name__ == "__main__":
    by_seed.main(run, __doc__)
