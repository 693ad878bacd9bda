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

Variables are a plain dict ``{"params": {"stem": …, "<stack>": …, "head": …}, "batch_stats": {…}}``. Equal
units that do not follow one another, such as those of a transformer, can share a part (``Stack.group``); one
loop runs stacks that alternate (``resjax.network.periods``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.network import groups
from resjax.network import order as orders
from resjax.network.example import one_example
from resjax.network.initial import initial_variables
from resjax.network.layer_order import paths_in_order
from resjax.network.parts import part_of
from resjax.network.periods import Place, by_part, by_stack, by_unit, places_of
from resjax.network.run import run_module, run_units
from resjax.network.stochastic_depth import UnitDropout
from resjax.network.unit import Parts, Stack, UnitInfo

Variables = Mapping[str, Any]
Tap = Callable[[Parts], Any]
# Of a layer: its names, one for each unit of its part; its response [B, …]; whether that is normalized.
Report = Callable[[tuple[str, ...], jax.Array, bool], None]
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
        groups.check(self.stacks)
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
    def spans(self) -> list[tuple[Stack, slice]]:
        """The stacks in order, each with the indices of its units."""
        ends = np.cumsum([0, *(stack.n for stack in self.stacks)]).tolist()
        return list(zip(self.stacks, itertools.starmap(slice, itertools.pairwise(ends)), strict=True))

    @property
    def classes(self) -> list[np.ndarray]:
        """The indices of equal units, which can take each other's place: an array for each stack or group."""
        return groups.classes(self.units)

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

    @property
    def opaque(self) -> bool:
        """Whether the layers of stem, units and head can't be seen, because they are no Flax modules."""
        return False

    def reporting(self, report: Report) -> contextlib.AbstractContextManager[None]:
        """Within it, an opaque network calls ``report`` for each layer of stem and units, except those on
        shortcuts, when the part is run. Flax modules report nothing; Flax can intercept them."""
        del report
        return contextlib.nullcontext()

    @property
    def trains(self) -> bool:
        """Whether it has a training mode."""
        return True

    @property
    def chained(self) -> bool:
        """Whether a state stands between any two units. Else ``apply`` works with gates, but the parts do not
        exist, and it takes neither ``order`` nor ``tap``."""
        return True

    def check_chain(self) -> None:
        """Raises a ``Refusal`` if the units are not ``chained``."""

    # --- the parts, for analyses that loop over the units themselves ---

    @property
    def test_gates(self) -> jax.Array | None:
        """float32 [num_units]: the gates of stochastic depth outside training; None without it."""
        return None if self.unit_dropout is None else self.unit_dropout.at_test()

    def bound(self, variables: Variables, x: Any) -> Variables:
        """``variables``, with what the parts read beside the state, such as masks and positions of ``x``.

        ``apply`` calls it. A function that runs the parts itself must call it first, where it is
        differentiated and compiled together with them. A network without such inputs returns ``variables``.
        """
        del x
        return variables

    def places(self, variables: Variables, gates: jax.Array | None = None) -> list[Place]:
        """The loops over the units in order, each with its variables and gates, by default those outside
        training; see ``resjax.network.periods``."""
        return places_of(self.stacks, variables, self.test_gates if gates is None else gates)

    def keys(self, key: jax.Array | None, places: Sequence[Place]) -> dict[str, Any]:
        """Random keys of the parts: 'stem', 'head', and 'units', a list with those of each place [m]."""
        if key is None:
            return {"stem": None, "units": [None] * len(places), "head": None}
        number = {stack.name: i for i, stack in enumerate(self.stacks, 1)}

        def of_stack(i: Any, n: int) -> jax.Array:
            return jax.random.split(jax.random.fold_in(key, i), n)

        def of_place(place: Place) -> jax.Array:
            own = [number[stack.name] for stack in place.stacks]
            if not own[1:]:
                return of_stack(own[0], place.stack.n)
            return jax.vmap(lambda i: of_stack(i, place.stack.n))(jnp.array(own)).reshape(-1)

        stem, head = (jax.random.fold_in(key, i) for i in (0, len(self.stacks) + 1))
        return {"stem": stem, "units": [of_place(place) for place in places], "head": head}

    def run_stem(
        self, variables: Variables, x: Any, *, train: bool = False, key: Any = None
    ) -> tuple[jax.Array, Variables]:
        """Input → first hidden state, and the stem's new batch statistics."""
        return run_module(self.stem, part_of(variables, "stem"), x, train, key)

    def run_head(
        self, variables: Variables, h: jax.Array, *, train: bool = False, key: Any = None
    ) -> tuple[jax.Array, Variables]:
        """Last hidden state → float32 logits, and the head's new batch statistics."""
        logits, stats = run_module(self.head, part_of(variables, "head"), h, train, key)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), stats

    def run_places(
        self,
        places: Sequence[Place],
        h: jax.Array,
        *,
        train: bool = False,
        keys: Sequence[Any] | None = None,
        tap: Tap | None = None,
    ) -> tuple[jax.Array, list[Any], list[Any]]:
        """Runs the units of ``places`` (of ``self.places``, all or those of some loops) with their gates.

        Args:
          places: with variables and gates.
          h: the state in front of them.
          train, tap: see ``apply``.
          keys: random keys of each place.

        Returns:
          The state behind them; for each place, the new batch statistics of its units, and what ``tap``
          returned, with a leading axis of units.
        """
        return run_units(
            places,
            h,
            [None] * len(places) if keys is None else keys,
            train=train,
            skips=train and self.unit_dropout is not None,
            tap=tap,
            unroll=lambda n: self.scan_unroll(n, train),
        )

    def run_stack(
        self,
        stack: Stack,
        variables: Variables,
        h: jax.Array,
        *,
        gates: jax.Array | None = None,
        train: bool = False,
        keys: jax.Array | None = None,
        tap: Tap | None = None,
    ) -> tuple[jax.Array, Variables, Any]:
        """Runs one stack with its ``gates`` [n] and random ``keys`` [n]: the state behind it, its new batch
        statistics, and what ``tap`` returned."""
        place = Place((stack,), np.arange(stack.n), part_of(variables, stack), gates, 0)
        h, (stats,), (taps,) = self.run_places([place], h, train=train, keys=[keys], tap=tap)
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
        names = [unit.name for unit in self.units]
        return initial_variables(self.modules, names, self.stacks, key, one_example(example))

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
          order: int [num_units]: at place i runs unit ``order[i]``, which must be of the same stack or group;
            its gate moves with it. Outside training a unit may run twice. The values of a traced order are
            not checked.
          key: random key, needed for dropout and stochastic depth.
          tap: ``Parts -> pytree`` of small arrays, evaluated at every unit, stacked in ``Output.taps``.

        Raises:
          ValueError: a wrong length of gates or order, an order that mixes different units, a missing key, or
            images that do not fit the variables.
        """
        given = self.bound(variables, x)
        order = None if order is None else orders.checked(order, self.units, train)
        variables, gates = orders.arranged(given, self.all_gates(gates, train, key), order, self.units)
        places = self.places(variables, gates)
        keys = self.keys(key, places)
        if order is not None and key is not None:
            of_units = by_unit(places, keys["units"])[order]
            keys["units"] = [place.take(of_units) for place in places]
        stats: dict[str, Any] = {}
        h, stats["stem"] = self.run_stem(variables, x, train=train, key=keys["stem"])
        h, of_places, taps = self.run_places(places, h, train=train, keys=keys["units"], tap=tap)
        logits, stats["head"] = self.run_head(variables, h, train=train, key=keys["head"])
        if not train:
            return Output(logits, given.get("batch_stats", {}), by_stack(places, taps))
        stats |= by_part(places, of_places)
        if order is not None:
            rows = orders.rows(order, self.units)
            stats = orders.put_back(given.get("batch_stats", {}), stats, rows)
        new_stats = {k: v for k, v in stats.items() if jax.tree.leaves(v)}
        return Output(logits, new_stats, by_stack(places, taps))

    def layer_paths(self, example: Any) -> dict[str, list[str]]:
        """{stem, head or stack: paths of its parameters} in the order of the calls, for inputs like
        ``example``."""
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

    def all_gates(
        self, gates: ArrayLike | None, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array | None:
        """``gates`` [num_units], checked, times those of stochastic depth; None where nothing is gated."""
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
