"""Training mode: the statistics and the gradients are those of the function in training mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from discover_helpers import MAKERS, assert_close, case, found_in, jitted, labels_for, loss, paths_of
from foreign import refused
from foreign.case import in_double
from marks import slow_but

import resjax
from resjax import analysis
from resjax.discovery import NotFound

pytestmark = pytest.mark.usefixtures("x64_throughout", "foreign_code")

X_OF_8 = np.random.default_rng(1).normal(size=(4, 8))
TRAINED = [name for name in MAKERS if "ResNet" in name and not name.startswith("equinox")]


@pytest.mark.parametrize("name", slow_but(TRAINED, *TRAINED[:2]))
def test_logits_and_statistics(name):
    own, found = case(name, double=True), found_in(name, double=True)
    key = jax.random.key(0)

    def network(variables, x):
        out = found.network.apply(variables, x, train=True, key=key)
        return out.logits, out.batch_stats

    logits, statistics = jitted(network, found.variables, own.example)
    expected, new = jitted(lambda v, x: own.train_fn(v, x, key), own.variables, own.example)
    assert_close(logits, expected)
    assert np.abs(logits - jitted(own.fn, own.variables, own.example)).max() > 1e-3
    home = own.statistics(found.unstack({**found.variables, "batch_stats": statistics}))
    old = paths_of(own.statistics(own.variables))
    there, here = paths_of(home), paths_of(new)
    assert there.keys() == here.keys() == old.keys()
    for path, value in here.items():
        assert_close(there[path], value)
    assert any(np.abs(old[path] - value).max() > 1e-3 for path, value in here.items())


@pytest.mark.parametrize("name", slow_but(TRAINED, *TRAINED[:2]))
def test_gradients_of_the_parameters(name):
    own, found = case(name, double=True), found_in(name, double=True)
    labels, key = labels_for(own), jax.random.key(0)

    def network(params, rest, x):
        variables = {**rest, "params": params}
        return loss(found.network.apply(variables, x, train=True, key=key).logits, labels).mean()

    def function(variables, x):
        return loss(own.train_fn(variables, x, key)[0], labels).mean()

    stacked = dict(found.variables)
    gradient = jitted(jax.grad(network), stacked.pop("params"), stacked, own.example)
    zeros = jax.tree.map(np.zeros_like, found.variables)
    there = paths_of(found.unstack({**zeros, "params": gradient}))
    here = paths_of(jitted(jax.grad(function, allow_int=True), own.variables, own.example))
    statistics = [path for path in here if here[path].dtype != np.float64 or is_statistic(own, path)]
    assert here.keys() == there.keys() and len(here) > len(statistics)
    for path in here.keys() - set(statistics):
        # A bias in front of a normalization has no gradient but rounding.
        np.testing.assert_allclose(there[path], here[path], rtol=1e-8, atol=1e-12)


def is_statistic(own, path):
    return any(path.endswith(known) for known in paths_of(own.statistics(own.variables)))


@pytest.mark.parametrize("name", ["linen: ViT", "plain_jax: ConvNeXt, NCHW"])
def test_training_mode_must_be_given(name):
    found = found_in(name)
    with pytest.raises(NotFound, match="train_fn"):
        found.network.apply(found.variables, case(name).example, train=True, key=jax.random.key(0))


def test_orders_in_training_keep_statistics_with_their_units():
    name = "linen: post-activation ResNet"
    own, found = case(name, double=True), found_in(name, double=True)

    def network(variables, x, order):
        return found.network.apply(variables, x, train=True, order=order, key=jax.random.key(0)).batch_stats

    statistics = jitted(network, found.variables, own.example, jnp.array([1, 0, 2]))
    home = found.unstack({**found.variables, "batch_stats": statistics})["batch_stats"]
    swapped = {
        c: {**tree, "block0": tree["block1"], "block1": tree["block0"]} for c, tree in own.variables.items()
    }
    _, new = jitted(lambda v, x: own.train_fn(v, x, None), swapped, own.example)
    for here, there in (("block0", "block1"), ("block1", "block0"), ("block2", "block2")):
        jax.tree.map(assert_close, home[here], new["batch_stats"][there])


# --- studies that run a network in training mode ---

STUDIES = {
    "gradients": analysis.gradients,
    "backward_signal": analysis.backward_signal,
    "branch_variance": lambda n, v, x, _, **how: analysis.branch_variance(n, v, x, **how),
}


@pytest.mark.slow
def test_studies_that_train_need_a_training_mode_where_statistics_matter():
    own = case("linen: post-activation ResNet", double=True)
    found = resjax.discover(own.fn, own.variables, own.example)
    given = found.network, found.variables, own.example, labels_for(own)
    assert not found.network.trains
    for name in ("backward_signal", "branch_variance"):
        with pytest.raises(NotFound, match=r"found in a function for inference.*train_fn"):
            STUDIES[name](*given)
    with pytest.raises(NotFound, match=r"found in a function for inference.*train_fn"):
        analysis.gradients(*given, train=True)
    result = analysis.gradients(*given)
    assert result.choices["BatchNorm"] == "running statistics"
    assert result.choices["mode"] == "inference, because the network has no training mode"

    def loss_of(variables):
        return loss(own.fn(variables, own.example), given[3]).mean()

    gradient = paths_of(jitted(jax.grad(loss_of), own.variables)["params"])
    expected = [np.linalg.norm(v) for path, v in gradient.items() if path.endswith("kernel")]
    assert_close(np.sort(result.norm[0, 0]), np.sort(expected))


RATE = 0.25


def with_dropout(variables, x, key):
    """Dropout behind each branch."""
    for i, p in enumerate(variables["blocks"]):
        f = refused.branch(x, p)
        kept = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - RATE, f.shape)
        x = x + jnp.where(kept, f / (1 - RATE), 0)
    return refused.head(x, variables), {}


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_studies_without_statistics_differ_in_dropout(study):
    variables, x = in_double((refused.blocks(), refused.X))
    found, sure = (resjax.discover(refused.residual, variables, x, train_fn=f) for f in (with_dropout, None))
    labels = np.array([0, 1])
    measured = "branch" if study == "branch_variance" else "norm" if study == "gradients" else "total"

    def result(found, **how):
        return STUDIES[study](found.network, found.variables, x, labels, **how)

    def values(found, **how):
        return getattr(result(found, **how), measured)

    assert_close(values(sure), values(found, train=False))
    assert np.abs(values(found) / values(sure) - 1).max() > 1e-3
    assert np.abs(values(found) / values(found, seed=1) - 1).max() > 1e-3
    assert "mode" not in result(found).choices
    assert result(sure).choices["mode"].startswith("inference")


def test_each_unit_draws_its_own_dropout():
    variables, x = in_double((refused.blocks(), refused.X))
    found = resjax.discover(refused.residual, variables, x, train_fn=with_dropout)

    def network(variables, x):
        tap = lambda parts: (parts.x, parts.branch)  # noqa: E731
        return found.network.apply(variables, x, train=True, key=jax.random.key(0), tap=tap).taps

    seen = jitted(network, found.variables, x)
    states, branches = (np.concatenate([own[i] for own in seen.values()]) for i in (0, 1))
    kept = branches != 0
    for state, branch, keeps, p in zip(states, branches, kept, variables["blocks"], strict=True):
        assert_close(branch, np.where(keeps, refused.branch(state, p) / (1 - RATE), 0))
    assert 0.5 < kept.mean() < 0.95
    assert not np.array_equal(kept[0], kept[1]) and not np.array_equal(kept[1], kept[2])


def counting(variables, x, train):
    """Blocks with running means; a counter that all of them read, and one that nobody reads."""
    params, old = variables["params"], variables["batch_stats"]
    means = []
    for w, mean in zip(params["blocks"], old["means"], strict=True):
        branch = jnp.tanh(x @ w)
        own = branch.mean(0) if train else mean
        means.append(mean + (own - mean) / (old["step"] + 2))
        x = x + (branch - own[None])
    new = {"means": means, "step": old["step"] + 1, "calls": old["calls"] + 1, "seen": x.mean(0)}
    return x @ params["head"], new


def counting_variables():
    draw = np.random.default_rng(0).normal
    params = {"blocks": [draw(size=(8, 8)) for _ in range(3)], "head": draw(size=(8, 5))}
    zeros = {"means": [np.zeros(8)] * 3, "step": np.zeros(()), "calls": np.zeros((), int), "seen": np.ones(8)}
    return {"params": params, "batch_stats": zeros}


def test_counters_and_statistics_that_nobody_reads_are_updated():
    variables, x = counting_variables(), X_OF_8
    found = resjax.discover(
        lambda v, x: counting(v, x, False)[0], variables, x, train_fn=lambda v, x, key: counting(v, x, True)
    )
    out = found.network.apply(found.variables, x, train=True, key=jax.random.key(0))
    home = found.unstack({**found.variables, "batch_stats": out.batch_stats})["batch_stats"]
    jax.tree.map(assert_close, home, counting(variables, x, True)[1])


def test_new_statistics_that_several_units_read_are_refused():
    variables = {"params": counting_variables()["params"], "batch_stats": {"mean": np.zeros(8)}}

    def run(variables, x, train):
        old = variables["batch_stats"]["mean"]
        for w in variables["params"]["blocks"]:
            branch = jnp.tanh(x @ w)
            own = branch.mean(0) if train else old
            x = x + (branch - own[None])
        return x @ variables["params"]["head"], {"mean": 0.9 * old + 0.1 * own}

    with pytest.raises(NotFound, match="new statistics at mean, which several parts"):
        resjax.discover(
            lambda v, x: run(v, x, False)[0], variables, X_OF_8, train_fn=lambda v, x, key: run(v, x, True)
        )
