"""Forward functions for ``resjax.studies.variants`` that run a network with changed units.

They give units other variables, freeze branches to their mean, or give all units of a stack the same input.
Which units are changed is a traced array of bools, so each function is compiled once. For gates and orders,
``variants`` has ``with_gates`` and ``with_order``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Stack, Variables
from resjax.network.example import one_example
from resjax.network.groups import of_rows
from resjax.network.parts import part_of, scan_units
from resjax.network.periods import Place, scan_places
from resjax.network.refusal import Refusal
from resjax.studies.batches import BATCH_SIZE, Inference, Progress, padded_batches, part, within
from resjax.studies.costs import Cost, evaluated, training
from resjax.studies.examples import checked_inputs, num_examples
from resjax.studies.lesions.one_by_one import Change, measure_changes
from resjax.studies.options import Options
from resjax.studies.scores import Scores
from resjax.studies.subject import Subject
from resjax.studies.variants import Forward, measure, with_gates


def with_variables(
    network: Network, variables: Variables, images: Any, changed: jax.Array, other: Variables
) -> jax.Array:
    """A variant is bool [units]: which units take their variables from ``other``, shaped like ``variables``.

    A collection that ``other`` lacks, such as batch_stats, stays as it is.
    """
    mixed = {collection: dict(tree) for collection, tree in variables.items()}
    for name, units in of_rows(network.units).items():

        def leaf(old: jax.Array, new: jax.Array, own: jax.Array = changed[units]) -> jax.Array:
            return jnp.where(own.reshape(-1, *[1] * (old.ndim - 1)), new.astype(old.dtype), old)

        for collection, tree in other.items():
            if name in mixed[collection]:
                mixed[collection][name] = jax.tree.map(leaf, mixed[collection][name], tree[name])
    return network.apply(mixed, images).logits


def with_means(
    network: Network, variables: Variables, images: Any, frozen: jax.Array, means: Any
) -> jax.Array:
    """A variant is bool [units]: which branches are replaced by their mean, from ``mean_branches``."""
    variables = network.bound(variables, images)
    h, _ = network.run_stem(variables, images)

    def step(place: Place, h: jax.Array, own: Any) -> Any:
        unit: Any = place.stack.unit
        part, gate, is_frozen, mean = own
        s, f = unit.apply(part, h, False, method="split")
        f = jnp.where(is_frozen, mean[None].astype(f.dtype), f)
        f = _gated(f, gate)
        z = s + f if unit.residual else f
        return unit.apply(part, z, False, method="merge"), None

    places = network.places(variables)
    own = [(place.variables, place.gates, place.take(frozen), place.join(means)) for place in places]
    h, _ = scan_places(places, step, h, own)
    return network.run_head(variables, h)[0]


def _gated(branch: jax.Array, gate: jax.Array | None) -> jax.Array:
    return branch if gate is None else gate.astype(branch.dtype) * branch


def mean_branches(
    network: Network,
    variables: Variables,
    images: Any,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """The mean of each unit's branch over examples, {stack: [n, …]}; arguments as for every analysis."""
    images = checked_inputs(network, images)
    count = num_examples(images)
    none = np.zeros(count, np.int32)
    sums = (
        jax.device_get(_branch_sums(network, variables, batch.images, batch.mask))
        for batch in padded_batches(images, none, batch_size, progress)
    )
    total = reduce(partial(jax.tree.map, np.add), sums)  # in their own precision
    return jax.tree.map(lambda v: v / np.asarray(count, v.dtype), total)


@partial(jax.jit, static_argnums=0)
def _branch_sums(
    network: Network, variables: Variables, images: Any, mask: jax.Array
) -> dict[str, jax.Array]:
    def tap(parts: Any) -> jax.Array:
        f = parts.branch.astype(jnp.promote_types(parts.branch.dtype, jnp.float32))
        return jnp.sum(jnp.where(mask.reshape(-1, *[1] * (f.ndim - 1)), f, 0), 0)

    return network.apply(variables, images, tap=tap).taps


