"""Every analysis on a network whose inputs are tokens and a mask, with a loss and a metric of its own."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_helpers import initial, logits_of
from token_network import (
    EXAMPLES,
    LENGTH,
    NETWORK,
    WIDTH,
    WORDS,
    Embedding,
    missed_top_two,
    summed_surprise,
    texts,
    variables,
)

from resjax import analysis
from resjax.models.layers import BatchNorm
from resjax.network import Network, Stack, Unit
from resjax.network.losses import cross_entropy, share_wrong
from resjax.network.norms import layer_norms
from resjax.network.refusal import Refusal
from resjax.studies.examples import take
from resjax.studies.paths import forward_depth
from resjax.studies.paths.depths import ForwardDepth, depth_of
from resjax.studies.paths.path_walk import TRAINING, Probe
from resjax.studies.words import percent

HOW = {"loss": summed_surprise, "metric": missed_top_two, "batch_size": 4}
RUNNING = {"loss": summed_surprise, "batch_size": 4}
UNITS = NETWORK.num_units


def given():
    return NETWORK, variables(), *texts()


@functools.cache
def logits(gates=(1.0, 1.0, 1.0)):
    """float64 [N, T, words] of the network with gates, for numpy."""
    return np.asarray(logits_of(NETWORK, variables(), texts()[0], gates=np.float32(gates)), np.float64)


def without(*units):
    return logits(tuple(float(i not in units) for i in range(UNITS)))


def mean_of(each):
    """[N, T] → its mean over examples of the mean over positions that count."""
    counted = texts()[1] >= 0
    return np.mean(np.sum(each * counted, 1) / counted.sum(1))


def top_two_error(changed):
    labels = texts()[1]
    ranks = (changed > np.take_along_axis(changed, np.maximum(labels, 0)[..., None], -1)).sum(-1)
    return mean_of(ranks >= 2)


def log_softmax(values):
    return np.asarray(jax.nn.log_softmax(values, -1), np.float64)


def surprise(changed):
    labels = texts()[1]
    own = np.take_along_axis(log_softmax(changed), np.maximum(labels, 0)[..., None], -1)[..., 0]
    return -np.mean(np.sum(own * (labels >= 0), 1))


def kl(changed):
    log_p, log_q = log_softmax(logits()), log_softmax(changed)
    return mean_of((np.exp(log_p) * (log_p - log_q)).sum(-1))


def agreement(changed):
    return mean_of(changed.argmax(-1) == logits().argmax(-1))


@functools.cache
def loss_gradients():
    """Of the mean loss of all examples: of the parameters, and at the first unit's input."""
    inputs, labels = texts()

    def loss(v, h):
        h, _, _ = NETWORK.run_stack(NETWORK.stacks[0], v, h)
        return jnp.mean(summed_surprise(NETWORK.run_head(v, h)[0], labels))

    def whole(v):
        return loss(v, NETWORK.run_stem(v, inputs)[0])

    h = NETWORK.run_stem(variables(), inputs)[0]
    return jax.jit(jax.grad(whole))(variables()), jax.jit(jax.grad(loss, 1))(variables(), h)


def test_single_deletions():
    result = analysis.lesion(*given(), **HOW)
    for i in range(UNITS):
        changed = without(i)
        assert result.error[i] == pytest.approx(top_two_error(changed), abs=1e-6)
        assert result.loss[i] == pytest.approx(surprise(changed), rel=1e-4)
        assert result.kl[i] == pytest.approx(kl(changed), rel=1e-3, abs=1e-6)
        assert result.agreement[i] == pytest.approx(agreement(changed), abs=1e-6)
    assert result.intact_error == pytest.approx(top_two_error(logits()), abs=1e-6)
    assert result.intact_loss == pytest.approx(surprise(logits()), rel=1e-4)
    assert result.num_examples == EXAMPLES and result.num_classes == WORDS
    assert 0 < result.intact_error < 1 and np.ptp(result.error) > 0
    assert ((result.spared >= 0) & (result.spared <= 1)).all()


def test_the_usual_metric_is_the_share_of_wrong_positions():
    result = analysis.lesion(*given(), batch_size=4)
    labels = texts()[1]
    assert result.intact_error == pytest.approx(mean_of(logits().argmax(-1) != labels), abs=1e-6)
    own = np.take_along_axis(log_softmax(logits()), np.maximum(labels, 0)[..., None], -1)[..., 0]
    assert result.intact_loss == pytest.approx(-mean_of(own), rel=1e-4)


