"""What tests of networks share."""

import jax
import jax.numpy as jnp
import numpy as np


def draw(network, shape):
    """Variables far from their initial values, so that no unit is an identity by chance."""
    rng = np.random.default_rng(0)

    def leaf(path, v):
        noise = rng.normal(size=v.shape).astype(np.float32)
        name = path[-1].key
        if name in ("scale", "var"):
            return jnp.asarray(np.exp(0.3 * noise))
        fan_in = np.prod(v.shape[-4:-1]) if name == "kernel" else 100
        return jnp.asarray(noise * np.float32(fan_in**-0.5))

    variables = jax.eval_shape(lambda key: network.init(key, shape), jax.random.key(0))
    return jax.tree_util.tree_map_with_path(leaf, variables)


def equal(a, b) -> bool:
    """Same tree, same bits (up to the sign of zero)."""
    same = jax.tree.map(lambda x, y: np.array_equal(x, y), a, b)
    return jax.tree.all(same)


def on_stack(variables, name, change):
    """``variables`` with ``change`` applied to every leaf of one stack."""
    return {
        c: {k: jax.tree.map(change, v) if k == name else v for k, v in tree.items()}
        for c, tree in variables.items()
    }
