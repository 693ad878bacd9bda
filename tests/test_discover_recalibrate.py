"""BatchNorm statistics of discovered networks are re-estimated as those of the function would be."""

import jax
import numpy as np
import pytest
from discover_helpers import assert_close, case, found_in, paths_of
from marks import slow_but

from resjax.analysis import recalibrate, reestimate
from resjax.network.refusal import Refusal

pytestmark = pytest.mark.usefixtures("x64_throughout", "foreign_code")

NORMALIZED = ["linen: post-activation ResNet", "linen: pre-activation ResNet", "nnx: ResNet"]


def batch_statistics(own, images):
    """{path: statistic} of one batch, from what an update does to statistics of 0 and of 1."""

    def updated(start):
        variables = own.statistics(own.variables)
        fixed = {path: np.full_like(v, start) for path, v in paths_of(variables).items()}
        leaves = [fixed.get(path, v) for path, v in paths_of(own.variables).items()]
        # The statistics are a part of the variables, under the same paths.
        whole = jax.tree.structure(own.variables).unflatten(leaves)
        return paths_of(own.train_fn(whole, images, jax.random.key(0))[1])

    zero, one = updated(0.0), updated(1.0)
    return {path: np.asarray(v) / (1 - (np.asarray(one[path]) - v)) for path, v in zero.items()}


@pytest.mark.parametrize("name", slow_but(NORMALIZED, "nnx: ResNet"))
def test_statistics_of_two_batches(name):
    own, found = case(name, double=True), found_in(name, double=True)
    images = np.concatenate([own.example, 2 * own.example[::-1]])
    size = len(own.example)
    new = reestimate(found.network, found.variables, images, batch_size=size)
    home = paths_of(own.statistics(found.unstack(new)))
    first, second = (batch_statistics(own, images[i : i + size]) for i in (0, size))
    assert home.keys() == first.keys()
    for path in home:
        expected = (first[path] + second[path]) / 2
        if "var" in path.split("/")[-2:]:
            means = [batch[path.replace("var", "mean")] for batch in (first, second)]
            expected = expected + np.var(means, 0)
        assert_close(home[path], expected, 1e-6)  # the momentum is estimated


@pytest.mark.slow
def test_each_deletion():
    name = "linen: pre-activation ResNet"
    own, found = case(name), found_in(name)
    labels = np.arange(len(own.example)) % 3
    result = recalibrate(found.network, found.variables, own.example, labels, reference=own.example)
    assert result.error.shape[-1] == len(own.units) and np.isfinite(result.error).all()


def test_without_train_fn_it_is_refused():
    name = "linen: ViT"
    own, found = case(name), found_in(name)
    with pytest.raises(Refusal, match="no BatchNorm"):
        reestimate(found.network, found.variables, own.example)
