"""Gates and variables as they are given: derivatives by gates, and pytrees of another form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resjax

X = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)


def variables_of(*names):
    draw = np.random.default_rng(1).normal
    return {
        "params": {name: {"w": draw(size=(8, 8)), "b": draw(size=8)} for name in names}, "batch_stats": {}
    }  # fmt: skip


def fn(variables, x):
    stem, *blocks, head = variables["params"].values()
    x = x @ stem["w"] + stem["b"][None]
    for block in blocks:
        x = x + jnp.tanh(x @ block["w"] + block["b"][None])
    return x @ head["w"] + head["b"][None]


VARIABLES = jax.tree.map(np.float32, variables_of("a_stem", "block_0", "block_1", "head"))


@pytest.mark.parametrize("gates", [(1.0, 1.0), (1.0, 0.0), (0.5, 1.0)])
def test_the_derivative_by_a_gate_is_that_of_the_network(gates):
    found = resjax.discover(fn, VARIABLES, X)
    gates = jnp.array(gates)

    def both(run):
        return jax.grad(lambda g: (run(g) ** 2).sum())(gates)

    ours = both(lambda g: found.apply(VARIABLES, X, g))
    wanted = both(lambda g: found.network.apply(found.variables, X, gates=g).logits)
    assert np.abs(wanted).min() > 0.1
    np.testing.assert_allclose(ours, wanted, rtol=1e-4)


def test_variables_whose_form_is_that_of_the_stacked_ones():
    """They are told apart by their shapes."""
    variables = jax.tree.map(np.float32, variables_of("stem", "block", "head"))
    found = resjax.discover(fn_sorted, variables, X)
    assert jax.tree.structure(found.variables) == jax.tree.structure(variables)
    for own in (variables, found.variables):
        np.testing.assert_allclose(found.apply(own, X), fn_sorted(variables, X), atol=1e-5)


def fn_sorted(variables, x):
    own = variables["params"]
    return fn({"params": {name: own[name] for name in ("stem", "block", "head")}}, x)


@pytest.mark.parametrize("method", ["stack", "apply"])
def test_variables_with_other_names_or_shapes_are_refused(method):
    found = resjax.discover(fn, VARIABLES, X)
    call = found.stack if method == "stack" else lambda v: found.apply(v, X)
    renamed = {**VARIABLES, "params": {f"{k}_x": v for k, v in VARIABLES["params"].items()}}
    with pytest.raises(ValueError, match=r"a_stem_x/b of shape .* have params/a_stem/b"):
        call(renamed)
    with pytest.raises(ValueError, match=r"shape \[7\] where .* shape \[8\]"):
        call(jax.tree.map(lambda v: v[:7] if v.ndim == 1 else v, VARIABLES))


def test_inputs_of_another_shape_are_refused():
    """The number of positions stands in the program of the mean, so another one would be wrong."""

    def pooled(variables, x):
        for w in variables:
            x = x + jnp.tanh(x @ w)
        return x.mean(1)

    found = resjax.discover(pooled, [VARIABLES["params"]["head"]["w"]], np.zeros((4, 6, 8), np.float32))
    longer = np.zeros((4, 7, 8), np.float32)
    for run in (found.apply, found.network.apply):
        variables = [VARIABLES["params"]["head"]["w"]] if run == found.apply else found.variables
        with pytest.raises(ValueError, match=r"\[4, 7, 8\], the example had \[4, 6, 8\]"):
            run(variables, longer)
