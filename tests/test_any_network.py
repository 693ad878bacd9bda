"""Every study on every kind of network: it gives a result that can be shown, or says why there is none."""

import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from discover_helpers import case, labels_for
from foreign import refused
from foreign.case import Case
from matplotlib.figure import Figure

from resjax import config as configs
from resjax.analysis import load_run
from resjax.models.layers import Conv, Dense
from resjax.network import Network, Stack
from resjax.network.refusal import Refusal
from resjax.network.unit import Unit
from resjax.report import compare
from resjax.studies.catalogue import STUDIES
from resjax.studies.given import Given, load_network
from resjax.studies.options import Options
from resjax.train import train_and_evaluate

QUICK = Options(max_examples=12, batch_size=8, gradient_batches=1, draws=2, path_draws=2)


class Block(Unit):
    def setup(self):
        self.conv = Conv(4)

    def split(self, x, train):
        return x, jnp.tanh(self.conv(x))


class Stem(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return Conv(4)(x)


class Head(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return Dense(3)(x.mean((1, 2)))


def own(*, image_shape, num_classes):
    """A network without normalization, written here."""
    return Network(Stem(), (Stack("blocks", Block(), 3, 1),), Head())


KINDS = {
    "own": ("own_network_of_a_test:own", {}, 6),
    "residual": ("resnet", {"stage_sizes": (2, 2), "widths": (4, 8), "placement": "post"}, 8),
    "stochastic": (
        "resnet",
        {"stage_sizes": (3,), "widths": (4,), "unit_dropout": "linear"},
        8,
    ),
    "vit": ("vit", {"size": "digits", "depth": 2, "width": 8}, 8),
    "vit post": ("vit", {"size": "digits", "depth": 2, "width": 8, "placement": "post", "pool": "mean"}, 8),
    "mixer": ("mixer", {"size": "digits", "depth": 2, "width": 8}, 8),
    "convmixer": ("convmixer", {"width": 6, "depth": 2, "kernel": 3, "patch": 2}, 8),
    "convnext": ("convnext", {"size": "digits", "widths": (4, 6)}, 8),
    "lenet": ("lenet5", {}, 28),
    "vgg": ("vgg", {"configuration": "A", "fc_width": 16}, 32),
    "alexnet": ("alexnet", {}, 67),
}
# Found in functions, of which all is given, or only what is needed.
FOUND = {
    "found ResNet": ("linen: post-activation ResNet", True),
    "found ResNet alone": ("linen: post-activation ResNet", False),
    "found decoder": ("plain_jax: decoder with padding", False),
    "found U-Net": ("U-Net", True),
}
# With 55 million weights, what needs many passes takes minutes; on other networks these run.
ALEXNET = ("curves", "norms_over_training", "lesion", "deletions", "reorder", "paths", "gradients")


def u_net():
    variables = {**refused.blocks(4), **refused.weights("join", wide=2 * refused.WIDTH)}
    return Case(lambda v, x, gone: refused.u_net(refused.without(v, *gone), x), variables, refused.X, (), "")


def found(name, everything, folder):
    rng, own = np.random.default_rng(0), u_net() if name == "U-Net" else case(name)

    def examples(n):
        def like(v):
            rows = v[rng.integers(0, len(v), n)]
            return rows if v.dtype == bool else rng.permuted(rows, axis=-1)

        labels = labels_for(own)
        return jax.tree.map(like, own.example), np.resize(labels, (n, *labels.shape[1:]))

    inputs, labels = examples(12)
    optional = {}
    if everything:
        more = ("train_inputs", "train_labels", "initial_variables", "train_fn", "batch_size")
        values = (*examples(16), jax.tree.map(lambda v: 0.9 * v, own.variables), own.train_fn, 8)
        optional = dict(zip(more, values, strict=True))
    fields = Given(fn=own.fn, variables=own.variables, inputs=inputs, labels=labels, **optional)
    return load_network(fields, folder)


@pytest.fixture(scope="module", params=[*KINDS, *FOUND])
def run(request, tmp_path_factory):
    if request.param in FOUND:
        with jax.numpy_rank_promotion("allow"):
            return found(*FOUND[request.param], tmp_path_factory.mktemp("found"))
    name, fields, size = KINDS[request.param]
    module = types.ModuleType("own_network_of_a_test")
    module.own = own  # type: ignore[attr-defined]
    sys.modules["own_network_of_a_test"] = module
    root = tmp_path_factory.mktemp(request.param)
    rng = np.random.default_rng(0)
    arrays = {
        f"{split}_{what}": values
        for split, n in (("train", 16), ("test", 12))
        for what, values in {
            "images": rng.integers(0, 256, (n, size, size, 1), np.uint8),
            "labels": np.arange(n) % 3,
        }.items()
    }
    np.savez(root / "data.npz", **arrays)
    c = configs.default(name, **fields)
    c.data.name = str(root / "data.npz")
    c.train.batch_size = 8
    c.train.duration = "2 steps"
    c.log.every = "1 steps"
    train_and_evaluate(c, root / "run")
    return load_run(root / "run", allow_code=name)


@pytest.mark.slow
@pytest.mark.usefixtures("foreign_code")
@pytest.mark.parametrize("name", STUDIES)
def test_a_result_or_a_reason(run, name):
    config = getattr(run, "config", None)
    if config and config.model.name == "alexnet" and name not in ALEXNET:
        pytest.skip("minutes on AlexNet")
    study = STUDIES[name]
    try:
        reason = study.unsuited(run)
        if reason is not None:
            assert len(reason) > 15
            return
        result = study.run(run, QUICK, lambda done, of: None)
    except Refusal as refusal:  # what only trying tells
        assert len(str(refusal)) > 15
        return
    back = study.result.from_json(result.to_json())
    for results in ({"a": result}, {"a": back, "b": back}):
        finding = compare.finding(study, results)
        assert finding.headline.endswith(".") and "nan" not in finding.headline
        table = compare.table(study, results)
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert set(compare.summary(study, results)) <= set(results)
        assert isinstance(study.plot(results), Figure)
