"""Gradients by path length of discovered networks sum to the gradient of the function as it is."""

import jax
import numpy as np
import pytest
from discover_helpers import assert_close, case, found_in, jitted, labels_for, loss, varied_cases_first

from resjax.studies.paths.path_exact import walk_lengths
from resjax.studies.paths.path_walk import Probe

pytestmark = pytest.mark.usefixtures("x64_throughout", "foreign_code")


@varied_cases_first
def test_path_lengths_sum_to_the_gradient(name):
    own, found = case(name, double=True), found_in(name, double=True)
    labels, key, n = labels_for(own), jax.random.key(0), len(own.units)
    probe = Probe(at="image" if own.stem_bias is None else "first unit")

    def by_length(variables, x):
        walk = walk_lengths(found.network, loss, probe, variables, x, labels, key)
        return walk.scale * jax.vmap(walk.to_input)(walk.rows)

    def of_function(variables, x):
        if own.stem_bias is None:
            return jax.grad(lambda x: loss(own.fn(variables, x), labels).mean())(x)
        return own.stem_bias(jax.grad(lambda v: loss(own.fn(v, x), labels).mean())(variables))

    rows = jitted(by_length, found.variables, own.example)
    assert len(rows) == n + 1 and rows.dtype == np.float64
    # The shortest path leads nowhere in the ViT, whose head reads its class token alone.
    assert np.all(np.abs(rows[1:]).reshape(n, -1).max(1) > 0)
    expected = jitted(of_function, own.variables, own.example)
    total = rows.sum(0) if own.stem_bias is None else rows.sum((0, 1)).reshape(expected.shape)
    assert_close(total, expected)
