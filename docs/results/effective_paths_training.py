"""Row 11 in kind: training on effective paths only is as good (Veit et al. 2016, §5).

    python docs/results/effective_paths_training.py WORKDIR [DATA] [--seeds=N] [--smoke]

*Protocol.* Each mini-batch trains 4 of the 9 units, drawn anew, as the paper trains 23 of 54; at test all
units run, with the factor 4/9 on their branches and without it, since the paper does not say. Pre-activation,
depth 20 instead of 110; otherwise as ``by_seed.in_kind`` says. Where ``docs/results/placements.py`` has the
same WORKDIR, the network that trains all units is not trained again.

*Criterion, fixed before the training.* docs/results/claims.md allows 0.5 points against the 6.10 % of the
full network, 8.2 % of its error. So the error ÷ the full network's lies within 0.918 and 1.082: Student's t
interval over seeds of the ratio lies within that. The form with the factor is judged, and the other shown
beside it.
"""

from __future__ import annotations

from pathlib import Path

import by_seed
from by_seed import CHANCE, Criterion, Row

from resjax.studies import style

ACTIVE = {"model.units_active": 4}
# Network → its name in launch/reproduce.py, and what differs.
NETWORKS = {
    "pre": ("veit110", {}),
    "effective": ("effective110", ACTIVE),
    "effective_unscaled": ("effective110_unscaled", ACTIVE),
}
AS_GOOD = Criterion("error ÷ the full network's within 0.918 and 1.082", 0.918, 1.082)


def configs_of(data: str) -> by_seed.Configs:
    """seed → the configuration of each network."""
    return lambda seed: {
        name: by_seed.in_kind(label, seed, data, changes=changes)
        for name, (label, changes) in NETWORKS.items()
    }


def judged(rows: list[Row]) -> Row:
    """Row 11."""
    errors = {name: by_seed.column(rows, name, "error") for name in NETWORKS}
    criteria = {
        name: by_seed.judge(AS_GOOD, errors[name] / errors["pre"]) for name in NETWORKS if name != "pre"
    }
    return {
        "11": {
            "verdict": criteria["effective"]["verdict"],
            "errors": {name: by_seed.estimate(100 * e) for name, e in errors.items()},
            "training errors": by_seed.training_errors(rows),
            **criteria,
        }
    }


def plot(rows: list[Row]) -> style.Figure:
    """The errors of the three networks."""
    fig = by_seed.draw_errors(rows)
    fig.axes[0].set_yticks(range(3), ["all 9 units", "4 of 9, × 4/9 at test", "4 of 9, not scaled"])
    return fig


def run(workdir: Path, options: by_seed.Options) -> Row:
    """Everything; see ``by_seed.run_all``."""
    return by_seed.run_all(
        "effective_paths_training", configs_of(options.data), workdir, by_seed.errors, judged, plot,
        options=options, diverged={"train_error": CHANCE, "error": CHANCE},
    )  # fmt: skip


if __name__ == "__main__":
    by_seed.main(run, __doc__)
