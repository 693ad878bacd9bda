"""Inserts units that do nothing, yet can learn: a deeper network that starts as the same function.

*Residual units.* The new unit is a freshly initialized copy of the units of the stack that it joins. Its
branch is then made 0 **and stays trainable**. Exactly one weight array is set to 0 for that: of two
consecutive factors of 0, neither gets a gradient. (A gate of 0 does not count: it is not a weight.) Fixup
(Zhang et al. 2019) sets the last convolution to 0, Goyal et al. (2017, §5.1) γ of the last BatchNorm, ReZero
and SkipInit a scalar. In a given unit the array is found by trial: one array after the other is set to 0,
from the last in running order, until the branch is exactly 0 on real states, in inference and in training,
while the gradient of that array is not. A branch that ends with a ReLU has no such array: the ReLU's
derivative at 0 is 0.

Then y = x + 0 is x, if the shortcut is the identity. A post-activation unit gives y = ReLU(x + 0), which is x
only where x ≥ 0, as behind another ReLU. A pre-activation unit is the identity everywhere.

*Plain units* must be the identity as a whole: kernels are 0 except for a 1 from each channel to itself at the
centre tap (Dirac); biases are 0; BatchNorm has running statistics μ, σ² of the states there, β = μ and
γ = √(σ² + ε). This changes nothing in inference; in training the output changes by as much as the statistics
of a batch differ from μ and σ². γ is rounded to five binary digits (by at most 3 %), and σ² is computed from
it: then γ / √(σ² + ε) is 1 in float32 to the last bit. A ReLU is the identity where x ≥ 0; tanh never is.

All of this is checked on real states; a unit that fails is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import ArrayLike

from resjax.models.layers import BatchNorm
from resjax.network import Network, Stack, Variables
from resjax.network.parts import part_of
from resjax.network.refusal import Refusal
from resjax.network.unit import Parts, Unit
from resjax.studies.examples import only_modules
from resjax.training.step import Task, TrainState, state_of

# Largest relative difference of a plain unit's output from its input that counts as float32 rounding.
ROUNDING = 1e-5
# These programs run once or twice, so compile time counts more than run time.
_QUICK = {"xla_backend_optimization_level": 0}


def insert(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    *,
    after: int,
    count: int = 1,
    key: jax.Array,
    states: Sequence[jax.Array] | None = None,
    identity: bool = True,
) -> tuple[Network, Variables]:
    """A deeper network that computes the same function: ``count`` new units behind unit ``after``.

    Args:
      network, variables: neither is changed.
      images: a few dozen, standardized as in training. They give the states on which new units are checked,
        and the statistics of a plain unit's BatchNorm.
      after: number of the unit from 0, or −1 for a place in front of all. New units join that unit's stack,
        or the next stack, where only that one keeps the shape.
      count: how many units.
      key: for their initialization.
      states: of ``images`` in front of the first unit and behind each one (``states_of``), where known.
      identity: False leaves new units as initialized, so the deeper network is another function.

    Raises:
      ValueError: no such place.
      Refusal: no unit there keeps the shape, or the unit can't be an identity.
    """
    if not -1 <= after < network.num_units or count < 1:
        raise ValueError(
            f"after={after}, count={count}; allowed: −1 … {network.num_units - 1}, and 1 or more"
        )
    only_modules(network, "new units")
    if groups := sorted({stack.group for stack in network.stacks if stack.group}):
        raise Refusal(
            f"the units of this network belong to groups ({', '.join(groups)}), whose variables several "
            "stacks share; a unit can be inserted only into a network whose stacks have parts of their own"
        )
    if states is None:
        states = states_of(network, variables, jnp.asarray(images))
    h = states[after + 1]
    stack, position = _place(network, variables, after, h)
    new = [_fresh(stack.unit, h, k) for k in jax.random.split(key, count)]
    if identity:
        make = _zero_branch if stack.unit.residual else _plain_identity
        new = [make(stack.unit, own, h) for own in new]

    def join(old: jax.Array, *own: jax.Array) -> jax.Array:
        return jnp.concatenate([old[:position], jnp.stack(own), old[position:]])

    deeper = {collection: dict(tree) for collection, tree in variables.items()}
    for collection, own in part_of(variables, stack.name).items():
        joined = jax.tree.map(join, own, *(v[collection] for v in new))
        deeper[collection][stack.name] = joined
    longer = replace(stack, n=stack.n + count)
    stacks = tuple(longer if s.name == stack.name else s for s in network.stacks)
    dropout = network.unit_dropout
    if dropout is not None:
        if reason := fixed_depth(network, after, count):
            raise Refusal(reason)
        dropout = replace(dropout, num_units=network.num_units + count)
    return replace(network, stacks=stacks, unit_dropout=dropout), deeper


def start_from(task: Task, variables: Variables, seed: int = 0) -> TrainState:
    """A state with which ``resjax.training.step.train_step`` continues training from given variables.

    The optimizer starts afresh, because its moments belong to other parameters, and so does its schedule:
    give the task a suitable one, usually a small constant rate::

        network, variables = insert(run.network, run.variables, images, after=5, key=jax.random.key(0))
        task = dataclasses.replace(run.experiment.task, network=network, optimizer=optax.sgd(1e-3, 0.9))
        state, metrics = train_step(start_from(task, variables), batch, task=task)
    """
    return state_of(task, variables, jax.random.key(seed))


@partial(jax.jit, static_argnums=0, compiler_options=_QUICK)
def states_of(network: Network, variables: Variables, images: jax.Array) -> list[jax.Array]:
    """The state at each place: in front of the first unit, then behind each one; arrays [B, …]."""
    stem, _ = network.run_stem(network.bound(variables, images), images)
    taps = network.apply(variables, images, tap=lambda parts: parts.y).taps
    return [stem, *(y for stack in network.stacks for y in taps[stack.name])]


def fixed_depth(network: Network, after: int = -1, count: int = 1) -> str | None:
    """Why ``count`` more units behind unit ``after`` would change the units of ``network``, or None."""
    dropout = network.unit_dropout
    if dropout is None:
        return None
    if dropout.kept:
        return "units were cut from this network, and stochastic depth draws for those that were there"
    more = replace(dropout, num_units=dropout.num_units + count)
    others = np.delete(np.asarray(more.at_test()), np.arange(count) + after + 1)
    if np.array_equal(others, dropout.at_test()):
        return None
    return (
        f"stochastic depth {dropout.kind!r} scales branches at test by survival probabilities, which "
        "change with the number of units; use a network with model.unit_scale_at_test=False"
    )


def _place(network: Network, variables: Variables, after: int, h: jax.Array) -> tuple[Stack, int]:
    """The stack that a unit behind unit ``after`` joins, and its position there."""
    units = network.units
    stacks = [(units[after].stack, units[after].position + 1)] if after >= 0 else []
    if after + 1 < len(units) and units[after + 1].position == 0:
        stacks.append((units[after + 1].stack, 0))
    # A unit that stands alone differs in form from its neighbours, so longer stacks come first.
    for stack, position in sorted(stacks, key=lambda place: place[0].n == 1):
        if _fits(stack, variables, h):
            return stack, position
    names = " and ".join(f"{stack.name!r}" for stack, _ in stacks)
    raise Refusal(
        f"after={after}: no copy of the units of {names} fits there: they change the shape, or take another "
        "number of inputs; choose a place beside a unit that keeps the shape"
    )


def _fits(stack: Stack, variables: Variables, h: jax.Array) -> bool:
    """Whether a unit on ``h`` returns its shape, and has the parameters of the others in the stack."""
    init, keys = partial(stack.unit.init_with_output, train=False), _keys(jax.random.key(0))
    try:
        y, own = jax.eval_shape(init, keys, h)
    except (TypeError, ValueError):  # for example, a window larger than this state
        return False
    shapes = jax.tree.map(lambda v: v.shape, dict(own))
    others = jax.tree.map(lambda v: v.shape[1:], part_of(variables, stack.name))
    return bool(y.shape == h.shape and shapes == others)


@partial(jax.jit, static_argnums=0, compiler_options=_QUICK)
def _fresh(unit: Unit, h: jax.Array, key: jax.Array) -> dict[str, Any]:
    return dict(unit.init(_keys(key), h, train=False))


def _keys(key: jax.Array) -> dict[str, jax.Array]:
    return dict(zip(("params", "dropout"), jax.random.split(key), strict=True))


# --- residual units ---


@partial(jax.jit, static_argnums=0, compiler_options=_QUICK)
def _try(unit: Unit, variables: Variables, h: jax.Array) -> tuple[jax.Array, Any, Parts]:
    """Runs a unit: whether some entry of the branch is not 0, in inference or in training; the gradients of a
    random projection of the branch; and the parts in inference."""

    def parts(params: Any, train: bool) -> Any:
        how: Any = {"rngs": {"dropout": jax.random.key(0)}, "mutable": ["batch_stats"]}
        return unit.apply({**variables, "params": params}, h, None, train, method="parts", **how)[0]

    def projected(params: Any) -> tuple[jax.Array, jax.Array]:
        f = parts(params, True).branch.astype(jnp.float32)
        return jnp.vdot(f, jax.random.normal(jax.random.key(1), f.shape)), jnp.any(f)

    gradients, in_training = jax.grad(projected, has_aux=True)(variables["params"])
    inferred = parts(variables["params"], False)
    return jnp.any(inferred.branch) | in_training, gradients, inferred


class _Same(nn.Module):
    @nn.compact
    def __call__(self, h: jax.Array, train: bool) -> jax.Array:
        del train
        return h


@lru_cache(maxsize=64)
def _running_order(unit: Unit, shape: tuple[int, ...]) -> list[str]:
    alone = Network(_Same(), (Stack("unit", unit, 1, 1),), _Same())
    return alone.layer_paths(shape)["unit"]


def _zero_branch(unit: Unit, fresh: dict[str, Any], h: jax.Array) -> dict[str, Any]:
    """``fresh`` with the leaf set to 0 that makes the branch 0 and still gets a gradient; see the module."""
    paths = _running_order(unit, h.shape[1:])
    for path in (None, *reversed(paths)):  # None: some units start with a branch of 0
        flat = flatten_dict(fresh["params"], sep="/")
        if path is not None:
            flat[path] = jnp.zeros_like(flat[path])
        variables = {**fresh, "params": unflatten_dict(flat, sep="/")}
        branch, found, parts = _try(unit, variables, h)
        gradients = flatten_dict(found, sep="/")
        learns = [np.any(np.asarray(gradients[p])) for p in ([path] if path else gradients)]
        if not branch and any(learns):
            _check_identity(h, parts)
            return variables
    raise Refusal(
        f"no single leaf of {type(unit).__name__} ({', '.join(paths)}) makes its branch 0 and still gets a "
        "gradient. A ReLU at the end of a branch blocks it: let the branch end with a weight layer, a "
        "BatchNorm or a trainable scalar"
    )


def _check_identity(h: jax.Array, parts: Parts) -> None:
    """Refuses a residual unit that is not the identity even with a branch of 0."""
    if np.array_equal(parts.y, h):
        return
    why = (
        f"what follows its sum alters it by up to {_largest(parts.y, h):.2g} (the smallest input is "
        f"{np.min(h):.2g}); a ReLU there needs inputs ≥ 0, a BatchNorm there is not the identity"
    )
    if beside := _largest(parts.shortcut, h):
        why = f"its shortcut alters its input by up to {beside:.2g}; it needs an identity shortcut"
    raise Refusal(f"with a branch of 0 this residual unit is not the identity: {why}")


# --- plain units ---


def _plain_identity(unit: Unit, fresh: dict[str, Any], h: jax.Array) -> dict[str, Any]:
    """``fresh`` with layers that are the identity on states ≥ 0; see the module."""
    params = flatten_dict(fresh["params"], sep="/")
    stats = flatten_dict(fresh.get("batch_stats", {}), sep="/")
    axes = tuple(range(h.ndim - 1))
    # All layers are identities, so each BatchNorm sees h itself.
    mean, deviation = jnp.mean(h, axes), jnp.sqrt(jnp.var(h, axes) + BatchNorm.epsilon)
    gamma = _few_digits(np.asarray(deviation, np.float64))
    for path, leaf in params.items():
        layer, _, name = path.rpartition("/")
        normalizes = f"{layer}/var" in stats
        if name == "kernel":
            params[path] = jnp.asarray(_dirac(path, leaf.shape), leaf.dtype)
        elif name == "bias":
            params[path] = (mean if normalizes else jnp.zeros(leaf.shape)).astype(leaf.dtype)
        elif name == "scale" and normalizes:
            params[path] = jnp.asarray(gamma, leaf.dtype)
            stats[f"{layer}/mean"] = mean.astype(leaf.dtype)
            stats[f"{layer}/var"] = jnp.asarray(gamma**2 - BatchNorm.epsilon, leaf.dtype)
    variables = {**fresh, "params": unflatten_dict(params, sep="/")}
    if stats:
        variables["batch_stats"] = unflatten_dict(stats, sep="/")
    y: Any = unit.apply(variables, h, train=False)
    difference = _largest(y, h)
    if difference > ROUNDING * float(np.max(np.abs(h))):
        raise Refusal(
            f"identity kernels do not make this plain unit the identity: it alters its input by up to "
            f"{difference:.2g} (the smallest input is {np.min(h):.2g}). It needs ReLUs and inputs ≥ 0; tanh, "
            "normalization across channels, or a ReLU on inputs of both signs are never the identity"
        )
    return variables


def _dirac(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Kernel [..., in a group, out]: each channel to itself, at the centre of the window."""
    *window, inner, out = shape
    if out % inner:
        raise Refusal(f"{path} maps {inner} to {out} channels, but an identity needs equal numbers")
    kernel = np.zeros(shape)
    channel = np.arange(out)
    centre: Any = tuple((k - 1) // 2 for k in window)
    kernel[centre][channel % inner, channel] = 1
    return kernel


def _few_digits(values: np.ndarray) -> np.ndarray:
    """Positive numbers rounded to five binary digits, 2⁻⁸ or more: their squares are exact, and above ε."""
    fraction, exponent = np.frexp(np.maximum(values, 2.0**-8))
    return np.ldexp(np.round(fraction * 32) / 32, exponent)


def _largest(a: Any, b: ArrayLike) -> float:
    """The largest |a − b|."""
    return float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))))
