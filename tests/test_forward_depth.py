"""The depth of the forward pass: what is measured, counted, judged and refused."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from network_helpers import draw, logits_of

from resjax import models
from resjax.studies.lesions.pruning import pruning
from resjax.studies.paths.depths import CUTS, Depth, depth_of, paired
from resjax.studies.paths.forward_depth import STUDY, ForwardDepth, forward_depth, verdict
from resjax.studies.paths.truncation import truncated_logits

SHAPE, CLASSES, BATCH = (6, 6, 1), 3, 4


@functools.cache
def network_of(**fields):
    config = models.defaults("resnet", stage_sizes=(2, 1), widths=(4, 6), **fields)
    network = models.build(config, image_shape=SHAPE, num_classes=CLASSES)
    return network, draw(network, SHAPE)


def examples(n=10, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n)


@functools.cache
def measured(placement="pre"):
    given = network_of(placement=placement)
    return forward_depth(*given, *examples(), choose_on=examples(8, 2), draws=2, batch_size=BATCH)


def softmax(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_every_number_is_that_of_its_logits(placement):
    network, variables = network_of(placement=placement)
    x, y = examples()
    result = measured(placement)
    order = pruning(network, variables, *examples(8, 2), choose_on=examples(8, 2), batch_size=BATCH).order
    np.testing.assert_array_equal(result.dropped, order)
    intact = np.asarray(logits_of(network, variables, x), np.float64)
    cut = [
        np.asarray(truncated_logits(network, variables, x, linear=way), np.float64) for way in (False, True)
    ]
    gates = np.ones((4, 3), np.float32)
    for k in range(4):
        gates[k, order[: 3 - k]] = 0
    cut.append(np.stack([logits_of(network, variables, x, gates=g) for g in gates]).astype(np.float64))
    p = softmax(intact)
    for i, logits in enumerate(cut):
        wrong = logits.argmax(-1) != y
        np.testing.assert_allclose(result.error[i], wrong.mean(-1))
        np.testing.assert_allclose(result.lost[i], (wrong & (intact.argmax(-1) == y)).mean(-1))
        np.testing.assert_allclose(result.agreement[i], (logits.argmax(-1) == intact.argmax(-1)).mean(-1))
        kl = np.sum(p * np.log(p / softmax(logits)), -1)
        np.testing.assert_allclose(result.kl[i], kl.mean(-1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(result.kl_error[i], kl.std(-1, ddof=1) / 10**0.5, rtol=1e-3, atol=1e-5)
        a, b = (v - v.mean(-1, keepdims=True) for v in (intact, logits))
        cosine = np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        np.testing.assert_allclose(result.cosine[i], cosine.mean(-1), rtol=1e-4)
    assert (result.agreement[:, -1] == 1).all()
    assert np.abs(result.kl[:, -1]).max() < 1e-5
    assert result.most == 3
    assert set(result.random_number) == {1, 2}


@pytest.mark.parametrize("linear", [False, True])
def test_linearized_branches_are_convolutions(linear):
    """Without ``transposed_twice``, the cut takes twice as long."""
    cut = functools.partial(truncated_logits, *network_of(placement="pre"), linear=linear)
    assert ("linear_call" in str(jax.make_jaxpr(cut)(examples()[0]))) == linear


@pytest.mark.slow
def test_fewer_rounds_leave_out_fewer_units():
    given = network_of(placement="pre")
    less = forward_depth(
        *given, *examples(), choose_on=examples(8, 2), max_deleted=1, draws=2, batch_size=BATCH
    )
    assert np.isnan(less.error[2, :2]).all()
    np.testing.assert_array_equal(less.error[2, 2:], measured().error[2, 2:])
    np.testing.assert_array_equal(less.error[:2], measured().error[:2])
    assert depth_of(less, "units").high <= 3


def test_a_network_without_shortcuts_is_refused():
    with pytest.raises(ValueError, match="no unit of this network has a shortcut"):
        forward_depth(*network_of(shortcut="none"), *examples(), choose_on=examples())


def test_json_keeps_everything():
    result = measured()
    back = ForwardDepth.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    for field in dataclasses.fields(result):
        np.testing.assert_equal(getattr(back, field.name), getattr(result, field.name))


def made(error, lost=None, agreement=None, intact=0.05, images=1000):
    """A result with the same ``error`` [kept] in every cut; without ``lost``, no image is won."""
    error = np.array(error, float)
    lost = error - intact if lost is None else np.array(lost, float)
    agreement = 1 - np.abs(error - intact) if agreement is None else np.array(agreement, float)
    three = {
        name: np.stack([values] * len(CUTS))
        for name, values in {
            "error": error,
            "lost": lost,
            "agreement": agreement,
            **dict.fromkeys(("kl", "kl_error", "cosine", "cosine_error"), error),
        }.items()
    }
    return ForwardDepth(
        **three,
        unit=tuple(f"u{i}" for i in range(len(error) - 1)),
        dropped=np.arange(len(error) - 1),
        random_number=np.array([1, 1]),
        random_error=np.array([0.5, 0.6]),
        random_kl=np.array([0.5, 0.6]),
        num_choice_examples=10,
        intact_error=intact,
        intact_loss=0.1,
        num_examples=images,
        num_classes=10,
    )


def test_the_depth_is_where_the_error_stays():
    # It dips within a point at 1, leaves again at 2, and stays from 3 on.
    assert depth_of(made([0.9, 0.06, 0.2, 0.06, 0.05, 0.05], images=10**7)).value == 3
    assert depth_of(made([0.05] * 6, images=10**7)) == Depth(0, 0, 0)
    assert depth_of(made([0.9, 0.9, 0.9, 0.05])).value == 3
    # A rise of just one point counts as none; the interval then reaches one further.
    at = depth_of(made([0.9, 0.5, 0.06, 0.05, 0.05, 0.05]))
    assert at == Depth(2, 2, 3)
    assert str(at) == "2 (2 to 3)"
    # All n branches are the network itself, whatever few images say.
    assert depth_of(made([0.9, 0.9, 0.05], images=10)).high == 2


def test_images_lost_and_won_widen_the_interval():
    still = made([0.9, 0.055, 0.05, 0.05], images=1000)
    swapped = made([0.9, 0.055, 0.05, 0.05], lost=[0.85, 0.055, 0, 0], images=1000)
    assert depth_of(still).high == 1
    assert depth_of(swapped).high == 2


def test_paired_intervals_by_hand_and_by_coverage():
    low, high = paired(np.array(0.03), np.array(0.01), 998)
    more, less = 30.44 / 1000, 10.48 / 1000
    half = 1.959964 * np.sqrt((more + less - (more - less) ** 2) / 1000)
    np.testing.assert_allclose([low, high], [more - less - half, more - less + half], rtol=1e-6)
    rng = np.random.default_rng(0)
    lost, won, _ = rng.multinomial(500, [0.03, 0.02, 0.95], 2000).T / 500
    low, high = paired(lost, won, 500)
    assert 0.93 < np.mean((low <= 0.01) & (high >= 0.01)) < 0.98


def test_depth_by_agreement():
    result = made([0.9] * 5, agreement=[0.1, 0.985, 0.992, 0.98, 1], images=10**7)
    assert depth_of(result, by="agreement") == Depth(4, 4, 4)
    few = made([0.9] * 5, agreement=[0.1, 0.2, 0.99, 0.995, 1], images=200)
    assert depth_of(few, by="agreement") == Depth(2, 2, 4)


@pytest.mark.parametrize(
    ("error", "images", "expected"),
    [
        ([0.9, 0.2, 0.05, 0.05, 0.05, 0.05, 0.05], 10**6, "shallow"),
        ([0.9, 0.2, 0.08, 0.05, 0.05, 0.05, 0.05], 10**6, "deep"),
        ([0.9, 0.2, 0.058, 0.05, 0.05, 0.05, 0.05], 100, "undecided"),
    ],
)
def test_verdicts_at_a_third_of_the_units(error, images, expected):
    assert verdict(made(error, images=images)) == expected


def test_an_untrained_network_has_no_verdict():
    assert verdict(made([0.9, 0.9, 0.88], intact=0.88)) == "untrained"


def test_the_study_shows_the_network_at_initialization():
    result = dataclasses.replace(measured(), initial=measured("post"))
    assert any("at initialization" in point for point in STUDY.points("a", result))
    assert not any("at initialization" in point for point in STUDY.points("a", measured()))
    right = STUDY.plot({"a": result}).axes[1]
    np.testing.assert_allclose(right.lines[0].get_ydata(), 100 * result.initial.agreement[0])
    np.testing.assert_allclose(right.lines[1].get_ydata(), 100 * result.agreement[0])


@pytest.mark.slow
def test_no_program_is_compiled_for_each_unit():
    deep = models.defaults("resnet", stage_sizes=(6,), widths=(4,))
    network = models.build(deep, image_shape=SHAPE, num_classes=CLASSES)
    text = (
        jax.jit(lambda v, x: truncated_logits(network, v, x, linear=False))
        .lower(draw(network, SHAPE), examples(2)[0])
        .as_text()
    )
    shallow = models.build({**deep, "stage_sizes": (3,)}, image_shape=SHAPE, num_classes=CLASSES)
    other = (
        jax.jit(lambda v, x: truncated_logits(shallow, v, x, linear=False))
        .lower(draw(shallow, SHAPE), examples(2)[0])
        .as_text()
    )
    assert text.count("stablehlo.convolution") == other.count("stablehlo.convolution")
