"""Norms by layer: of any tree, and of gradients."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure
from scipy import stats

from resjax import models
from resjax.network import Network
from resjax.network.losses import cross_entropy
from resjax.network.norms import flatten_norms, layer_norms
from resjax.studies import moments
from resjax.studies.signals import gradients as study
from resjax.studies.signals.gradients import Gradients, gradients

SHAPE, CLASSES = (8, 8, 1), 4
SMALL = {"stage_sizes": (3, 1), "widths": (4, 8)}


@pytest.fixture(scope="module")
def network():
    config = models.defaults("resnet", **SMALL)
    return models.build(config, image_shape=SHAPE, num_classes=CLASSES)


@pytest.fixture(scope="module")
def variables(network):
    # Random numbers of the right shapes: quicker than compiling the initialization.
    shapes = jax.eval_shape(lambda k: network.init(k, SHAPE), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda v: 0.2 + 0.3 * rng.random(v.shape, v.dtype), shapes)


def examples(n):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n)


def test_layer_norms_of_every_leaf(network, variables):
    params = variables["params"]
    norms = jax.jit(lambda tree: layer_norms(network, tree))(params)
    assert norms["stem/conv/kernel"].shape == ()
    assert norms["stage1/conv1/kernel"].shape == (2,)  # the first unit stands alone
    np.testing.assert_allclose(
        norms["head/classifier/kernel"],
        np.linalg.norm(params["head"]["classifier"]["kernel"]),
        rtol=1e-6,
    )
    kernels = np.asarray(params["stage1"]["conv2"]["kernel"])
    for i in range(2):
        np.testing.assert_allclose(
            norms["stage1/conv2/kernel"][i], np.sqrt((kernels[i] ** 2).sum()), rtol=1e-6
        )
    total = np.sqrt(sum(np.sum(np.square(norm)) for norm in norms.values()))
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    np.testing.assert_allclose(total, np.linalg.norm(flat), rtol=1e-6)


def test_half_precision_is_summed_in_float32(network):
    # In bfloat16, adding 1 to 256 changes nothing.
    tree = {"stem": {"kernel": jnp.ones((100, 100), jnp.bfloat16)}}
    assert layer_norms(network, tree)["stem/kernel"] == 100


def test_unknown_part_is_refused(network):
    with pytest.raises(ValueError, match="'stage9'"):
        layer_norms(network, {"stage9": {"kernel": jnp.ones(3)}})


def test_flat_norms_run_from_first_to_last(network, variables):
    flat = flatten_norms(network, layer_norms(network, variables["params"]), SHAPE)
    kernels = [name for name, _ in flat if name.endswith("kernel")]
    assert kernels == [
        "stem/conv/kernel",
        *(f"stage1/unit{i}/conv{j}/kernel" for i in (1, 2, 3) for j in (1, 2)),
        *(f"stage2/unit1/conv{j}/kernel" for j in (1, 2)),
        "head/classifier/kernel",
    ]
    third = np.linalg.norm(variables["params"]["stage1"]["conv1"]["kernel"][1])
    np.testing.assert_allclose(dict(flat)["stage1/unit3/conv1/kernel"], third, rtol=1e-6)


class Head(nn.Module):
    """Two layers whose names do not sort in the order in which they run."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(3, name="last_but_one")(x.reshape(len(x), -1))
        return nn.Dense(CLASSES, name="classifier")(x)


def test_layers_come_in_the_order_in_which_they_run(network):
    other = Network(network.stem, network.stacks, Head())
    shapes = jax.eval_shape(lambda k: other.init(k, SHAPE), jax.random.key(0))
    ones = jax.tree.map(lambda v: np.ones(v.shape, v.dtype), shapes["params"])
    flat = flatten_norms(other, layer_norms(other, ones), SHAPE)
    heads = [name for name, _ in flat if name.startswith("head") and name.endswith("kernel")]
    assert heads == ["head/last_but_one/kernel", "head/classifier/kernel"]


