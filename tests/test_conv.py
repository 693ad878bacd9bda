"""The convolution's own gradients against JAX's, in all its forms."""

import re
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from marks import slow_but

from resjax.cpu import one_thread, patches, winograd
from resjax.cpu.conv import conv, transposed_twice


@pytest.fixture(autouse=True)
def forms_of_one_thread(monkeypatch):
    """In every version of JAX: they are right everywhere, and fast in some."""
    monkeypatch.setattr(one_thread, "PAYS", True)
    monkeypatch.setattr(one_thread, "PRODUCTS", False)


class Case(NamedTuple):
    """A convolution: image size (H, W), channels in and out, kernel size, and its other arguments."""

    size: tuple[int, int]
    channels: int
    features: int
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: str | tuple = "SAME"
    groups: int = 1
    batch: int = 3

    def options(self) -> dict:
        return {"strides": self.strides, "padding": self.padding, "groups": self.groups}


CASES = {
    "cifar": Case((8, 8), 4, 6),
    "odd sizes": Case((7, 9), 4, 6),
    "stem": Case((12, 12), 3, 8),
    "transition": Case((8, 8), 4, 8, strides=(2, 2), padding=((1, 1), (1, 1))),
    "transition, odd": Case((7, 7), 4, 8, strides=(2, 2), padding=((1, 1), (1, 1))),
    "strides differ": Case((9, 8), 2, 3, strides=(1, 3)),
    "stride > kernel": Case((10, 11), 2, 3, (2, 3), (5, 4), "VALID"),
    "projection": Case((6, 6), 4, 5, (1, 1)),
    "projection to fewer channels": Case((6, 6), 5, 4, (1, 1)),
    "strided projection": Case((7, 8), 4, 5, (1, 1), (2, 2), "VALID"),
    "padded projection": Case((4, 4), 2, 3, (1, 1), padding=((1, 0), (2, 1))),
    "grouped projection": Case((4, 5), 4, 6, (1, 1), groups=2),
    "imagenet stem": Case((23, 22), 3, 4, (7, 7), (2, 2), ((3, 3), (3, 3))),
    "alexnet 1": Case((31, 31), 3, 4, (11, 11), (4, 4), "VALID"),
    "alexnet 2": Case((9, 9), 4, 6, (5, 5), groups=2),
    "two filters a channel": Case((6, 7), 4, 8, groups=4),
    "depthwise": Case((6, 7), 4, 4, (3, 5), groups=4),
    "depthwise, wide": Case((2, 70), 2, 2, groups=2),
    "depthwise, strided": Case((7, 8), 3, 3, (3, 3), (2, 3), ((1, 1), (0, 2)), groups=3),
    "depthwise, stride > kernel": Case((10, 11), 3, 3, (2, 3), (5, 4), "VALID", groups=3),
    "depthwise, 1×1": Case((4, 5), 3, 3, (1, 1), groups=3),
    "depthwise, large window": Case((14, 15), 2, 2, (13, 14), groups=2),
    "asymmetric": Case((6, 7), 2, 3, (2, 4), (2, 1), ((0, 3), (2, 0))),
    "smaller than the kernel": Case((2, 1), 2, 3, (5, 3)),
    "smaller than the kernel, strided": Case((2, 3), 2, 3, (3, 4), (2, 1), ((1, 1), (0, 2))),
    "one pixel": Case((1, 1), 2, 3),
    "as large as the kernel": Case((5, 5), 2, 3, (5, 5), padding="VALID"),
    "one image": Case((6, 6), 1, 1, batch=1),
    "many channels": Case((4, 5), 130, 3),
    "many channels, strided": Case((5, 4), 66, 2, strides=(2, 2), padding=((1, 1), (1, 1))),
    "sixteen channels": Case((6, 8), 16, 16),
    "sixteen channels, odd": Case((5, 7), 16, 16, (2, 3), padding=((1, 0), (2, 1))),
    "sixteen channels, uneven": Case((5, 7), 16, 16, padding=((1, 0), (2, 1))),
    "sixteen channels, far padding": Case((6, 3), 16, 17, padding=((3, 0), (0, 4))),
    "sixteen to more channels": Case((7, 6), 16, 18),
    "sixteen channels, strided": Case((6, 8), 16, 17, strides=(2, 2), padding=((1, 1), (1, 1))),
    "sixteen channels, strided, uneven": Case((8, 5), 18, 16, strides=(2, 2), padding=((0, 3), (2, 0))),
    "sixteen channels of a stem": Case((5, 7), 3, 16),
    "sixteen channels of a stem, uneven": Case((5, 6), 1, 16, padding=((1, 0), (2, 1))),
}