def can_run_in_parallel(stack: Stack) -> bool:
    """Whether a stack has two units or more, with shortcuts."""
    return stack.n > 1 and stack.unit.residual


def in_parallel(
    network: Network, variables: Variables, images: Any, together: jax.Array, extra: Any
) -> jax.Array:
    """A variant is bool [stacks]: where all units read the stack's input x, and their sum is added to x.

    y = merge(x + Σ_i (s_i(x) − x + f_i(x))), with the merge of the last unit. A stack of one unit or
    without shortcuts always runs unchanged.
    """
    variables = network.bound(variables, images)
    h, _ = network.run_stem(variables, images)
    for i, (stack, own_units) in enumerate(network.spans):
        gates = None if network.test_gates is None else network.test_gates[own_units]
        if not can_run_in_parallel(stack):
            h, _, _ = network.run_stack(stack, variables, h, gates=gates)
            continue

        def step(carry: Any, own: Any, x: Any = h, unit: Any = stack.unit, i: int = i) -> Any:
            part, gate = own
            h, others = carry  # others: the sum of the earlier units' additions to x
            s, f = unit.apply(part, jnp.where(together[i], x, h), False, method="split")
            f = _gated(f, gate)
            y = unit.apply(part, s + f + others, False, method="merge")
            added = others + (s - x) + f
            return (y, jnp.where(together[i], added, 0)), None

        own = (part_of(variables, stack), gates)
        (h, _), _ = scan_units(stack.n, step, (h, jnp.zeros_like(h)), own)
    return network.run_head(variables, h)[0]


def fresh(network: Network, example: Any, seed: int, draw: int) -> Variables:
    """Variables of initialization ``draw`` = 0, 1, … for inputs like ``example``."""
    leaves, tree = jax.tree.flatten(one_example(example))
    # fold_in avoids the split keys of training: the same seed must not reproduce step 0.
    key = jax.random.fold_in(jax.random.key(seed), 2**31 - 1 - draw)
    return _init(network, tree, tuple(leaves), key)


@partial(jax.jit, static_argnums=(0, 1, 2), compiler_options={"xla_backend_optimization_level": 0})
def _init(network: Network, tree: Any, leaves: tuple[Any, ...], key: jax.Array) -> Variables:
    return network.init(key, jax.tree.unflatten(tree, leaves))


