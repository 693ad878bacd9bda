"""The accuracy that a file states, and the sentence that compares it with the measured error."""

import pytest

from resjax.pretrained.accuracy import compared, stated


@pytest.mark.parametrize(
    ("values", "name", "error"),
    [
        ({"acc": 92.92, "epoch": 198}, "acc", 7.08),
        ({"best_prec1": 0.9291}, "best_prec1", 7.09),
        ({"best_acc1": 76.13, "arch": "resnet50"}, "best_acc1", 23.87),
        ({"best.acc1": 76, "best.acc5": 93.0}, "best.acc1", 24),
        ({"val_metrics.top1": 0.5}, "val_metrics.top1", 50),
        ({"metrics.accuracy/top1": 61.5}, "metrics.accuracy/top1", 38.5),
        ({"valAcc": 61.5, "lr": 0.1}, "valAcc", 38.5),
        ({"bestacc": 61.5}, "bestacc", 38.5),
        ({"best_err": 6.56}, "best_err", 6.56),
        ({"val_error": 0.0656}, "val_error", 6.56),
        ({"prec@1": 90.0, "prec@5": 99.0}, "prec@1", 10),
        # The test set's first, the best of a training last, that of training images never.
        ({"best_acc": 95.0, "val_acc": 94.0, "test_acc": 93.0}, "test_acc", 7),
        ({"best_test_acc": 95.0, "val_acc": 94.0}, "val_acc", 6),
        ({"train_acc": 99.0, "training.accuracy": 99.0, "acc": 92.0}, "acc", 8),
    ],
)
def test_what_a_file_states(values, name, error):
    found = stated(values)
    assert found.name == name and found.error == pytest.approx(error, abs=1e-9)


@pytest.mark.parametrize(
    "values",
    [
        {"epoch": 3, "loss": 0.2, "val_loss": 0.3, "acc_loss": 0.1},
        {"train_acc": 99.0, "train.top1": 99.0, "top5": 99.0, "accuracy_top5": 99.0, "acc5": 99.0},
        {"acc": True, "accuracy": "92.9", "prec1": None, "precision": 16, "error": "none"},
        {"acc": 0.0, "best_acc": -1.0, "accuracy": 5000, "err": float("nan"), "top1": float("inf")},
        {"acc": 10**400, "best_acc": -(10**400), "top1": 1},
        {"place": 5, "accelerator": 1, "terror": 3.0, "topk": 5.0},
    ],
)
def test_other_numbers_state_nothing(values):
    assert stated(values) is None


@pytest.mark.parametrize(
    ("values", "errors", "count", "parts", "absent"),
    [
        ({"acc": 92.92}, 708, 10_000, ["acc = 92.92, an error of 7.08 %: they agree"], []),
        ({"acc": 92.92}, 712, 10_000, ["they agree"], ["assumed"]),
        ({"acc": 0.93}, 708, 10_000, ["acc = 0.93, an error of 7.00 %: they agree"], []),
        ({"acc": 93}, 749, 10_000, ["they agree"], ["assumed"]),
        ({"acc": 0.9}, 1_300, 10_000, ["3.00 points more", "assumed wrongly"], ["agree"]),
        ({"acc": 1.0}, 1_300, 10_000, ["13.00 points more", "assumed wrongly"], ["agree"]),
        (
            {"acc": 92.92},
            751,
            10_000,
            [
                "0.43 points more",
                "assumed wrongly",
                "if they are others, chance explains it (95 %: 7.01 … 8.04 %)",
            ],
            ["agree", "epoch"],
        ),
        (
            {"best_acc": 91.71},
            4370,
            10_000,
            ["35.41 points more", "assumed wrongly", "saved epoch"],
            ["agree", "chance"],
        ),
        ({"val_error": 0.2}, 100, 1_000, ["10.00 points less", "assumed wrongly"], ["chance"]),
    ],
)
def test_it_is_compared_with_the_measured_error(values, errors, count, parts, absent):
    said = compared(stated(values), errors, count)
    assert all(part in said for part in parts), said
    assert not any(part in said for part in absent), said
