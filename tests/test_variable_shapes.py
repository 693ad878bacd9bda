"""Shapes of variables: those of initial variables, found with one trace of each part."""

import jax
import jax.numpy as jnp
from network_helpers import initial

from resjax import models
from resjax.models.residual import ResidualUnit
from resjax.network import Network
from resjax.network.initial import variable_shapes

SHAPE = (6, 6, 3)


def build(features):
    model = models.defaults("resnet", stage_sizes=(3, 2), widths=(features, 2 * features))
    return models.build(model, image_shape=SHAPE, num_classes=3)


def counted(cls, name, monkeypatch):
    """A list that grows with every call of this method."""
    calls, real = [], getattr(cls, name)

    def called(self, *given, **how):
        calls.append(name)
        return real(self, *given, **how)

    monkeypatch.setattr(cls, name, called)
    return calls


def test_they_are_those_of_initial_variables_and_found_once(monkeypatch):
    calls = counted(Network, "init", monkeypatch)
    shapes = variable_shapes(build(3), SHAPE)
    again = variable_shapes(build(3), jnp.zeros((5, *SHAPE)))  # of an equal network, given more examples
    assert shapes == again and len(calls) == 1
    variables = initial(build(3), SHAPE)
    assert jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), variables) == shapes
    assert variable_shapes(build(4), SHAPE) != shapes


def test_initial_variables_are_made_with_one_trace_of_each_part(monkeypatch):
    network = build(5)
    calls = counted(ResidualUnit, "split", monkeypatch)
    variable_shapes(network, SHAPE)
    assert len(calls) == len(network.stacks) < network.num_units
