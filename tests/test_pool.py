"""Max pooling on a CPU: its values and its gradient are XLA's, bit by bit."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but

from resjax.cpu.pool import max_pool
from resjax.models.layers import Pool

# Image size (H, W), window, strides, padding.
CASES = {
    "resnet's stem": ((8, 8), (3, 3), (2, 2), ((1, 1), (1, 1))),
    "resnet's stem, odd": ((9, 7), (3, 3), (2, 2), ((1, 1), (1, 1))),
    "alexnet": ((9, 9), (3, 3), (2, 2), "VALID"),
    "vgg": ((8, 6), (2, 2), (2, 2), "VALID"),
    "pixels that no window sees": ((7, 7), (2, 2), (2, 2), "VALID"),
    "gaps between windows": ((11, 10), (2, 1), (4, 3), "VALID"),
    "each pixel in nine windows": ((6, 5), (3, 3), (1, 1), "SAME"),
    "padding on one side": ((6, 7), (4, 3), (3, 1), ((0, 2), (2, 0))),
}


def inputs(size, dtype="float32"):
    """Rectified numbers of two digits, which have many equal pixels and zeros."""
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).round(1)
    return jnp.asarray(np.maximum(x, 0), dtype)


@functools.partial(jax.jit, static_argnums=0)
def both(pool, x):
    y, backward = jax.vjp(pool, x)
    weights = jax.random.normal(jax.random.key(1), y.shape, y.dtype)
    return y, backward(weights)[0]


WIDE, HALF = ([(case, dtype) for case in CASES] for dtype in ("float32", "bfloat16"))
TELLING = {"resnet's stem", "each pixel in nine windows"}


@pytest.mark.parametrize(
    "kind", slow_but(WIDE + HALF, *WIDE, *(kind for kind in HALF if kind[0] in TELLING)), ids="-".join
)
def test_values_and_gradients_are_those_of_xla(kind):
    case, dtype = kind
    size, *how = CASES[case]
    x = inputs(size, dtype)
    for own, stock in zip(
        both(lambda x: max_pool(x, *how), x), both(lambda x: nn.max_pool(x, *how), x), strict=True
    ):
        assert own.dtype == x.dtype
        np.testing.assert_array_equal(own, stock)


def test_the_first_of_equal_pixels_has_the_gradient():
    x = jnp.zeros((1, 2, 2, 1))
    dx = jax.grad(lambda x: max_pool(x, (2, 2), (2, 2), "VALID").sum())(x)
    np.testing.assert_array_equal(dx[0, :, :, 0], [[1, 0], [0, 0]])


def test_a_window_of_more_pixels_than_a_byte_counts_has_the_gradient_of_jax():
    x = jnp.arange(17 * 16, dtype=jnp.float32).reshape(1, 17, 16, 1)
    dx = jax.grad(lambda x: max_pool(x, (17, 16), (1, 1), "VALID").sum())(x)
    assert dx[0, 16, 15, 0] == 1 and dx.sum() == 1


def test_the_layer_does_not_search_windows_again():
    """A network's gradient on a CPU contains none of XLA's slow search."""
    layer = Pool("max", (3, 3), (2, 2), ((1, 1), (1, 1)))
    x = inputs((8, 8))
    gradient = jax.jit(jax.grad(lambda x: layer.apply({}, x).sum()))
    assert "select_and_scatter" not in gradient.lower(x).as_text()
    stock = jax.jit(jax.grad(lambda x: nn.max_pool(x, (3, 3), (2, 2)).sum()))
    assert "select_and_scatter" in stock.lower(x).as_text()


def test_gradients_of_examples_and_of_batches_agree():
    x, how = inputs((8, 8)), ((3, 3), (2, 2), "SAME")
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(max_pool(x, *how) ** 2)))
    alone = jax.jit(jax.vmap(lambda x: gradient(x[None])[0]))(x)
    np.testing.assert_array_equal(alone, gradient(x))


def test_forward_mode_needs_the_stock_pooling():
    x, how = inputs((9, 9)), ((3, 3), (2, 2), ((1, 1), (1, 1)))
    direction = jax.random.normal(jax.random.key(2), x.shape)
    with pytest.raises(TypeError):
        jax.jvp(lambda x: max_pool(x, *how, impl="cpu"), (x,), (direction,))
    y, dy = jax.jvp(lambda x: max_pool(x, *how, impl="lax"), (x,), (direction,))
    stock = jax.jvp(lambda x: nn.max_pool(x, *how), (x,), (direction,))
    np.testing.assert_array_equal(y, stock[0])
    np.testing.assert_array_equal(dy, stock[1])
    assert jnp.abs(dy).max() > 0


@pytest.mark.parametrize(
    ("window", "impl"), [((3, 3), "lax"), ((17, 16), "cpu")], ids=["stock", "large window"]
)
def test_where_the_gradient_is_that_of_jax_it_is_found_in_compiled_programs(window, impl):
    """As on a GPU, where no number is known while the program is traced."""
    x, how = inputs((18, 18)), (window, (1, 1), "VALID")
    own = jax.jit(jax.grad(lambda x: jnp.sum(max_pool(x, *how, impl=impl) ** 2)))(x)
    stock = jax.jit(jax.grad(lambda x: jnp.sum(nn.max_pool(x, *how) ** 2)))(x)
    np.testing.assert_array_equal(own, stock)


def test_an_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match="impl 'fast' is not known; allowed: 'auto', 'lax', 'cpu'"):
        Pool("max", impl="fast").apply({}, inputs((4, 4)))