def test_labels_of_one_position_are_not_changed():
    values = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 0])
    assert share_wrong(values, labels).dtype == bool
    at_positions = share_wrong(values[:, None], labels[:, None])
    np.testing.assert_array_equal(at_positions, share_wrong(values, labels))
    np.testing.assert_allclose(cross_entropy(values[:, None], labels[:, None]), cross_entropy(values, labels))
    smooth = cross_entropy(values[:, None], labels[:, None], 0.1)
    np.testing.assert_allclose(smooth, cross_entropy(values, labels, 0.1))


def test_several_deletions_and_orders():
    result = analysis.pairs(*given(), **HOW)
    for i, gone in enumerate(result.deleted):
        assert result.error[i] == pytest.approx(top_two_error(without(*np.flatnonzero(gone))), abs=1e-6)
    drawn = analysis.deletions(*given(), ks=(1, 2), draws=2, **HOW)
    assert set(drawn.number) == {1, 2} and len(drawn.error) == 5
    order = analysis.reorder(*given(), swaps=(1,), draws=2, **HOW)
    reverse = np.asarray(logits_of(NETWORK, variables(), texts()[0], order=np.arange(UNITS)[::-1]), float)
    assert order.error[-1] == pytest.approx(top_two_error(reverse), abs=1e-6)


def test_pruning_chooses_by_the_loss():
    result = analysis.pruning(*given(), choose_on=texts(1), draws=2, **HOW)
    assert sorted(result.order) == [0, 1, 2]
    assert result.error[1] == pytest.approx(top_two_error(without(result.order[0])), abs=1e-6)
    assert result.error[-1] == pytest.approx(top_two_error(without(0, 1, 2)), abs=1e-6)


def test_interventions():
    new = initial(NETWORK, texts()[0], seed=5)
    how = {**HOW, "alphas": (0.0, 0.5), "draws": 2, "initial": new, "reference": texts(1)[0]}
    result = analysis.interventions(*given(), **how)
    assert result.intervention == ("scale 0", "scale 0.5", "freeze", "reset", "redraw 1", "redraw 2")
    assert result.deleted[1] == pytest.approx(top_two_error(without(1)), abs=1e-6)
    assert np.isfinite(result.kl).all() and result.kl[2:].min() > 0
    assert result.stack == ("mixing",) and np.isfinite(result.parallel_error).all()
    assert "11 reference images" in result.choices["frozen units"]


class WithoutInit(Network):
    def init(self, key, example):
        raise Refusal("initial variables must be given")


def test_redraws_are_left_out_where_a_network_has_no_initialization():
    own = WithoutInit(NETWORK.stem, NETWORK.stacks, NETWORK.head)
    result = analysis.interventions(own, *given()[1:], alphas=(0.0,), **HOW)
    assert result.intervention == ("scale 0",)
    assert result.choices["fresh draws"] == "none: initial variables must be given"
    with pytest.raises(ValueError, match="nothing to do"):
        flat = Network(NETWORK.stem, (), NETWORK.head)
        v = {"params": {k: p for k, p in variables()["params"].items() if k != "mixing"}}
        analysis.interventions(flat, v, *texts(), draws=0, alphas=(), **HOW)