def frozen(
    network: Network,
    variables: Variables,
    reference: Any,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> tuple[dict[str, np.ndarray] | None, str]:
    """``mean_branches`` over a reference set, None without one or where no states stand between units, and
    what ``choices`` say of them."""
    text = "mean branch over whole images, as those evaluated, at each position"
    if reference is None:
        return None, text
    reference = checked_inputs(network, reference)
    try:
        network.check_chain()
    except Refusal as error:
        return None, f"none: {error}"
    means = mean_branches(network, variables, reference, batch_size=batch_size, progress=progress)
    return means, f"{text}; {num_examples(reference):,} reference images"


def redrawn(network: Network, images: Any, draws: int, seed: int) -> tuple[dict[str, Variables], str]:
    """Fresh initializations by the name of their intervention, and what ``choices`` say of them."""
    try:
        found = {f"redraw {i + 1}": fresh(network, images, seed, i) for i in range(draws)}
    except Refusal as error:  # a network that was found in a function has no initialization of its own
        return {}, f"none: {error}"
    return found, f"{draws}, seed {seed}"


def check_alike(other: Variables, variables: Variables) -> None:
    """Refuses variables of another network, that is, with other names or shapes, with a ``ValueError``."""
    shapes = [jax.tree.map(jnp.shape, dict(tree)) for tree in (other, variables)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "the initial variables have other names or shapes than those of the network; take them from "
            "Network.init for the same network (of a run: run.initial_variables)"
        )


class Job(NamedTuple):
    """One intervention, with a variant for each unit (or stack) in ``which``."""

    name: str
    which: np.ndarray
    forward: Forward
    variants: np.ndarray
    extra: Any = None


def changes_of(network: Network, job: Job) -> list[Change]:
    """The changes of single units that a job is; none if it is something else, or without a chain."""
    units = np.flatnonzero(job.which).tolist()
    if network.chained and job.forward is with_gates:
        return [Change(u, float(row[u])) for u, row in zip(units, job.variants, strict=True)]
    if network.chained and job.forward is with_variables:
        return [Change(u, other=job.extra) for u in units]
    return []


def measure_jobs(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    jobs: Sequence[Job],
    **how: Unpack[Inference],
) -> tuple[list[Scores], Scores]:
    """Scores of each job, one or more, and of the intact network; arguments are those of every analysis."""
    given, progress = (network, variables, images, labels), how.get("progress")
    singly = {i: changes for i, job in enumerate(jobs) if (changes := changes_of(network, job))}
    scores: dict[int, Scores] = {}
    if singly:
        how["progress"] = within(progress, 0, len(singly), len(jobs))
        every, intact = measure_changes(*given, list(itertools.chain(*singly.values())), **how)
        ends = np.cumsum([0, *map(len, singly.values())])
        for i, (start, end) in zip(singly, itertools.pairwise(ends), strict=True):
            scores[i] = every.take(slice(start, end))
    for i, job in enumerate(jobs):
        if i not in singly:
            how["progress"] = part(progress, len(scores), len(jobs))
            scores[i], intact = measure(*given, job.forward, job.variants, extra=job.extra, **how)
    return [scores[i] for i in range(len(jobs))], intact


def jobs_of(
    network: Network,
    can_go: np.ndarray,
    alphas: Sequence[float],
    means: Any,
    others: Mapping[str, Variables],
) -> list[Job]:
    """Every intervention of ``resjax.studies.lesions.interventions``, one job for each α and each other.

    Args:
      can_go: bool [units], which units can be scaled.
      means: from ``mean_branches``, for 'freeze'; None leaves it out.
      others: {name: variables that replace a unit's own}.
    """
    one, every, jobs = np.eye(len(can_go), dtype=bool), np.ones(len(can_go), bool), []
    for alpha in alphas if can_go.any() else ():
        gates = np.where(one, np.float32(alpha), np.float32(1))
        jobs.append(Job(f"scale {alpha:g}", can_go, with_gates, gates[can_go]))
    if means is not None:
        jobs.append(Job("freeze", every, with_means, one, means))
    jobs += [Job(name, every, with_variables, one, other) for name, other in others.items()]
    stacks = np.array([can_run_in_parallel(stack) for stack in network.stacks])
    if stacks.any():
        together = np.eye(len(stacks), dtype=bool)[stacks]
        jobs.append(Job("parallel", stacks, in_parallel, together))
    return jobs


# The study takes one forward pass for each unit and intervention: a part of the examples is enough.
EXAMPLES, REFERENCE = 128, 512
ALPHAS, DRAWS = (0.0, 0.5, 2.0), 3


def cost(run: Subject, options: Options) -> Cost:
    """That of the study ``interventions``."""
    n, count, chained = run.network.num_units, evaluated(run, options, EXAMPLES), run.network.chained
    others = min(DRAWS, options.draws) + (run.from_scratch and run.initial_variables is not None)
    changes = len(ALPHAS) * run.deletable + others  # of each unit by factors and by other variables
    means = chained and run.has_training_examples
    # These run whole networks, and the intact one once more for each intervention.
    numbers = [n] * means + [own for own in [sum(map(can_run_in_parallel, run.network.stacks))] if own]
    walked = 0.0
    if chained:  # the changed unit and those behind it, and the intact network
        walked = count * float(1 + changes @ np.arange(n, 0, -1) / n)
    else:
        numbers += [int(run.deletable.sum())] * len(ALPHAS) + [n] * others
    passes = count * sum(1 + number for number in numbers)
    reference = training(run, REFERENCE) if means else 0
    return Cost(forward=passes + reference, walked=walked, compilations=6, evaluated=count)
