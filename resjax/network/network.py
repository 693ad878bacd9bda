"""A network as data: a stem, stacks of equal units, and a head.

Every network of this project (residual, plain, VGG, AlexNet, LeNet, or your own) has the same structure::

    h = stem(image)
    for unit in units:                       # n units, counted from 0
        s, f = unit.split(h)                 # shortcut and branch
        h = unit.merge(s + gate · f)         # a residual unit
        h = unit.merge(gate · f + (1 − gate) · s)   # a plain unit: s only stands in for a deleted branch
    logits = head(h)

and analysis code relies on nothing else. Consecutive equal units form a ``Stack``: their variables are stored
*stacked*, every leaf with a leading axis n, and the stack runs as one ``lax.scan``. So

* deleting a unit is a gate of 0, scaling its branch is a gate of α,
* reordering is indexing the leading axis,
* per-unit gradient norms are a norm over the other axes,

and because gates and orders are *traced* arrays, one compilation serves every lesion and every order. The
size of a program, and its compile time, depend on the number of stacks, not on the depth. ``Network.unroll``
repeats the body inside the loop; it changes speed, but neither variables nor results. On a GPU, where each
iteration costs launches and copies, units train without a loop (``scan_unroll``), and the program grows with
the depth.

Variables are a plain dict ``{"params": {"stem": …, "<stack>": …, "head": …}, "batch_stats": {…}}``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import InvalidRngError, ScopeParamShapeError
from jax import lax
from numpy.typing import ArrayLike

from resjax.network import order as orders
from resjax.network import shape_errors
from resjax.network.example import one_example
from resjax.network.init_keys import init_keys
from resjax.network.layer_order import paths_in_order
from resjax.network.parts import Place, part_of, scan_units
from resjax.network.stochastic_depth import UnitDropout
from resjax.network.unit import CONVOLUTION, STATISTIC, Parts, Stack, UnitInfo

Variables = Mapping[str, Any]
Tap = Callable[[Parts], Any]
_MOST_UNROLLED = 64  # units in a stack; ResNet-200 has 36; ResNet-1202 would compile for minutes


class Output(NamedTuple):
    """``logits`` float32 [B, classes]; ``batch_stats`` after this pass (unchanged outside training);
    ``taps``: for each stack, what ``tap`` returned with a leading axis n (in running order)."""

    logits: jax.Array
    batch_stats: Variables
    taps: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Network:
    """Stem, stacks of units, head. Its methods are pure functions of variables, which it does not hold.

    Attributes:
      stem: module ``(x, train) -> h``, images [B, H, W, C], or other inputs, to the first unit's input.
      stacks: the units, in order. Names must be unique.
      head: module ``(h, train) -> logits`` [B, classes], or [B, …, classes] at several positions.
      unit_dropout: stochastic depth or a variant of it, or None.
      unroll: units per loop iteration, at most all units of a stack; 0 chooses a value that is fast on the
        device (``scan_unroll``). It affects speed only.
    """

    stem: nn.Module
    stacks: tuple[Stack, ...]
    head: nn.Module
    unit_dropout: UnitDropout | None = None
    unroll: int = 0

    def __post_init__(self) -> None:
        names = ["stem", *(s.name for s in self.stacks), "head"]
        if len(set(names)) != len(names):
            raise ValueError(f"the parts of a network need unique names, got {names}")
        if self.unroll < 0:
            raise ValueError(
                f"unroll={self.unroll}; allowed: 1, 2, … units per iteration, or 0 for a fast value"
            )
        if self.unit_dropout is not None:
            if self.unit_dropout.num_units != self.num_units:
                n = self.unit_dropout.num_units
                raise ValueError(f"unit_dropout is for {n} units; this network has {self.num_units}")
            if not all(stack.unit.residual for stack in self.stacks):
                raise ValueError(
                    "unit_dropout needs shortcuts, since a dropped plain unit outputs nothing; use no "
                    "unit_dropout or residual units"
                )

    @property
    def num_units(self) -> int:
        return sum(s.n for s in self.stacks)

    @property
    def units(self) -> tuple[UnitInfo, ...]:
        """All units in order; names like ``stage2/unit3``, counted from 1 within the stage."""
        infos: list[UnitInfo] = []
        seen: dict[int, int] = {}
        for stack in self.stacks:
            for position in range(stack.n):
                seen[stack.stage] = seen.get(stack.stage, 0) + 1
                name = f"stage{stack.stage}/unit{seen[stack.stage]}"
                infos.append(UnitInfo(len(infos), stack, position, name))
        return tuple(infos)

    @property
    def residual(self) -> np.ndarray:
        """bool [unit], whether a unit has a shortcut."""
        return np.array([unit.stack.unit.residual for unit in self.units])

    @property
    def modules(self) -> list[tuple[str, nn.Module, int]]:
        """(name, module, number of units, 0 for stem and head) of each part, in order."""
        stacks = [(stack.name, stack.unit, stack.n) for stack in self.stacks]
        return [("stem", self.stem, 0), *stacks, ("head", self.head, 0)]

    @property
    def integer_images(self) -> bool:
        """Whether images [N, H, W, C] may be integers; tokens and other integers always may."""
        return False

    # --- the parts, for analyses that loop over the units themselves ---

    @property
    def test_gates(self) -> jax.Array | None:
        """float32 [num_units]: the gates of stochastic depth outside training; None without it."""
        return None if self.unit_dropout is None else self.unit_dropout.at_test()

    def places(self, variables: Variables) -> list[Place]:
        """The stacks in order, each with its variables and its gates outside training."""
        gates, found, start = self.test_gates, [], 0
        for stack in self.stacks:
            own = slice(start, start + stack.n)
            part = part_of(variables, stack.name)
            found.append(Place(stack, own, part, None if gates is None else gates[own]))
            start += stack.n
        return found

    def run_stem(
        self, variables: Variables, x: jax.Array, *, train: bool = False, key: Any = None
    ) -> tuple[jax.Array, Variables]:
        """Image → first hidden state, and the stem's new batch statistics."""
        return _run(self.stem, part_of(variables, "stem"), x, train, key)

    def run_head(
        self, variables: Variables, h: jax.Array, *, train: bool = False, key: Any = None
    ) -> tuple[jax.Array, Variables]:
        """Last hidden state → float32 logits, and the head's new batch statistics."""
        logits, stats = _run(self.head, part_of(variables, "head"), h, train, key)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), stats

    def run_stack(
        self,
        stack: Stack,
        variables: Variables,
        h: jax.Array,
        *,
        gates: jax.Array | None = None,
        order: jax.Array | None = None,
        train: bool = False,
        keys: jax.Array | None = None,
        tap: Tap | None = None,
    ) -> tuple[jax.Array, Variables, Any]:
        """Runs one stack with its ``gates`` [n] and ``order`` int [n].

        A gate belongs to a unit and moves with it when ``order`` changes.
        """
        part = part_of(variables, stack.name)
        if order is not None:
            part, gates, keys = jax.tree.map(lambda v: jnp.asarray(v)[order], (part, gates, keys))
        skips = train and self.unit_dropout is not None

        def run_unit(h: jax.Array, xs: Any) -> tuple[jax.Array, Any]:
            part, gate, key = xs

            def run(h: jax.Array) -> tuple[Parts, Variables]:
                return _run(stack.unit, part, h, train, key, gate, method="parts")

            def skip(h: jax.Array) -> tuple[Parts, Variables]:
                # The statistics of a unit that did not run remain unchanged.
                y, _ = _run(stack.unit, part, h, train, key, method="skip")
                shapes = jax.eval_shape(run, h)[0]
                zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
                return zero._replace(x=h, y=y), part.get("batch_stats", {})

            parts, stats = lax.cond(gate != 0, run, skip, h) if skips else run(h)
            return parts.y, (stats, tap(parts) if tap else None)

        looped = train and stack.n > 1
        h, (stats, taps) = scan_units(
            stack.n,
            _rematerialized(run_unit) if looped else run_unit,
            h,
            (part, gates, keys),
            unroll=self.scan_unroll(stack.n, train),
        )
        if order is not None and train:
            stats = jax.tree.map(
                lambda old, new: old.at[order].set(new),
                variables.get("batch_stats", {}).get(stack.name, {}),
                stats,
            )
        return h, stats, taps

    def scan_unroll(self, n: int, train: bool) -> int:
        """Units in one iteration of the scan over a stack of ``n`` units; n means no loop.

        On a GPU, a training step of ResNet-110 without loops takes 0.8 times as long, but twice the memory
        and twice the time to compile (docs/performance.md). In a loop, each iteration launches its kernels
        again and copies what the backward pass needs into an array over all iterations. The loop remains on
        CPUs, for stacks that would compile for minutes, and outside ``train``, where most passes have no
        backward pass.
        """
        if self.unroll:
            return min(self.unroll, n)
        return n if train and n <= _MOST_UNROLLED and jax.default_backend() == "gpu" else 1

    # --- the whole ---

    def init(self, key: jax.Array, example: Any) -> dict[str, Any]:
        """Initial variables for inputs like ``example`` (``one_example``). Under jit, no forward pass is run.

        A residual network and its plain twin get equal values from equal keys.

        Raises:
          ValueError: a unit that changes the shape in a stack of two units or more.
        """
        h = one_example(example)
        parts: dict[str, Any] = {}

        def init_one(module: nn.Module, keys: jax.Array, h: Any) -> Any:
            rngs = {"params": keys[0], "dropout": keys[1]}
            return module.init(rngs, jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), h), train=False)

        of_parts, of_units = init_keys(key, [n for _, _, n in self.modules])
        for i, (name, module, n) in enumerate(self.modules):
            if n:
                keys = of_units[i, :n]
                parts[name] = jax.vmap(lambda k, m=module, h=h: init_one(m, k, h))(keys)
                single = jax.tree.map(lambda v: v[0], parts[name])
            else:
                parts[name] = single = init_one(module, of_parts[i], h)
            out = jax.eval_shape(lambda v, x, m=module: m.apply(v, x, train=False), single, h)
            if n > 1 and out.shape != h.shape:
                first = next(unit.name for unit in self.units if unit.stack.name == name)
                raise ValueError(
                    f"{first}, a {type(module).__name__} of stack {name!r}, maps {list(h.shape[1:])} to "
                    f"{list(out.shape[1:])}, so {n - 1} more of the same form can't follow it: give a unit "
                    "that changes the shape a stack of its own (n=1)"
                )
            h = out
        return {
            collection: {name: v[collection] for name, v in parts.items() if collection in v}
            for collection in ("params", "batch_stats")
        }

    def apply(
        self,
        variables: Variables,
        x: jax.Array,
        *,
        train: bool = False,
        gates: ArrayLike | None = None,
        order: ArrayLike | None = None,
        key: jax.Array | None = None,
        tap: Tap | None = None,
    ) -> Output:
        """Runs the network.

        Args:
          variables: as ``init`` returns them.
          x: images [B, H, W, C], float; or any pytree of arrays [B, …] that the stem takes.
          train: compute and update batch statistics; apply dropout and stochastic depth.
          gates: float [num_units], a factor on each unit's branch; 0 deletes, None and 1 leave it intact.
          order: int [num_units]: at place i runs unit ``order[i]``, which must be of the same stack. Outside
            training a unit may run twice. The values of a traced order are not checked.
          key: random key, needed for dropout and stochastic depth.
          tap: ``Parts -> pytree`` of small arrays, evaluated at every unit, stacked in ``Output.taps``.

        Raises:
          ValueError: a wrong length of gates or order, an order across stacks, a missing key, or images that
            do not fit the variables.
        """
        gates = self._all_gates(gates, train, key)
        order = None if order is None else orders.checked(order, self.units, train)
        stats: dict[str, Any] = {}
        taps: dict[str, Any] = {}
        h, stats["stem"] = self.run_stem(variables, x, train=train, key=_fold(key, 0))
        start = 0
        for i, stack in enumerate(self.stacks, 1):
            own = slice(start, start + stack.n)
            h, stats[stack.name], taps[stack.name] = self.run_stack(
                stack,
                variables,
                h,
                gates=None if gates is None else gates[own],
                order=None if order is None else order[own] - start,
                train=train,
                keys=None if key is None else jax.random.split(jax.random.fold_in(key, i), stack.n),
                tap=tap,
            )
            start += stack.n
        last = len(self.stacks) + 1
        logits, stats["head"] = self.run_head(variables, h, train=train, key=_fold(key, last))
        new_stats = {k: v for k, v in stats.items() if jax.tree.leaves(v)}
        return Output(logits, new_stats if train else variables.get("batch_stats", {}), taps)

    def layer_paths(self, example: Any) -> dict[str, list[str]]:
        """{part: paths of its parameters} in the order of the calls, for inputs like ``example``."""
        return paths_in_order(self.modules, example)

    def deletable(self, variables: Variables, example: Any) -> np.ndarray:
        """bool [num_units]: which units can be deleted, for inputs like ``example`` (``one_example``).

        A residual unit can always be deleted (its shortcut stays), a plain unit if its input and output
        shapes agree.
        """
        x = one_example(example)
        shortcuts = jax.eval_shape(
            lambda v, x: self.apply(v, x, tap=lambda parts: (parts.shortcut,)).taps, variables, x
        )
        return np.array([shortcuts[u.stack.name] != (None,) for u in self.units], bool)

    def _all_gates(self, gates: ArrayLike | None, train: bool, key: jax.Array | None) -> jax.Array | None:
        if gates is not None:  # float64 is kept, for numerical checks
            gates = jnp.asarray(gates)
            gates = gates.astype(jnp.promote_types(gates.dtype, jnp.float32))
            if gates.shape != (self.num_units,):
                raise ValueError(
                    f"gates have shape {gates.shape}; this network has {self.num_units} units, "
                    f"so gates must have shape ({self.num_units},)"
                )
        if self.unit_dropout is None:
            return gates
        if train:
            if key is None:
                raise ValueError("stochastic depth drops random units in training: pass key=")
            # This number differs from those of the parts, which count from 0.
            own = self.unit_dropout.draw(jax.random.fold_in(key, 2**31 - 1))
        else:
            own = self.unit_dropout.at_test()
        return own if gates is None else own * gates


