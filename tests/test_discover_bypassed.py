"""Units that other connections bypass, as in a U-Net: studies of gates work, and the others are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from discover_helpers import assert_close, jitted, paths_of
from foreign import refused
from foreign.refused import WIDTH, blocks, weights

import resjax
from resjax import analysis
from resjax.discovery import NotFound
from resjax.network.losses import cross_entropy

rng = np.random.default_rng(2)
X = rng.normal(size=(10, 6, WIDTH)).astype(np.float32)
LABELS = np.arange(10) % WIDTH
OTHERS = rng.normal(size=(7, 6, WIDTH)).astype(np.float32), np.arange(7) % WIDTH
N = 4
COMPILED = jax.jit(refused.u_net)


@functools.cache
def u_net():
    variables = {**blocks(N), **weights("join", wide=2 * WIDTH)}
    for i, p in enumerate(variables["blocks"]):
        p["first"] = p["first"] + i / 8  # so that no two are equal
    return variables, resjax.discover(refused.u_net, variables, X)


def given():
    found = u_net()[1]
    return found.network, found.variables, X, LABELS


def logits(changed, x=X):
    """Of the network without some units, or with other variables."""
    if isinstance(changed, dict):
        return np.asarray(COMPILED(changed, x))
    return logits(refused.without(u_net()[0], *changed), x)


def losses(rows, x=X, labels=LABELS):
    return [float(cross_entropy(logits(changed, x), labels).mean()) for changed in rows]


def errors(rows):
    return [np.mean(logits(changed).argmax(-1) != LABELS) for changed in rows]


def sets(deleted):
    return [np.flatnonzero(row).tolist() for row in deleted]


def close(found, expected):
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_units_have_gates():
    variables, found = u_net()
    assert [unit.name for unit in found.units] == [f"blocks/{i}" for i in range(N)]
    assert [unit.bypassed for unit in found.units] == [False, True, True, False]
    assert not found.network.chained
    assert str(found).count("bypassed") >= 2
    gates = 1 - np.eye(N, dtype=np.float32)

    def of_network(variables, x):
        return jnp.stack([found.network.apply(variables, x, gates=g).logits for g in gates])

    def of_program(variables, x):
        return jnp.stack([found.apply(variables, x, g) for g in gates])

    expected = np.stack([logits([i]) for i in range(N)])
    assert np.ptp(expected, 0).max() > 1e-3
    assert_close(jitted(of_program, variables, X), expected, 1e-5)
    assert_close(jitted(of_network, found.variables, X), expected, 1e-5)
    assert_close(found.network.apply(found.variables, X).logits, refused.u_net(variables, X), 1e-5)
    home = found.unstack(found.variables)
    jax.tree.map(np.testing.assert_array_equal, home, variables)


REFUSED = {
    "path_counts": lambda n, v, *_: analysis.path_counts(n),
    "path_spectrum": analysis.path_spectrum,
    "sample_paths": lambda *own: analysis.sample_paths(*own, draws=2),
    "path_parameters": analysis.path_parameters,
    "forward_depth": lambda *own: analysis.forward_depth(*own, choose_on=OTHERS),
    "reorder": analysis.reorder,
    "identity": lambda n, v, x, y: analysis.identity(n, v, x, y),
    "jacobians": analysis.jacobians,
    "responses": lambda n, v, x, _: analysis.responses(n, v, x),
    "backward_signal": lambda *own: analysis.backward_signal(*own, train=False),
    "branch_variance": lambda n, v, x, _: analysis.branch_variance(n, v, x, train=False),
    "deletions without transitions": lambda *own: analysis.deletions(*own, transitions=False),
    "places": lambda n, v, *_: n.places(v),
    "stem": lambda n, v, x, _: n.run_stem(v, x),
    "order": lambda n, v, x, _: n.apply(v, x, order=np.arange(N)),
    "tap": lambda n, v, x, _: n.apply(v, x, tap=lambda parts: parts.x),
}


@pytest.mark.parametrize("study", REFUSED.values(), ids=REFUSED)
def test_paths_orders_and_states_are_refused(study):
    with pytest.raises(NotFound, match=r"2 of 4 units are bypassed.*blocks/1, blocks/2.*U-Net.*gates work"):
        study(*given())


def test_single_deletions():
    result = analysis.lesion(*given(), batch_size=4, per_class=True)
    assert result.unit == tuple(unit.name for unit in u_net()[1].units)
    close(result.loss, losses([i] for i in range(N)))
    np.testing.assert_allclose(result.error, errors([i] for i in range(N)))
    wrong = [logits([i]).argmax(-1) != LABELS for i in range(N)]
    np.testing.assert_allclose(result.class_error[:, 1], [own[LABELS == 1].mean() for own in wrong])
    assert result.intact_loss == pytest.approx(losses([()])[0], rel=1e-5)
    assert result.unit_evaluations == N * (N + 1)  # nothing is shared


def test_sets_of_units():
    subsets = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 1]], bool)
    result = analysis.delete_subsets(*given(), subsets, batch_size=4)
    close(result.loss, losses(sets(subsets)))
    assert result.choices["forward passes"].startswith(
        "4, because"
    )  # three different sets, and the intact network
    pairs = analysis.pairs(*given())
    assert len(pairs.deleted) == 4 + 6 + 3  # alone, pairs, and longer runs
    close(pairs.loss, losses(sets(pairs.deleted)))
    random = analysis.deletions(*given(), ks=(1, 3), draws=2)
    assert random.number.tolist() == [1] * 4 + [3] * 2
    close(random.loss, losses(sets(random.deleted)))


def test_the_least_harmful_first():
    result = analysis.pruning(*given(), choose_on=OTHERS, draws=2)
    gone = [result.order[:k].tolist() for k in range(N + 1)]
    close(result.loss, losses(gone))
    close(result.choice_loss, losses(gone, *OTHERS))
    for k in range(N):
        rivals = [[*gone[k], u] for u in range(N) if u not in gone[k]]
        assert result.choice_loss[k + 1] == pytest.approx(min(losses(rivals, *OTHERS)), rel=1e-5)


def test_votes():
    result = analysis.committee(*given(), deleted=(1, 2), voters=6, sizes=(1,), draws=2)
    alone, pairs = (own[~np.isnan(own)] for own in result.voter_error)
    assert sorted(alone) == pytest.approx(sorted(errors([i] for i in range(N))))
    both = errors((i, j) for i in range(N) for j in range(i))
    assert sorted(pairs) == pytest.approx(sorted(both))


def test_interventions_but_for_frozen_branches():
    variables, found = u_net()
    initial = jax.tree.map(lambda v: 1 - v, variables)
    result = analysis.interventions(
        *given(), initial=found.stack(initial), reference=OTHERS[0], alphas=(0.5,), draws=2
    )
    assert result.intervention == ("scale 0.5", "reset") and not result.stack

    def changed(change):
        return [
            {**variables, "blocks": [change(p, q) if i == j else p for j, (p, q) in enumerate(rows)]}
            for i in range(N)
            for rows in [list(zip(variables["blocks"], initial["blocks"], strict=True))]
        ]

    close(result.of("scale", "loss")[0], losses(changed(lambda p, _: {**p, "second": p["second"] / 2})))
    close(result.of("reset", "loss")[0], losses(changed(lambda _, q: q)))
    assert "bypassed" in result.choices["frozen units"]


def test_gradients_of_kernels():
    variables, _ = u_net()
    result = analysis.gradients(*given())

    def loss(variables):
        return cross_entropy(refused.u_net(variables, X), LABELS).mean()

    expected = paths_of(jitted(jax.grad(loss), variables))
    paths = [name.removeprefix("stem/") for name in result.layer]
    assert sorted(paths) == sorted(expected)
    close(result.norm[0, 0], [np.linalg.norm(expected[path]) for path in paths])
    assert result.unit == () and result.choices["mode"].startswith("inference")


# --- training mode ---


def normalized(variables, x, gone, train=False, momentum=0.9):
    """Logits and statistics of a U-Net with batch normalization in its branches; some are ``gone``."""
    params, statistics = variables["params"], []

    def run(x, i):
        p, old = params["blocks"][i], variables["batch_stats"]["blocks"][i]
        f = refused.branch(x, p)
        own = {"mean": f.mean((0, 1)), "var": f.var((0, 1))} if train else old
        statistics.append(jax.tree.map(lambda a, b: momentum * a + (1 - momentum) * b, old, own))
        f = jnp.tanh((f - own["mean"][None, None]) / jnp.sqrt(own["var"][None, None] + 1e-3))
        return x if i in gone else x + f

    x = run(x, 0)
    inner = run(run(x[:, ::2], 1), 2)
    x = jnp.concatenate([jnp.repeat(inner, 2, 1), x], -1) @ params["join"]
    return refused.head(run(x, 3), params), {"blocks": statistics}


@functools.cache
def normalized_u_net():
    statistics = [{"mean": rng.normal(size=WIDTH) / 4, "var": rng.uniform(0.5, 2, WIDTH)} for _ in range(N)]
    variables = {"params": u_net()[0], "batch_stats": {"blocks": statistics}}
    variables = jax.tree.map(np.float32, variables)

    def train_fn(variables, x, key):
        logits, new = normalized(variables, x, (), train=True)
        return logits, {"batch_stats": new}

    found = resjax.discover(lambda v, x: normalized(v, x, ())[0], variables, X, train_fn=train_fn)
    return variables, found


def test_gates_in_training_mode():
    variables, found = normalized_u_net()
    assert [unit.bypassed for unit in found.units] == [False, True, True, False]
    gates = np.array([1, 0, 1, 1], np.float32)
    apply = jax.jit(lambda v, x: found.network.apply(v, x, train=True, gates=gates)[:2])
    out, statistics = apply(found.variables, X)
    expected, new = jax.jit(lambda v, x: normalized(v, x, (1,), train=True))(variables, X)
    assert_close(out, expected, 1e-5)
    home = found.unstack({**found.variables, "batch_stats": statistics})
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-5), home["batch_stats"], new)
    assert (
        np.abs(home["batch_stats"]["blocks"][2]["mean"] - variables["batch_stats"]["blocks"][2]["mean"]).max()
        > 1e-3
    )


def test_statistics_of_the_lesioned_network():
    variables, found = normalized_u_net()
    reference = OTHERS[0]
    result = analysis.recalibrate(found.network, found.variables, X, LABELS, reference=reference)

    @functools.partial(jax.jit, static_argnums=0)
    def expected(gone):
        """With the statistics of the reference, which is one batch."""
        new = normalized(variables, reference, gone, train=True, momentum=0)[1]
        both = [variables, {**variables, "batch_stats": new}]
        return jnp.stack([cross_entropy(normalized(own, X, gone)[0], LABELS).mean() for own in both])

    close(result.loss, np.stack([expected((i,)) for i in range(N)], -1))
    np.testing.assert_allclose(result.intact_loss, expected(()), rtol=1e-5)
    assert np.abs(result.loss[0] - result.loss[1]).max() > 1e-3
