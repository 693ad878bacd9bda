"""The form of a network's input: images by their shape, and pytrees of arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resjax.network.example import alike, described, one_example


def test_a_shape_stands_for_images():
    expected = jax.ShapeDtypeStruct((1, 8, 6, 3), jnp.float32)
    assert one_example((8, 6, 3)) == expected
    assert one_example([np.int64(8), 6, 3]) == expected
    assert one_example(np.zeros((5, 8, 6, 3), np.float32)) == expected


def test_a_pytree_keeps_its_form_and_the_dtypes_of_jax():
    inputs = {"tokens": np.zeros((4, 7), np.int64), "mask": np.zeros((4, 7), bool)}
    found = one_example(inputs)
    assert found["tokens"] == jax.ShapeDtypeStruct((1, 7), jnp.int32)
    assert found["mask"] == jax.ShapeDtypeStruct((1, 7), jnp.bool_)
    assert one_example(found) == found
    assert one_example((np.zeros((4, 2)), np.zeros(4)))[1] == jax.ShapeDtypeStruct((1,), jnp.float32)


@pytest.mark.parametrize("example", [{}, None, np.float32(1), {"a": 3}, "images"])
def test_what_has_no_axis_of_examples_is_refused(example):
    with pytest.raises(ValueError, match="a leading axis of examples"):
        one_example(example)


def test_inputs_are_described():
    assert described(np.zeros((2, 3), np.float32)) == "float32 [2, 3]"
    assert (
        described({"a": np.zeros(2, bool), "b": np.zeros((2, 1), np.int8)})
        == "['a'] bool [2], ['b'] int8 [2, 1]"
    )
    assert described({}) == "no array"


def test_inputs_of_different_forms_are_not_alike():
    inputs = {"a": np.zeros((2, 3)), "b": np.zeros(2)}
    assert alike(inputs, {"a": np.zeros((5, 3), int), "b": np.zeros(5)})
    assert not alike(inputs, {"a": np.zeros((5, 4)), "b": np.zeros(5)})
    assert not alike(inputs, {"a": np.zeros((5, 3))})