def _rematerialized(run_unit: Callable[..., Any]) -> Callable[..., Any]:
    """Stores convolutions and statistics for the backward pass, and recomputes the rest of a unit.

    A loop stores everything that its backward pass needs. Normalized and rectified activations are cheaper to
    recompute than to write and read. The layers of ``resjax.models`` use ``checkpoint_name`` to mark what is
    stored; layers of other libraries are recomputed as a whole.
    """
    keep = jax.checkpoint_policies.save_only_these_names(CONVOLUTION, STATISTIC)
    return jax.checkpoint(run_unit, prevent_cse=False, policy=keep)


def _run(
    module: nn.Module,
    variables: Variables,
    x: jax.Array,
    train: bool,
    key: jax.Array | None,
    *args: Any,
    method: str | None = None,
) -> tuple[Any, Variables]:
    """Applies one Linen module; returns its output and its batch statistics after the pass."""
    rngs = None if key is None else {"dropout": key}
    try:
        if not train:
            out = module.apply(variables, x, *args, train=False, rngs=rngs, method=method)
            return out, variables.get("batch_stats", {})
        out, updates = module.apply(
            variables, x, *args, train=True, rngs=rngs, method=method, mutable=["batch_stats"]
        )
    except ScopeParamShapeError as error:
        raise ValueError(shape_errors.explain(module, x, error)) from error
    except InvalidRngError as error:
        if not train:
            raise
        raise ValueError("this network draws random numbers in training: pass key=") from error
    return out, updates.get("batch_stats", {})


def _fold(key: jax.Array | None, i: int) -> jax.Array | None:
    return None if key is None else jax.random.fold_in(key, i)