def arrays(case: Case, dtype=jnp.float32, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((case.batch, *case.size, case.channels))
    kernel = rng.standard_normal((*case.kernel, case.channels // case.groups, case.features))
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


@partial(jax.jit, static_argnums=(2, 3))
def everything(x, kernel, case: Case, impl: str):
    """Output, input gradient, kernel gradient, for a cotangent made of the output itself."""
    y, vjp = jax.vjp(partial(conv, impl=impl, **case.options()), x, kernel)
    return y, *vjp(jnp.sin(3 * y))


@partial(jax.jit, static_argnums=2)
def largest_error(x, kernel, case: Case) -> jax.Array:
    """Largest relative error of output and gradients against JAX's in the same or a wider dtype."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    y, vjp = jax.vjp(partial(conv, impl="cpu", **case.options()), x, kernel)
    dy = jnp.sin(3 * y)
    stock = partial(conv, impl="lax", **case.options())
    expected_y, expected_vjp = jax.vjp(stock, x.astype(wide), kernel.astype(wide))
    errors = []
    pairs = zip((y, *vjp(dy)), (expected_y, *expected_vjp(dy.astype(wide))), strict=True)
    for actual, expected in pairs:
        assert actual.dtype == x.dtype
        error = jnp.max(jnp.abs(actual.astype(wide) - expected))
        errors.append(error / (jnp.max(jnp.abs(expected)) + 1e-30))
    return jnp.max(jnp.stack(errors))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_gradients_are_exact_in_float64(case, x64):
    assert largest_error(*arrays(case, jnp.float64), case) < 1e-12


@pytest.mark.parametrize("name", ["cifar", "transition, odd", "projection", "alexnet 2"])
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)])
def test_gradients_in_the_dtypes_of_training(name, dtype, tolerance):
    assert largest_error(*arrays(CASES[name], dtype), CASES[name]) < tolerance


def test_bfloat16_kernel_gradient_is_summed_in_float32():
    # 2,048 terms of 1 + 2^-7: eight bits would stop counting at 256.
    x = jnp.full((8, 16, 16, 1), 1.0078125, jnp.bfloat16)
    kernel = jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    for padding in ("VALID", ((0, 1), (0, 0))):  # as a matmul, as a convolution
        gradient = jax.grad(
            lambda k, p=padding: jnp.sum(conv(x, k, padding=p, impl="cpu").astype(jnp.float32))
        )(kernel)
        assert abs(float(gradient[0, 0, 0, 0]) / (2048 * 1.0078125) - 1) < 2**-8


@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape(data):
    draw = data.draw
    groups = draw(st.sampled_from([1, 1, 2]))
    pads = st.tuples(st.integers(0, 2), st.integers(0, 2))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = draw(st.one_of(st.just("SAME"), st.tuples(pads, pads)))
    size = draw(st.tuples(st.integers(kernel[0], 8), st.integers(kernel[1], 8)))
    case = Case(
        size=size,
        channels=groups * draw(st.integers(1, 3)),
        features=groups * draw(st.integers(1, 3)),
        kernel=kernel,
        strides=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=padding,
        groups=groups,
        batch=draw(st.integers(1, 3)),
    )
    assert largest_error(*arrays(case, seed=draw(st.integers(0, 9))), case) < 1e-5


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("batch", slow_but([5, 6], 5))  # cut in pairs; one is left of 5
def test_on_one_thread_it_is_the_same(case, batch, monkeypatch, x64):
    x, kernel = arrays(case._replace(batch=batch), jnp.float64)
    y = jax.eval_shape(partial(conv, **case.options()), x, kernel)
    monkeypatch.setattr(one_thread, "_AT_ONCE", 2 * max(x[0].size, y.size // batch))
    with one_thread.one_thread():
        actual = jax.jit(lambda *args: everything.__wrapped__(*args, case, "cpu"))(x, kernel)
    for a, e in zip(actual, everything(x, kernel, case, "lax"), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-11, atol=1e-11)


WITH_16 = tuple(name for name in CASES if name.startswith("sixteen"))


@pytest.mark.parametrize("name", ("transition", *WITH_16))
@pytest.mark.parametrize("batch", slow_but([4, 5], 4))  # in pairs; 5 has no divisor but 1
def test_on_one_thread_products_are_the_same(name, batch, monkeypatch, x64):
    case = CASES[name]._replace(batch=batch)
    x, kernel = arrays(case, jnp.float64)
    y = jax.eval_shape(partial(conv, **case.options()), x, kernel)
    monkeypatch.setattr(one_thread, "PRODUCTS", True)
    few = 2 * max(x[0].size, y.size // batch)
    for form, limit in ((winograd, "_AT_ONCE"), (winograd, "_AT_ONCE_GRADIENT"), (patches, "_AT_ONCE")):
        monkeypatch.setattr(form, limit, few)
    with one_thread.one_thread():
        actual = jax.jit(lambda *args: everything.__wrapped__(*args, case, "cpu"))(x, kernel)
    for a, e in zip(actual, everything(x, kernel, case, "lax"), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", WITH_16)
def test_on_one_thread_products_round_little(name, monkeypatch):
    monkeypatch.setattr(one_thread, "PRODUCTS", True)
    with one_thread.one_thread():
        error = jax.jit(lambda *args: largest_error.__wrapped__(*args, CASES[name]))(*arrays(CASES[name]))
    assert error < 5e-6


def test_fewer_multiplications_round_as_little_as_their_points_allow(x64):
    """With the points 1 and 2 the errors would be 1.5e-6, with twice these 4e-6."""
    rng = np.random.default_rng(0)
    x, dy = np.maximum(rng.standard_normal((8, 8, 8, 64)), 0), rng.standard_normal((8, 8, 8, 64))
    kernel = rng.standard_normal((3, 3, 64, 64)) * (2 / 9 / 64) ** 0.5
    same = ((1, 1), (1, 1))
    for form, args in ((winograd.convolve, (x, kernel)), (winograd.kernel_gradient, (x, dy))):
        found, exact = (form(*(jnp.asarray(a, dtype) for a in args), same) for dtype in ("f4", "f8"))
        assert np.sqrt(np.mean(np.square(found - exact)) / np.mean(np.square(exact))) < 1e-6


def test_products_replace_convolutions(monkeypatch):
    """Without this, the tests of products could pass because nothing uses them."""

    def convolutions(case: Case, dtype=jnp.float32) -> int:
        with one_thread.one_thread():
            program = jax.make_jaxpr(lambda *args: everything.__wrapped__(*args, case, "cpu"))
            return str(program(*arrays(case, dtype))).count("conv_general_dilated[")

    case = CASES["sixteen channels"]
    assert convolutions(case) == 3
    monkeypatch.setattr(one_thread, "PRODUCTS", True)
    assert convolutions(case) == 0
    assert convolutions(case, jnp.bfloat16) == 2  # its kernel's gradient is computed in float32
    for other in ({"channels": 15}, {"strides": (1, 2)}, {"kernel": (2, 3)}, {"size": (5, 5)}):
        assert convolutions(case._replace(**other)) == 3
    # With many channels, only the kernel's gradient is a product, or nothing.
    assert convolutions(case._replace(channels=2**9, features=2**8)) == 2
    assert convolutions(case._replace(channels=2**10, features=2**9)) == 3

    stem = CASES["sixteen channels of a stem"]
    assert convolutions(stem) == 2  # the forward pass is a product
    for other in (
        {"features": 15},
        {"channels": 4},
        {"kernel": (2, 3)},
        {"strides": (2, 1)},
        {"size": (128, 128)},
    ):
        assert convolutions(stem._replace(**other)) == 3
    assert convolutions(stem, jnp.bfloat16) == 3

    strided = CASES["sixteen channels, strided"]
    assert convolutions(strided) == 2  # the kernel's gradient is a product
    for other in ({"channels": 15}, {"features": 65}, {"kernel": (3, 2)}, {"strides": (2, 3)}):
        assert convolutions(strided._replace(**other)) == 3
    monkeypatch.setattr(one_thread, "PRODUCTS", False)
    assert convolutions(strided) == convolutions(stem) == 3


def test_on_one_thread_a_bfloat16_kernel_gradient_is_summed_in_float32():
    x = jnp.full((8, 16, 16, 1), 1.0078125, jnp.bfloat16)
    kernel = jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    with one_thread.one_thread():
        total = jax.grad(
            lambda k: jnp.sum(conv(x, k, padding=((0, 1), (0, 0)), impl="cpu").astype(jnp.float32))
        )
        gradient = total(kernel)
    assert gradient.dtype == jnp.bfloat16
    assert abs(float(gradient[0, 0, 0, 0]) / (2048 * 1.0078125) - 1) < 2**-8


@pytest.mark.parametrize("name", ["cifar", "transition", "projection"])
def test_many_cotangents_at_once(name):
    case = CASES[name]
    x, kernel = arrays(case)
    y, vjp = jax.vjp(partial(conv, impl="cpu", **case.options()), x, kernel)
    cotangents = jnp.asarray(np.random.default_rng(1).standard_normal((3, *y.shape)), y.dtype)
    both = jax.jit(lambda dy: (jax.vmap(vjp)(dy), lax.map(vjp, dy)))(cotangents)
    for together, one_by_one in zip(*both, strict=True):
        np.testing.assert_allclose(together, one_by_one, rtol=1e-4, atol=1e-4)


def test_under_scan_and_vmap_over_images():
    x, kernel = arrays(Case((6, 6), 3, 3))
    kernels = jnp.stack([kernel, 0.5 * kernel, -kernel]) / 5

    def loss(kernels, x, impl, loop):
        if loop:
            x, _ = lax.scan(lambda h, k: (jnp.tanh(conv(h, k, impl=impl)), None), x, kernels)
        else:
            for k in kernels:
                x = jnp.tanh(conv(x[None], k, impl=impl)[0])
        return jnp.sum(jnp.square(x))

    own = jax.value_and_grad(partial(loss, impl="cpu", loop=True), (0, 1))
    stock = jax.value_and_grad(partial(loss, impl="lax", loop=False), (0, 1))
    value, gradients = jax.jit(own)(kernels, x)
    values, (over_kernels, over_x) = jax.jit(jax.vmap(stock, (None, 0)))(kernels, x)
    np.testing.assert_allclose(value, jnp.sum(values), rtol=1e-5)
    np.testing.assert_allclose(gradients[0], jnp.sum(over_kernels, 0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradients[1], over_x, rtol=1e-4, atol=1e-4)


def on_eight_devices(x, kernel, alone: bool):
    """The arrays on eight devices, images split over them, and what to trace under if threads are alone."""
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    kernel = jax.device_put(kernel, NamedSharding(mesh, PartitionSpec()))
    return x, kernel, one_thread.one_thread(mesh) if alone else nullcontext()


@pytest.mark.parametrize(
    "name, alone, products",
    [
        *(
            (name, alone, False)
            for name in ("cifar", "transition", "projection", "sixteen channels", "depthwise")
            for alone in (False, True)
        ),
        ("sixteen channels", True, True),
        ("sixteen channels, strided", True, True),
        ("sixteen channels of a stem", True, True),
    ],
)
def test_eight_devices_agree_with_one(name, alone, products, monkeypatch, x64):
    monkeypatch.setattr(one_thread, "PRODUCTS", products)
    case = CASES[name]._replace(batch=16)
    x, kernel = arrays(case, jnp.float64)
    *shared, threads = on_eight_devices(x, kernel, alone)
    with threads:  # a function of its own, for JAX keeps what was traced
        actual = jax.jit(lambda *args: everything.__wrapped__(*args, case, "cpu"))(*shared)
    for a, e in zip(actual, everything(x, kernel, case, "cpu"), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-11, atol=1e-11)


def test_one_thread_takes_images_that_its_devices_cannot_share(x64):
    """A gradient for each example, or for a part of the batch, inside of what is shared."""
    case = CASES["cifar"]._replace(batch=16)
    *shared, threads = on_eight_devices(*arrays(case, jnp.float64), True)

    def gradient(kernel, x):
        return jax.grad(lambda k: jnp.sum(jnp.sin(conv(x, k, **case.options()))))(kernel)

    def each(x, kernel):
        by_example = jax.vmap(lambda one: gradient(kernel, one[None]))(x)
        return by_example, jnp.sum(by_example[:3], 0) - gradient(kernel, x[:3])

    with threads:
        by_example, difference = jax.jit(each)(*shared)
    np.testing.assert_allclose(difference, 0, atol=1e-11)
    np.testing.assert_allclose(jnp.sum(by_example, 0), gradient(shared[1], shared[0]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", ["cifar", "depthwise"])
def test_kernel_gradient_of_a_batch_on_many_devices_moves_no_images(name, alone):
    case = CASES[name]._replace(batch=16)
    *shared, threads = on_eight_devices(*arrays(case), alone)
    run = jax.jit(lambda *args: everything.__wrapped__(*args, case, "cpu"))
    with threads:
        program = run.lower(*shared).compile().as_text()
    assert "all-reduce" in program
    assert "all-gather" not in program and "all-to-all" not in program


@pytest.mark.parametrize(("channels", "features"), [(8, 3), (3, 8)])
def test_the_product_of_a_1x1_kernel_gradient_has_its_longer_axis_last(channels, features):
    x, dy = jnp.ones((2, 4, 4, channels)), jnp.ones((2, 4, 4, features))
    kernel = jnp.ones((1, 1, channels, features))
    gradient = jax.jit(lambda x, dy: jax.vjp(lambda kernel: conv(x, kernel), kernel)[1](dy)[0])
    compiled = gradient.lower(x, dy).compile().as_text()
    assert re.findall(r"f32\[(\d+,\d+)\]\S* dot\(", compiled) == ["3,8"]
    assert gradient(x, dy).shape == kernel.shape


def test_on_one_thread_many_channels_keep_the_form_of_many_threads():
    """XLA's library, which runs convolutions that are not dilated, reads large kernels again and again."""

    def program(channels: int, stride: int) -> str:
        x, kernel = arrays(Case((6, 6), channels, 32))
        with one_thread.one_thread():
            return str(jax.make_jaxpr(lambda *a: conv(*a, strides=(stride, stride), impl="cpu"))(x, kernel))

    dilated = {c_s: "lhs_dilation=(2, 1)" in program(*c_s) for c_s in ((128, 1), (129, 1), (64, 2), (65, 2))}
    assert dilated == {(128, 1): False, (129, 1): True, (64, 2): False, (65, 2): True}


@pytest.mark.parametrize("threads", [nullcontext, one_thread.one_thread])
def test_images_smaller_than_the_window_take_one_product(threads):
    def convolutions(size: int, channels: int) -> int:
        """Of the images and of both gradients."""
        x, kernel = arrays(Case((size, size), channels, 64))
        with threads():
            program = jax.make_jaxpr(jax.grad(lambda x: conv(x, kernel, impl="cpu").sum()))(x)
        return str(program).count("conv_general_dilated[")

    found = {given: convolutions(*given) for given in ((2, 64), (1, 300), (2, 129), (3, 4))}
    # The kernel's gradient stays a convolution.
    assert found == {(2, 64): 1, (1, 300): 1, (2, 129): 3, (3, 4): 3}


@pytest.mark.parametrize("threads", [one_thread.one_thread, nullcontext])
@pytest.mark.parametrize("name", CASES)
def test_transposed_twice_it_is_the_same_program(name, threads, monkeypatch):
    monkeypatch.setattr(one_thread, "PRODUCTS", True)
    x, kernel = arrays(CASES[name])

    def once(x):
        return conv(x, kernel, **CASES[name].options(), impl="cpu")

    def twice(x):
        with transposed_twice():
            output, pull = jax.vjp(once, x)
            return jax.linear_transpose(lambda dy: pull(dy)[0], output)(x)[0]

    with threads():
        first, second = (jax.jit(run).lower(x).as_text().replace(run.__name__, "") for run in (once, twice))
    assert first == second


def test_forward_mode_needs_the_stock_convolution():
    x, kernel = arrays(CASES["cifar"])
    with pytest.raises(TypeError):
        jax.jvp(lambda k: conv(x, k, impl="cpu"), (kernel,), (kernel,))
    y, dy = jax.jvp(lambda k: conv(x, k, impl="lax"), (kernel,), (kernel,))
    np.testing.assert_allclose(y, dy, rtol=1e-5)


def test_auto_is_this_gradient_on_cpu():
    x, kernel = arrays(CASES["cifar"])
    assert "custom_vjp" in str(jax.make_jaxpr(conv)(x, kernel))
    assert "custom_vjp" not in str(jax.make_jaxpr(partial(conv, impl="lax"))(x, kernel))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"impl": "fast"}, "'auto', 'lax', 'cpu'"),
        ({"padding": "FULL"}, "'SAME', 'VALID'"),
        ({"padding": ((-1, 0), (0, 0))}, "negative"),
        ({"strides": (0, 1)}, "strides"),
        ({"groups": 3}, "groups=3"),
        ({"x": jnp.zeros((8, 8, 4))}, "B, H, W, C"),
        ({"x": jnp.zeros((2, 8, 8, 5))}, "5 channels"),
        ({"x": jnp.zeros((2, 8, 8, 4), jnp.int32)}, "cast"),
        ({"x": jnp.zeros((2, 8, 8, 4), jnp.bfloat16)}, "cast"),
        ({"x": jnp.zeros((2, 2, 2, 4)), "padding": "VALID"}, "does not fit"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    arguments = {"x": jnp.zeros((2, 8, 8, 4)), "kernel": jnp.zeros((3, 3, 4, 6)), **changes}
    with pytest.raises(ValueError, match=message):
        conv(arguments.pop("x"), arguments.pop("kernel"), **arguments)