def test_exact_paths_sum_to_the_gradient_at_the_first_unit():
    result = analysis.path_spectrum(*given(), loss=summed_surprise, batch_size=EXAMPLES)
    np.testing.assert_allclose(result.contribution.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(result.total[0, 0], np.linalg.norm(loss_gradients()[1].ravel()), rtol=1e-4)
    assert result.choices["gradient at"] == "the first unit"


def test_sampled_paths():
    both = analysis.paths(*given(), draws=2, probe=TRAINING, **RUNNING)
    sample = both.sample["statistics of the batch"]
    assert sample.norm.shape == (4, 2) and (sample.norm > 0).all()
    assert sample.choices["gradient at"] == "the first unit"
    # The only path of length 0 is that of the exact sum.
    exact = both.exact["statistics of the batch"]
    np.testing.assert_allclose(sample.norm[0, 0], exact.norm[0, 0, 0], rtol=1e-4)


def test_floats_keep_the_gradient_at_the_image():
    assert Probe().fits(np.zeros((2, 4, 4, 1), np.float32)) == Probe()
    assert Probe().fits(texts()[0]).at == "first unit"
    assert Probe(at="first unit").fits(texts()[0]) == Probe(at="first unit")


def test_paths_behind_parameters_sum_to_their_gradient():
    result = analysis.path_parameters(*given(), loss=summed_surprise, batch_size=EXAMPLES)
    own = loss_gradients()[0]["params"]["mixing"]
    norms = np.sqrt(sum(np.sum(np.square(v.reshape(UNITS, -1)), 1) for v in jax.tree.leaves(own)))
    np.testing.assert_allclose(result.total[0], norms, rtol=1e-4)
    np.testing.assert_allclose(result.contribution.sum(-1), 1, rtol=1e-4)


def test_gradient_norms():
    result = analysis.gradients(*given(), loss=summed_surprise, batch_size=EXAMPLES)
    expected = layer_norms(NETWORK, loss_gradients()[0]["params"])
    assert result.layer[0] == "stage1/unit1/dense/kernel" and result.layer[-1] == "head/Dense_0/kernel"
    np.testing.assert_allclose(result.norm[0, 0, :3], expected["mixing/dense/kernel"], rtol=1e-4)
    assert result.loss[0, 0] == pytest.approx(surprise(logits()), rel=1e-4)


class Renamed(nn.Module):
    """The head with other names of its parameters."""

    @nn.compact
    def __call__(self, h, train):
        weight = self.param("weight", nn.initializers.normal(1.0), (h.shape[-1], WORDS))
        return h @ weight


def test_weights_of_other_names_count_as_kernels():
    network = Network(Embedding(), (), Renamed())
    v = initial(network, texts()[0])
    result = analysis.gradients(network, v, *texts(), loss=summed_surprise)
    assert result.layer == ("stem/Embed_0/embedding", "head/weight")


def test_signals():
    back = analysis.backward_signal(*given(), loss=summed_surprise, batch_size=EXAMPLES)
    expected = np.linalg.norm(loss_gradients()[1].ravel())
    np.testing.assert_allclose(back.total[0, 0, 0], expected, rtol=1e-4)
    some = take(texts()[0], slice(3)), texts()[1][:3]
    found = analysis.jacobians(NETWORK, variables(), *some, loss=summed_surprise, iterations=3, probes=2)
    assert found.largest.shape == (1, 3, UNITS) and (found.largest >= found.gain - 1e-3).all()


def test_branch_variance_needs_no_labels():
    result = analysis.branch_variance(NETWORK, variables(), texts()[0], batch_size=EXAMPLES)
    taps = NETWORK.apply(variables(), texts()[0], tap=lambda parts: jnp.var(parts.branch)).taps
    np.testing.assert_allclose(result.branch[0, 0], taps["mixing"], rtol=1e-4)
    assert result.stages == ("stage1",) and list(result.position) == [1, 2, 3]


def test_identity():
    result = analysis.identity(*given(), **RUNNING)
    parts = NETWORK.apply(variables(), texts()[0], tap=lambda parts: (parts.x, parts.branch)).taps["mixing"]
    x, f = (np.linalg.norm(np.asarray(v).reshape(UNITS, EXAMPLES, -1), axis=-1) for v in parts)
    np.testing.assert_allclose(result.ratio, (f / x).mean(1), rtol=1e-4)


def test_responses():
    result = analysis.responses(*given()[:3], batch_size=4)
    assert result.layer == tuple(f"stage1/unit{i}/dense" for i in (1, 2, 3))
    assert (result.std > 0).all() and result.num_examples == EXAMPLES


def test_committee_counts_every_position():
    result = analysis.committee(*given(), voters=3, draws=2, sizes=(1, 3), deleted=(1,), batch_size=4)
    labels = texts()[1]
    counted = labels >= 0
    wrong = [(without(i).argmax(-1) != labels)[counted].mean() for i in range(UNITS)]
    np.testing.assert_allclose(sorted(result.voter_error[0]), sorted(wrong), atol=1e-6)
    assert result.whole_error == pytest.approx((logits().argmax(-1) != labels)[counted].mean())
    votes = np.stack([np.eye(WORDS)[without(i).argmax(-1)[counted]] for i in range(UNITS)]).sum(0)
    best = votes == votes.max(-1, keepdims=True)
    right = np.take_along_axis(best, labels[counted][:, None], 1)[:, 0] / best.sum(-1)
    np.testing.assert_allclose(result.majority_error[0, 1], 1 - right.mean(), atol=1e-6)


def test_forward_depth_has_intervals_of_shares():
    result = analysis.forward_depth(*given(), choose_on=texts(1), draws=2, **HOW)
    np.testing.assert_allclose(result.error[:, -1], top_two_error(logits()), atol=1e-6)
    assert result.error[2, 0] == pytest.approx(top_two_error(without(0, 1, 2)), abs=1e-6)
    low, high = result.error_interval[0].T
    assert ((low <= result.error[0]) & (result.error[0] <= high)).all() and (high > low).any()
    np.testing.assert_allclose(result.rise_interval[:2, -1], 0, atol=1e-6)
    assert result.agreement_interval[0, -1].tolist() == [1, 1]
    for back in (result, ForwardDepth.from_json(result.to_json())):
        table, depth = forward_depth.table(back), depth_of(back)
        assert table["paths: error"][0].endswith(f"({percent(low[0])} to {percent(high[0])})")
        assert depth.low <= depth.value <= depth.high
        assert len(forward_depth.points("texts", back)) == 2


class Normed(Unit):
    def setup(self):
        self.dense, self.norm = nn.Dense(WIDTH), BatchNorm()

    def split(self, x, train):
        return x, jnp.tanh(self.norm(self.dense(x), train))


def test_statistics_of_tokens_are_estimated():
    network = Network(NETWORK.stem, (Stack("normed", Normed(), 2, 1),), NETWORK.head)
    v = initial(network, texts()[0])
    result = analysis.recalibrate(network, v, *texts(), reference=texts(1)[0], **HOW)
    running = analysis.lesion(network, v, *texts(), **HOW)
    np.testing.assert_allclose(result.error[0], running.error, atol=1e-6)
    np.testing.assert_allclose(result.kl[0], running.kl, rtol=1e-3)
    assert np.abs(result.kl[1] - result.kl[0]).min() > 0
    assert result.num_reference == 9 and result.intact_change[0] <= result.intact_change[1]
    with pytest.raises(ValueError, match=r"recalibrate_on is .*int64.*; allowed: inputs like"):
        short = {name: values[:, :2] for name, values in texts()[0].items()}
        analysis.pairs(network, v, *texts(), recalibrate_on=short)


def test_path_counts():
    assert analysis.path_counts(NETWORK).num_residual == UNITS


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: analysis.recalibrate(*given(), reference=texts(1)[0]), "no BatchNorm"),
        (lambda: analysis.equivariance(*given()), r"shifts need .*label|shifts need images"),
        (lambda: analysis.connections(*given()[:3]), r"need images, float \[N, H, W, C\]; the inputs are"),
        (lambda: analysis.surgery(*given(), train=texts(1)), "new units need one label for each image"),
    ],
)
def test_what_needs_images_is_refused(run, message):
    with pytest.raises(Refusal, match=message):
        run()


