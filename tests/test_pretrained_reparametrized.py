"""Weights that a file holds as several tensors become those that the network computes with."""

import numpy as np
import pytest

from resjax.pretrained.finding.reparametrized import effective

RNG = np.random.default_rng(3)
WEIGHT = RNG.normal(size=(4, 3, 2, 2)).astype(np.float32)
MASK = (RNG.random(WEIGHT.shape) < 0.5).astype(np.float32)
BIAS = np.array([1.0, -2.0, 3.0, 4.0], np.float32)
# Singular vectors of W as a matrix [4, 12]: uᵀ W v is its largest singular value.
LEFT, SINGULAR, RIGHT = np.linalg.svd(WEIGHT.reshape(4, 12).astype(np.float64))
U, V = LEFT[:, 0].astype(np.float32), RIGHT[0].astype(np.float32)


def by_rows(weight, lengths):
    """``weight`` with the length of each output's row."""
    rows = [row / np.sqrt((row.astype(np.float64) ** 2).sum()) * n for row, n in zip(weight, lengths)]  # noqa: B905
    return np.stack(rows)


LENGTHS = np.array([2.0, 0.5, 1.0, 3.0], np.float32)
CASES = {
    "mask": ({"conv.weight_orig": WEIGHT, "conv.weight_mask": MASK}, "conv.weight", WEIGHT * MASK),
    "bias": (
        {"fc.bias_mask": np.array([True, False, True, False]), "fc.bias_orig": BIAS},
        "fc.bias",
        [1.0, 0.0, 3.0, 0.0],
    ),
    "mask without a module": ({"weight_orig": WEIGHT, "weight_mask": MASK}, "weight", WEIGHT * MASK),
    "weight norm": (
        {"a.b.weight_g": LENGTHS.reshape(4, 1, 1, 1), "a.b.weight_v": WEIGHT},
        "a.b.weight",
        by_rows(WEIGHT, LENGTHS),
    ),
    "weight norm of inputs": (
        {"fc.weight_g": LENGTHS[:3].reshape(1, 3), "fc.weight_v": WEIGHT[:, :, 0, 0]},
        "fc.weight",
        by_rows(WEIGHT[:, :, 0, 0].T, LENGTHS[:3]).T,
    ),
    "weight norm of the whole": (
        {"fc.weight_g": np.float32(2), "fc.weight_v": np.array([[3.0, 4.0]], np.float32)},
        "fc.weight",
        [[1.2, 1.6]],
    ),
    "newer weight norm": (
        {
            "conv.parametrizations.weight.original0": LENGTHS.reshape(4, 1, 1, 1),
            "conv.parametrizations.weight.original1": WEIGHT,
        },
        "conv.weight",
        by_rows(WEIGHT, LENGTHS),
    ),
    "spectral norm": (
        {"conv.weight_orig": WEIGHT, "conv.weight_u": U, "conv.weight_v": V},
        "conv.weight",
        WEIGHT / SINGULAR[0],
    ),
    "newer spectral norm": (
        {
            "conv.parametrizations.weight.original": WEIGHT,
            "conv.parametrizations.weight.0._u": U,
            "conv.parametrizations.weight.0._v": V,
        },
        "conv.weight",
        WEIGHT / SINGULAR[0],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_weight_is_computed_from_its_parts(case):
    parts, name, wanted = CASES[case]
    found = effective({"bn.weight": BIAS, **parts, "conv.bias": BIAS[:2]})
    assert set(found) == {"bn.weight", name, "conv.bias"}
    np.testing.assert_allclose(found[name], wanted, rtol=1e-5)
    assert found[name].dtype == np.float32
    assert np.array_equal(found["bn.weight"], BIAS) and np.array_equal(found["conv.bias"], BIAS[:2])


def test_half_precision_is_computed_in_float32():
    parts = {"w_g": np.full((4, 1, 1, 1), 3, np.float16), "w_v": WEIGHT.astype(np.float16)}
    found = effective(parts)["w"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.sqrt((found**2).sum((1, 2, 3))), 3, rtol=1e-6)


def test_names_that_only_end_alike_are_left_alone():
    tensors = {"conv.weight_orig": WEIGHT, "a.weight_v": WEIGHT, "b.weight_g": BIAS, "mask": MASK}
    assert effective(tensors) is tensors


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"conv.parametrizations.weight.original": WEIGHT, "conv.parametrizations.weight.0.base": WEIGHT},
            r"conv\.parametrizations\.weight\.0\.base, .* of conv\.weight is unknown.*\(layer, 'weight'\)",
        ),
        (
            {"fc.parametrizations.bias.original0": BIAS, "fc.parametrizations.bias.original1": WEIGHT},
            r"of fc\.bias is unknown",
        ),
        (
            {"conv.weight": WEIGHT, "conv.weight_orig": WEIGHT, "conv.weight_mask": MASK},
            "both conv.weight and its parts conv.weight_orig, conv.weight_mask",
        ),
        # NumPy would stretch these to the shape of the weight.
        ({"c.weight_orig": WEIGHT, "c.weight_mask": MASK[0, 0, 0]}, r"c\.weight_mask \(2,\) do not fit"),
        (
            {"c.weight_orig": WEIGHT, "c.weight_mask": MASK[:, :1]},
            r"\(4, 1, 2, 2\) do not fit",
        ),
        ({"c.weight_g": BIAS[:2], "c.weight_v": WEIGHT}, r"c\.weight_g \(2,\), c\.weight_v .* do not fit"),
        ({"c.weight_g": WEIGHT, "c.weight_v": WEIGHT}, "do not fit"),
        (
            {"c.weight_orig": WEIGHT, "c.weight_u": np.ones(2), "c.weight_v": np.ones(24)},
            r"u \(2,\)",
        ),
    ],
)
def test_what_can_not_be_computed_is_refused_by_name(tensors, message):
    with pytest.raises(ValueError, match=message):
        dict(effective(tensors))


def test_a_batchnorm_without_weights_of_its_own_multiplies_by_1_and_adds_0():
    statistics = {f"a.{bn}.running_{leaf}": BIAS for bn in ("bn1", "bn2") for leaf in ("mean", "var")}
    found = effective({**statistics, "a.bn2.weight": BIAS, "running_mean": BIAS, "running_var": BIAS})
    assert set(found) - set(statistics) == {
        "a.bn1.weight", "a.bn1.bias", "a.bn2.weight", "running_mean", "running_var"
    }  # fmt: skip
    np.testing.assert_array_equal(found["a.bn1.weight"], np.ones(4))
    np.testing.assert_array_equal(found["a.bn1.bias"], np.zeros(4))
