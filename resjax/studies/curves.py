"""Training curves: how fast a network learns, and whether a deeper one can be trained at all.

*Question.* He et al. (2015, Fig. 6) train plain and residual networks of equal depth by the same recipe.
Beyond some depth the plain ones get worse, and already on the *training* data: they are not overfitted but
hard to train. So training and test error belong in one picture.

*Reading it.* The training error is the mean over the batches since the last record, measured before each
update and on augmented images; the test error is that of one state on whole images. A single seed shows no
more than a single seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from resjax.studies import style
from resjax.studies.refusal import Refusal
from resjax.studies.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Curves(Result):
    """Loss and error over training.

    Attributes:
      step: int [point]; train_loss, train_error: [point], means since the point before.
      eval_step: int [evaluation]; eval_loss, eval_error: [evaluation].
      split: what the evaluations are on, 'test' or 'holdout'.
      num_examples: of that split.
      num_classes: of the data.
      total_steps: of the whole run, larger than the last step where a run goes on.
      residual: whether some unit has a shortcut.
      choices: of this analysis.
    """

    AXES: ClassVar = {
        **dict.fromkeys(("step", "train_loss", "train_error"), ("point",)),
        **dict.fromkeys(("eval_step", "eval_loss", "eval_error"), ("evaluation",)),
    }

    step: np.ndarray
    train_loss: np.ndarray
    train_error: np.ndarray
    eval_step: np.ndarray
    eval_loss: np.ndarray
    eval_error: np.ndarray
    split: str
    num_examples: int
    num_classes: int
    total_steps: int
    residual: bool
    choices: dict[str, Any]


def training_curves(
    records: Sequence[Mapping[str, Any]],
    *,
    split: str,
    num_examples: int,
    num_classes: int,
    total_steps: int,
    residual: bool,
) -> Curves:
    """Sorts the records of ``metrics.jsonl`` into curves; the arguments are the fields of ``Curves``.

    Raises:
      ValueError: the records hold no training loss or no evaluation.
    """
    training = [r for r in records if "loss" in r]
    evaluations = [r for r in records if f"{split}_error" in r]
    if not training or not evaluations:
        raise Refusal(
            f"metrics.jsonl has {len(training)} training records and {len(evaluations)} evaluations; "
            "curves need one of each"
        )

    def column(rows: list[Mapping[str, Any]], name: str) -> np.ndarray:
        return np.array([row[name] for row in rows])

    return Curves(
        step=column(training, "step"),
        train_loss=column(training, "loss"),
        train_error=column(training, "error"),
        eval_step=column(evaluations, "step"),
        eval_loss=column(evaluations, f"{split}_loss"),
        eval_error=column(evaluations, f"{split}_error"),
        split=split,
        num_examples=num_examples,
        num_classes=num_classes,
        total_steps=total_steps,
        residual=residual,
        choices={"training error": "mean since the last record, before each update, augmented"},
    )


def plot(results: Curves | Mapping[str, Curves]) -> Figure:
    """Loss and error over steps, side by side: training thin and dashed, evaluation with markers."""
    named = {"": results} if isinstance(results, Curves) else dict(results)
    narrow = style.is_narrow()
    fig, grid = style.axes_grid(2 if narrow else 1, 1 if narrow else 2, sharex=True)
    if narrow:
        fig.set_figheight(1.5 * fig.get_figheight())
    axes = [ax for row in grid for ax in row]
    for i, (label, r) in enumerate(named.items()):
        look: dict[str, Any] = {"color": style.color(i)}
        for ax, train, evaluation, factor in (
            (axes[0], r.train_loss, r.eval_loss, 1),
            (axes[1], r.train_error, r.eval_error, 100),
        ):
            name = f"{label}, {r.split}".strip(", ")
            ax.plot(r.eval_step, factor * evaluation, f"-{style.marker(i)}", label=name, **look)
            name = f"{label}, training".strip(", ")
            ax.plot(r.step, factor * train, "--", lw=1.1, label=name, **look)
    axes[0].set(ylabel="loss", yscale="log")
    axes[1].set(ylabel="error (%)", ylim=(-3, 104))
    axes[-1].set(xlabel="step")
    if not narrow:
        axes[0].set(xlabel="step")
    style.legend_above(fig, axes[0])
    return fig
