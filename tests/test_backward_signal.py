"""The back-propagated signal and its split: against brute force, closed forms, and what is said of it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from matplotlib.figure import Figure
from network_helpers import draw, subject_of

from resjax import models
from resjax.network.losses import cross_entropy
from resjax.studies import moments
from resjax.studies.options import Options
from resjax.studies.signals import backward_signal as study
from resjax.studies.signals.backward_signal import BackwardSignal, backward_signal

SHAPE, CLASSES = (6, 6, 2), 3


def build(**fields):
    config = models.defaults("resnet", **{"stage_sizes": (2, 1), "widths": (3, 4), **fields})
    return models.build(config, image_shape=SHAPE, num_classes=CLASSES)


def examples(n):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n)


@pytest.mark.parametrize(
    ("fields", "train"),
    [
        ({}, True),
        ({"placement": "post", "transition": "projection"}, False),
        pytest.param({"shortcut": "exclusive_gate", "gate_bias": -1.0}, False, marks=pytest.mark.slow),
        ({"unit_dropout": "linear"}, True),
    ],
    ids=["pre", "post", "gates", "stochastic depth"],
)
def test_equals_a_loop_over_the_units(fields, train):
    network = build(**fields)
    variables, (images, labels) = draw(network, SHAPE), examples(5)
    result = backward_signal(network, variables, images, labels, train=train)
    gates = network.unit_dropout.at_test() if network.unit_dropout else np.ones(3)

    def run(unit, x, method):
        part = {c: tree[unit.stack.name] for c, tree in variables.items()}
        part = jax.tree.map(lambda v: v[unit.position], part)
        out = unit.stack.unit.apply(part, x, train, method=method, mutable=["batch_stats"])
        return out[0]

    def whole(unit, x):
        s, f = run(unit, x, "split")
        return run(unit, s + gates[unit.index] * f, "merge")

    @jax.jit
    def by_hand():
        states = [network.run_stem(variables, images, train=train)[0]]
        for unit in network.units:
            states.append(whole(unit, states[-1]))

        def loss(h):
            logits, _ = network.run_head(variables, h, train=train)
            return jnp.mean(cross_entropy(logits, labels))

        total = one = jax.grad(loss)(states[-1])
        found = [(total, one)]
        for unit in network.units[::-1]:
            x = states[unit.index]
            s, f = run(unit, x, "split")
            mask = jax.vjp(lambda z, u=unit: run(u, z, "merge"), s + gates[unit.index] * f)[1]
            total = jax.vjp(lambda x, u=unit: whole(u, x), x)[1](total)[0]
            one = jax.vjp(lambda x, u=unit: run(u, x, "split")[0], x)[1](mask(one)[0])[0]
            found.append((total, one))
        return found[::-1]

    vectors = [(np.float64(c).ravel(), np.float64(d).ravel()) for c, d in by_hand()]
    norms = [[np.linalg.norm(v) for v in (c, d, c - d)] for c, d in vectors]
    for name, expected in zip(("total", "shortcut", "rest"), np.array(norms).T, strict=True):
        np.testing.assert_allclose(getattr(result, name)[0, 0], expected, rtol=2e-4, atol=1e-9)
    shares = [c @ d / (c @ c) for c, d in vectors]
    np.testing.assert_allclose(result.share[0, 0], shares, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", slow_but([0.5, 0.7], 0.5))
def test_constant_scaling_multiplies_the_one_by_the_scale_in_every_unit(scale):
    """He et al. 2016, Eq. 8: the "1" becomes the product of the scales."""
    network = build(stage_sizes=(5,), widths=(3,), shortcut="scale", shortcut_scale=scale)
    result = backward_signal(network, draw(network, SHAPE), *examples(4))
    product = scale ** np.arange(5, -1, -1.0)
    one = result.shortcut[0, 0] / result.total[0, 0, -1]
    # Halving is exact in binary.
    np.testing.assert_allclose(one, product, rtol=0 if scale == 0.5 else 1e-6)
    assert np.all(result.rest[0, 0, :-1] > 0)


def test_with_identities_the_one_is_the_last_units_gradient_and_zero_branches_leave_nothing_else():
    network = build(stage_sizes=(3,), widths=(3,), branch_scale="skipinit", norm=False)
    variables = draw(network, SHAPE)
    start = backward_signal(network, variables, *examples(4))
    np.testing.assert_array_equal(start.shortcut, start.shortcut[..., -1:] + 0 * start.shortcut)
    zero = jax.tree_util.tree_map_with_path(
        lambda path, v: jnp.zeros_like(v) if path[-1].key == "alpha" else v, variables
    )
    result = backward_signal(network, zero, *examples(4))
    np.testing.assert_array_equal(result.rest, 0)
    np.testing.assert_allclose(result.share, 1, rtol=1e-6)
    np.testing.assert_array_equal(result.gain, 1)


def plain_result():
    network = build(shortcut="none")
    return backward_signal(network, draw(network, SHAPE), *examples(9), batch_size=4)


def test_a_plain_network_has_no_one():
    result = plain_result()
    assert not result.residual and result.batch_size == 4
    assert result.total.shape == (1, 2, 4)
    np.testing.assert_array_equal(result.shortcut[..., :-1], 0)
    np.testing.assert_array_equal(result.rest[..., :-1], result.total[..., :-1])
    np.testing.assert_array_equal(result.share[..., :-1], 0)
    np.testing.assert_array_equal(result.share[..., -1], 1)
    back = BackwardSignal.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    np.testing.assert_array_equal(back.total, result.total)
    with pytest.raises(ValueError, match="can be joined"):
        moments.join([result, made(1, 1)])
    with pytest.raises(ValueError, match="no moment"):
        moments.join([])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 0}, "batch_size=0"), ({"max_batches": 0}, "max_batches=0")],
)
def test_bad_sizes_are_refused(options, message):
    network = build()
    with pytest.raises(ValueError, match=message):
        backward_signal(network, draw(network, SHAPE), *examples(3), **options)


def made(first, last, share=0.1, residual=True, steps=(0, 7), places=6):
    """A signal that runs from ``first`` at the first unit to ``last`` at the head."""
    total = np.tile(np.geomspace(first, last, places), (len(steps), 2, 1))
    return BackwardSignal(
        unit=tuple(f"stage1/unit{i + 1}" for i in range(places - 1)),
        step=np.array(steps),
        total=total,
        shortcut=total * np.sqrt(share),
        rest=total * np.sqrt(1 - share),
        cosine=0 * total,
        residual=residual,
        batch_size=4,
        choices={},
    )


def test_plot_and_study():
    network = build()
    variables = draw(network, SHAPE)
    moments = {0: variables, 5: jax.tree.map(lambda v: 1.1 * v, variables)}
    run = subject_of(network, variables, lambda split, most: examples(most), SHAPE, step=5, moments=moments)
    seen = []
    result = study.STUDY.run(run, Options(gradient_batches=2), lambda *a: seen.append(a))
    assert result.total.shape == (2, 2, 4) and list(result.step) == [0, 5]
    assert seen[0] == (0, 4) and seen[-1] == (4, 4)
    figure = study.STUDY.plot({"net": result, "plain": plain_result()})
    assert isinstance(figure, Figure) and len(figure.axes) == 2
    assert len(study.plot({"plain": plain_result()}).axes) == 1
