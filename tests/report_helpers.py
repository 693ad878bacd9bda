"""Results made by hand, and a small report of them."""

import json
import re

import numpy as np

from resjax.report.write import Report
from resjax.studies.catalogue import GROUPS, STUDIES
from resjax.studies.curves import Curves
from resjax.studies.lesions.lesion import Lesion
from resjax.studies.signals.gradients import Gradients


def deletions(error, intact=0.01, left_out=(), classes=10):
    n = len(error)
    error = np.array(error, float)
    names = tuple(f"stage1/unit{i + 1}" for i in range(n))
    error[[names.index(name) for name in left_out]] = np.nan
    return Lesion(
        unit=names,
        residual=np.ones(n, bool),
        error=error,
        loss=error + 1,
        kl=error / 2,
        agreement=1 - error,
        class_error=None,
        left_out=dict.fromkeys(left_out, "shapes differ"),
        intact_error=intact,
        intact_loss=0.1,
        num_examples=1000,
        num_classes=classes,
        unit_evaluations=n,
        choices={"BatchNorm": "running statistics"},
    )


def curve(train_error, eval_error, residual=True, examples=1000):
    return Curves(
        step=np.array([10, 20]),
        train_loss=np.array([2.0, 1.0]),
        train_error=np.array([0.8, train_error]),
        eval_step=np.array([0, 20]),
        eval_loss=np.array([2.3, 1.0]),
        eval_error=np.array([0.9, eval_error]),
        split="test",
        num_examples=examples,
        num_classes=10,
        total_steps=20,
        residual=residual,
        choices={},
    )


def norms(first, last, steps=(0,), layers=8):
    one = np.geomspace(first, last, layers)
    return Gradients(
        layer=tuple(f"stage1/unit{i + 1}/conv1/kernel" for i in range(layers)),
        step=np.array(steps),
        norm=np.tile(one, (len(steps), 3, 1)),
        loss=np.ones((len(steps), 3)),
        parameter=np.full((len(steps), layers), 2.0),
        update=np.tile(0.01 * one, (len(steps), 3, 1)),
        unit=("stage1/unit1", "stage1/unit2"),
        activation=np.tile([5.0, 6.0], (len(steps), 3, 1)),
        residual=True,
        batch_size=4,
        choices={},
    )


SPARE = deletions([0.4, *[0.012] * 9])
LABELS = ("deep", "<b>flat</b>")
SHOWN = ("curves", "lesion", "gradients")


def report_of_two():
    """Three studies of two networks, one of them with a name that looks like markup."""
    results = {
        "curves": (curve(0, 0.01), curve(0.3, 0.31)),
        "lesion": (SPARE, deletions([0.9] * 10, left_out=["stage1/unit3"])),
        "gradients": (norms(1, 1.2, steps=(0, 20)), norms(1e-4, 1, steps=(0, 20))),
    }
    return Report(
        title="deep & <b>flat</b>",
        results=[(STUDIES[name], dict(zip(LABELS, pair, strict=True))) for name, pair in results.items()],
        runs={label: {"network": f"of {label}"} for label in LABELS},
        configs={label: {"config": {"seed": 3}, "starts": [], "step": 20} for label in LABELS},
        groups=GROUPS,
        left_out=["lesion, of another: it has no unit."],
        failed=[],
        made={"made": "today, commit 0123abcd"},
        provenance={"commit": "0123abcd"},
        command={name: f"python -m resjax.analyze --studies={name}" for name in SHOWN},
    )


def data_of(text):
    """What the first figure with units in this part of a page says to the page's script."""
    return json.loads(re.search(r'class="units">(.*?)</script>', text)[1])
