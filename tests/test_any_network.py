"""Every study on every kind of network: it gives a result that can be shown, or says why there is none."""

import sys
import types

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from resjax import config as configs
from resjax.analysis import load_run
from resjax.models.layers import Conv, Dense
from resjax.network import Network, Stack
from resjax.network.unit import Unit
from resjax.report import compare
from resjax.studies.catalogue import STUDIES
from resjax.studies.options import Options
from resjax.studies.refusal import Refusal
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
    "lenet": ("lenet5", {}, 28),
    "vgg": ("vgg", {"configuration": "A", "fc_width": 16}, 32),
    "alexnet": ("alexnet", {}, 67),
}
# With 55 million weights, what needs many passes takes minutes; on other networks these run.
ALEXNET = ("curves", "norms_over_training", "lesion", "deletions", "reorder", "paths", "gradients")


@pytest.fixture(scope="module", params=KINDS)
def run(request, tmp_path_factory):
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
    return load_run(root / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_result_or_a_reason(run, name):
    if run.config.model.name == "alexnet" and name not in ALEXNET:
        pytest.skip("minutes on AlexNet")
    study = STUDIES[name]
    reason = study.unsuited(run)
    if reason is not None:
        assert len(reason) > 15
        return
    try:
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
