"""The examples of an analysis: checked inputs and labels, and rows of them.

Inputs are one array [N, …] or a pytree of them: images float [N, H, W, C], token ids int [N, T], tokens and a
mask. Only the stem of a network sees them. Labels are int [N], or [N, …] with one for each position.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.example import described, one_example
from resjax.network.refusal import Refusal


def num_examples(inputs: Any) -> int:
    """N of checked inputs."""
    return len(jax.tree.leaves(inputs)[0])


def take(inputs: Any, rows: Any) -> Any:
    """The examples ``rows``, an index of the axis N, of inputs."""
    return jax.tree.map(lambda v: v[rows], inputs)


def evenly_spread(total: int) -> np.ndarray:
    """An order of ``total`` examples, int [total], of which every beginning is spread evenly over them.

    So a subset represents a set that is sorted by class, and a smaller subset is part of a larger one.
    Example k is at the place of the fraction of k·φ among the fractions of 0·φ, 1·φ, …, with the golden ratio
    φ. Of so many points on a circle, the widest gap is at most φ² = 2.6 times the narrowest (the three-gap
    theorem).
    """
    fractions = np.arange(total) * ((5**0.5 - 1) / 2) % 1
    return np.argsort(np.argsort(fractions, kind="stable"), kind="stable")


def differentiable(inputs: Any) -> bool:
    """Whether inputs are one array of floats, so that a gradient at the inputs is one array, too."""
    leaves = jax.tree.leaves(inputs)
    return len(leaves) == 1 and jnp.issubdtype(leaves[0].dtype, jnp.floating)


def check_network(network: Any) -> None:
    """Raises a ``ValueError`` for what is no network, such as a ``Found`` or a module of Flax."""
    if not isinstance(network, Network):
        raise ValueError(
            f"the first argument is a {type(network).__name__}; it must be a resjax.network.Network, such as "
            "found.network, where found = resjax.discover(…)"
        )


def checked_inputs(network: Network, inputs: Any) -> Any:
    """Inputs as numpy arrays, after a check that an analysis can use them.

    Raises:
      ValueError: no example, arrays of different lengths, no array, or integers that should be standardized
        images.
    """
    check_network(network)
    leaves = jax.tree.leaves(inputs)
    if leaves and all(isinstance(leaf, int | float) for leaf in leaves):
        inputs = np.asarray(inputs)  # nested lists of numbers are one array
    inputs = jax.tree.map(np.asarray, inputs)
    leaves = jax.tree.leaves(inputs)
    allowed = (jnp.floating, jnp.integer, jnp.bool_)
    if not leaves or not all(v.ndim and any(jnp.issubdtype(v.dtype, a) for a in allowed) for v in leaves):
        raise ValueError(
            f"inputs must be arrays [N, …] of floats, integers or bools, or a pytree of them, got "
            f"{described(inputs)}"
        )
    if len({len(v) for v in leaves}) > 1:
        raise ValueError(f"all inputs need one number N of examples, got {described(inputs)}")
    one = leaves[0] if len(leaves) == 1 else None
    whole = one is not None and one.ndim == 4 and not jnp.issubdtype(one.dtype, jnp.floating)
    if whole and not network.integer_images:
        raise ValueError(
            "images must be float [N, H, W, C], standardized as in training (resjax.data.standardize), got "
            f"{described(inputs)}"
        )
    if num_examples(inputs) == 0:
        raise ValueError(f"there is no example: inputs are {described(inputs)}")
    return inputs


def check_images(images: np.ndarray) -> None:
    """Checks that images are one array float [N, H, W, C], N ≥ 1; raises a ``ValueError``."""
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating) or not len(images):
        raise ValueError(
            "images must be float [N, H, W, C], N ≥ 1, standardized as in training "
            f"(resjax.data.standardize), got {described(images)}"
        )


def only_images(inputs: Any, why: str, labels: np.ndarray | None = None) -> None:
    """Refuses inputs that are not one array of images [N, H, W, C] with labels [N]; ``why`` says what needs
    them."""
    leaves = jax.tree.leaves(inputs)
    if labels is not None and labels.ndim != 1:
        raise Refusal(f"{why} need one label for each image; the labels are {described(labels)}")
    if len(leaves) != 1 or len(leaves[0].shape) != 4 or not differentiable(inputs):
        raise Refusal(f"{why} need images, float [N, H, W, C]; the inputs are {described(inputs)}")


def only_modules(network: Network, why: str) -> None:
    """Refuses a network whose layers can't be seen; ``why`` says what needs them."""
    if network.opaque:
        raise Refusal(
            f"{why} need layers that are Flax modules; this network was found in a function, so its parts "
            "are equations: write it as a resjax.network.Network"
        )


def logits_shape(network: Network, variables: Variables, example: Any) -> tuple[int, ...]:
    """[…, classes]: the shape of one example's logits; nothing is computed.

    Raises:
      ValueError: inputs that the network can't take.
    """
    x = one_example(example)
    with tracing(x):
        logits = _logits.eval_shape(network, variables, x)
    return tuple(logits.shape[1:])


# A compiled function is traced once for each form of its arguments; ``jax.eval_shape`` traces in every call.
_logits = jax.jit(lambda network, variables, x: network.apply(variables, x).logits, static_argnums=0)


@contextlib.contextmanager
def tracing(example: Any) -> Iterator[None]:
    """Within it, a network is traced with ``example``; what it can't take becomes a ``ValueError``."""
    try:
        yield
    except (TypeError, AttributeError, IndexError, KeyError, AssertionError) as error:
        raise ValueError(
            f"the network can't take inputs like {described(example)}: {error}; give inputs of the form on "
            "which it was trained, with a leading axis of examples"
        ) from error


def check_labels(labels: np.ndarray, count: int, logits: tuple[int, ...]) -> None:
    """Checks the labels of ``count`` examples whose logits are [N, *logits].

    Raises:
      ValueError: labels of another shape than the logits', not integers, or outside the classes.
    """
    if not logits:
        raise ValueError("logits must be [N, classes] or [N, positions, classes]; the network returns [N]")
    *positions, classes = logits
    needed = [count, *positions]
    if list(labels.shape) != needed:
        raise ValueError(f"{count} examples need labels of shape {needed}, got {list(labels.shape)}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, the numbers of classes, got {labels.dtype}")
    several = len(needed) > 1
    if labels.max() >= classes or (labels.min() < 0 and not several):
        raise ValueError(
            f"labels must lie in 0 … {classes - 1}, the classes of the network, got "
            f"{labels.min()} … {labels.max()}"
        )
    if several and not (labels >= 0).reshape(count, -1).any(1).all():
        raise ValueError(
            "every example needs a position that counts; negative labels mark positions that do not, and "
            "some example has only such"
        )


def checked_examples(
    network: Network, variables: Variables, inputs: Any, labels: ArrayLike | None
) -> tuple[Any, np.ndarray, int]:
    """Inputs and labels as numpy arrays after all checks, and the number of classes of the network; without
    labels, all labels are 0."""
    inputs = checked_inputs(network, inputs)
    count, logits = num_examples(inputs), logits_shape(network, variables, inputs)
    known = np.zeros((count, *logits[:-1]), int) if labels is None else np.asarray(labels)
    check_labels(known, count, logits)
    return inputs, known, logits[-1]