@pytest.mark.parametrize("train", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_gradients_are_those_of_each_batch(network, variables, train):
    images, labels = examples(11)
    result = gradients(network, variables, images, labels, train=train, batch_size=4, step=3)
    assert result.norm.shape == (1, 2, len(result.layer))  # the last 3 examples fill no batch
    assert result.loss.shape == (1, 2)
    assert list(result.step) == [3]
    assert result.residual

    @jax.jit
    @jax.value_and_grad
    def value_and_grad(params, images, labels):
        out = network.apply({**variables, "params": params}, images, train=train)
        return cross_entropy(out.logits, labels).mean()

    for b in range(2):
        rows = slice(4 * b, 4 * b + 4)

        value, grads = value_and_grad(variables["params"], images[rows], labels[rows])
        np.testing.assert_allclose(result.loss[0, b], value, rtol=1e-5)
        norms = dict(zip(result.layer, result.norm[0, b], strict=True))
        expected = {
            "stem/conv/kernel": grads["stem"]["conv"]["kernel"],
            "stage1/unit2/conv1/kernel": grads["stage1"]["conv1"]["kernel"][0],
            "stage2/unit1/conv2/kernel": grads["stage2_opening"]["conv2"]["kernel"][0],
            "head/classifier/kernel": grads["head"]["classifier"]["kernel"],
        }
        for name, grad in expected.items():
            np.testing.assert_allclose(norms[name], np.linalg.norm(np.ravel(grad)), rtol=1e-4)


@pytest.mark.slow
def test_other_norms_beside_the_gradient(network, variables):
    """Kernels, units' outputs, and the first update of SGD with decay: −η (∂L/∂W + λ W)."""
    images, labels = examples(4)
    sgd = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1, momentum=0.9))
    result = gradients(network, variables, images, labels, optimizer=sgd)
    params = variables["params"]

    @jax.jit
    def measure(params):
        def loss(params):
            out = network.apply(
                {**variables, "params": params}, images, train=True, tap=lambda parts: parts.y
            )
            return cross_entropy(out.logits, labels).mean(), out.taps

        return jax.grad(loss, has_aux=True)(params)

    grads, outputs = measure(params)
    at = result.layer.index("stage1/unit3/conv1/kernel")
    kernel, grad = (np.asarray(tree["stage1"]["conv1"]["kernel"][1]) for tree in (params, grads))
    np.testing.assert_allclose(result.parameter[0, at], np.linalg.norm(kernel), rtol=1e-6)
    change = np.linalg.norm(0.1 * (grad + 0.5 * kernel))
    np.testing.assert_allclose(result.update[0, 0, at], change, rtol=1e-4)
    assert result.unit == ("stage1/unit1", "stage1/unit2", "stage1/unit3", "stage2/unit1")
    y = np.asarray(outputs["stage1"][1]).reshape(4, -1)
    np.testing.assert_allclose(result.activation[0, 0, 2], np.linalg.norm(y, axis=1).mean(), rtol=1e-4)
    later = gradients(network, variables, images, labels, optimizer=sgd, step=5)
    assert np.isnan(later.update).all() and np.isfinite(later.parameter).all()


def test_both_batchnorm_modes_are_told_apart(network, variables):
    batch = gradients(network, variables, *examples(4))
    running = gradients(network, variables, *examples(4), train=False)
    assert batch.choices["BatchNorm"] != running.choices["BatchNorm"]
    assert not np.allclose(batch.norm, running.norm, rtol=0.01)


def test_few_examples_make_one_small_batch(network, variables):
    seen = []
    result = gradients(network, variables, *examples(4), progress=lambda done, of: seen.append((done, of)))
    assert result.batch_size == 4 and result.norm.shape[1] == 1
    assert seen == [(0, 1), (1, 1)]


def test_moments_join_and_survive_json(network, variables):
    first = gradients(network, variables, *examples(8), batch_size=4)
    later = gradients(network, variables, *examples(8), batch_size=4, step=50)
    both = moments.join([first, later])
    assert list(both.step) == [0, 50] and both.mean.shape == (2, len(both.layer))
    back = Gradients.from_json(json.loads(json.dumps(both.to_json(), allow_nan=False)))
    np.testing.assert_array_equal(back.norm, both.norm)
    assert back.layer == both.layer and back.choices == both.choices

    with pytest.raises(ValueError, match="no moment"):
        moments.join([])
    other = gradients(network, variables, *examples(4), batch_size=4)
    with pytest.raises(ValueError, match="one network on the same examples"):
        moments.join([first, other])

    draws = both.norm[1].T  # [layer, batch]
    half = stats.t.ppf(0.975, 1) * draws.std(1, ddof=1) / np.sqrt(2)
    np.testing.assert_allclose(both.interval[:, 1], [draws.mean(1) - half, draws.mean(1) + half])
    assert np.isnan(other.interval).all()  # one batch

    figure = study.plot({"a": both})
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose(band.max(), both.interval[1, 0].max())
    assert band.min() > 0  # an end below 0 stays on the logarithmic axis
    assert isinstance(figure, Figure)
    assert figure.axes[0].get_yscale() == "log"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["a, at init", "a, after 50 steps"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 0}, "batch_size=0"), ({"max_batches": 0}, "max_batches=0")],
)
def test_bad_options_are_refused(network, variables, options, message):
    with pytest.raises(ValueError, match=message):
        gradients(network, variables, *examples(4), **options)


def test_no_example_is_refused(network, variables):
    with pytest.raises(ValueError, match="no example"):
        gradients(network, variables, *examples(0))