class Opaque(Network):
    """Its layers can't be seen, as those of a network that was found in a function."""

    @property
    def opaque(self):
        return True


def test_studies_of_layers_refuse_a_network_without_any():
    network = Opaque(NETWORK.stem, NETWORK.stacks, NETWORK.head)
    images = np.zeros((2, 4, 4, 1), np.float32)
    with pytest.raises(Refusal, match="no layer of its stem and units"):
        analysis.responses(network, variables(), texts()[0])
    with pytest.raises(Refusal, match="convolutions need layers that are Flax modules"):
        analysis.connections(network, variables(), images)
    with pytest.raises(Refusal, match="new units need layers that are Flax modules"):
        analysis.insert(network, variables(), images, after=0, key=jax.random.key(0))


def of_range_two(logits, labels):
    return 2 * missed_top_two(logits, labels) + 1


def of_each_position(logits, labels):
    return jnp.argmax(logits, -1) != labels


def changed(**changes):
    def change(inputs, labels):
        return {**inputs, **changes}, labels

    return change


@pytest.mark.parametrize(
    ("change", "how", "message"),
    [
        (
            changed(mask=np.ones((3, LENGTH), bool)),
            {},
            r"one number N of examples, got .*bool \[3, 5\]",
        ),
        (changed(mask=np.array(["a"] * EXAMPLES)), {}, "floats, integers or bools"),
        (lambda x, y: (take(x, slice(0)), y[:0]), {}, "there is no example"),
        (lambda x, y: ({}, y), {}, "got no array"),
        (lambda x, y: (x["tokens"], y), {}, "can't take inputs like"),
        (lambda x, y: (x, y[:, 0]), {}, r"need labels of shape \[11, 5\], got \[11\]"),
        (lambda x, y: (x, y + WORDS), {}, "labels must lie in 0 … 6"),
        (lambda x, y: (x, y.astype(float)), {}, "labels must be integers"),
        (lambda x, y: (x, np.full_like(y, -1)), {}, "needs a position that counts"),
        (lambda x, y: (x, y), {"metric": of_range_two}, "the metric gives values from .* pass a measure"),
        (lambda x, y: (x, y), {"metric": of_each_position}, r"the metric gives .* shape \[4, 5\].*\[4\]"),
        (lambda x, y: (x, y), {"per_class": True}, r"per_class=True needs labels \[N\]"),
    ],
)
def test_what_does_not_fit_is_refused(change, how, message):
    with pytest.raises(ValueError, match=message):
        analysis.lesion(NETWORK, variables(), *change(*texts()), **{"batch_size": 4, **how})


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
def test_images_that_are_not_standardized_are_refused(dtype):
    images = np.zeros((2, 4, 4, 1), dtype)
    with pytest.raises(ValueError, match=r"images must be float \[N, H, W, C\], standardized"):
        analysis.responses(NETWORK, variables(), images)
