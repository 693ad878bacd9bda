"""Row 17 in kind: full pre-activation is best (He et al. 2016, Table 2).

    python docs/results/placements.py WORKDIR [DATA] [--seeds=N] [--smoke]

*Protocol.* The five placements of BatchNorm and ReLU (``resjax.models.residual``) at depth 20 instead of 110;
otherwise as ``by_seed.in_kind`` says. Where ``docs/results/shortcuts.py`` has the same WORKDIR, the original
network is not trained again.

*Criteria, fixed before the training.* docs/results/claims.md allows 0.2 points for full pre-activation
against the original's 6.61 %, and asks for 0.5 points more with BatchNorm after or ReLU before the sum. Those
are 3.0 and 7.6 % of the original's error. So the error of full pre-activation ÷ the original's is at most
1.03, and those of the two others are at least 1.076. Each is judged by Student's t interval over seeds of
the ratio.
"""

from __future__ import annotations

from pathlib import Path

import by_seed
from by_seed import CHANCE, Criterion, Row

from resjax.studies import style

# Network → its name in launch/reproduce.py, its error in the paper's Table 2 (percent).
NETWORKS = {
    "original": ("original", 6.61),
    "bn_after_add": ("bn_after_add", 8.17),
    "relu_before_add": ("relu_before_add", 7.84),
    "relu_pre": ("relu_pre", 6.71),
    "pre": ("veit110", 6.37),
}
AS_GOOD = Criterion("error ÷ the original's ≤ 1.03", most=1.03)
WORSE = Criterion("error ÷ the original's ≥ 1.076", least=1.076)


def configs_of(data: str) -> by_seed.Configs:
    """seed → the configuration of each network."""
    return lambda seed: {name: by_seed.in_kind(label, seed, data) for name, (label, _) in NETWORKS.items()}


def judged(rows: list[Row]) -> Row:
    """Row 17."""
    errors = {name: by_seed.column(rows, name, "error") for name in NETWORKS}
    ratios = {name: e / errors["original"] for name, e in errors.items()}
    criteria = {
        "pre": by_seed.judge(AS_GOOD, ratios["pre"]),
        "bn_after_add": by_seed.judge(WORSE, ratios["bn_after_add"]),
        "relu_before_add": by_seed.judge(WORSE, ratios["relu_before_add"]),
    }
    return {
        "17": {
            "verdict": by_seed.verdict_of(criteria),
            "errors": {name: by_seed.estimate(100 * e) for name, e in errors.items()},
            "training errors": by_seed.training_errors(rows),
            "relu_pre ÷ original": by_seed.estimate(ratios["relu_pre"]),
            **criteria,
        }
    }


def plot(rows: list[Row]) -> style.Figure:
    """The errors of the five networks."""
    return by_seed.draw_errors(rows, [f"{paper:.2f} %" for _, paper in NETWORKS.values()])


def run(workdir: Path, options: by_seed.Options) -> Row:
    """Everything; see ``by_seed.run_all``."""
    return by_seed.run_all(
        "placements", configs_of(options.data), workdir, by_seed.errors, judged, plot,
        options=options, diverged={"train_error": CHANCE, "error": CHANCE},
    )  # fmt: skip


if __name__ == "__main__":
    by_seed.main(run, __doc__)
