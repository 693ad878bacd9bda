"""Error against time when units are cut: what mends it, and what the time buys otherwise.

*Question.* ``pruning`` says how many units may go. Time is what one wants to save: how large is the error
when a forward pass takes half as long? And what brings the error down again: new BatchNorm statistics, small
maps in the place of the units, or a short training?

*Method.* Units go in the greedy order of ``pruning``, chosen on training examples by the loss. For some
numbers k of units, the first k of the order are cut, and these errors are measured on evaluation examples:

* as cut, with BatchNorm's running statistics;
* *mended*: with the statistics re-estimated on training images (``lesions.recalibrate``), which changes no
  weight. Without BatchNorm, mended is as cut;
* with linear maps in the place of the units (``cutting.maps``), and mended;
* mended, then trained on for a short time (``cutting.training_on``);
* for comparison, random sets of k units and the last k units, mended, too;
* and, on request, a network of the same depth that is trained from scratch for as many steps as the intact
  network and the training on.

The numbers are 0, quarters of the units that can go, and halvings of the interval in which the mended error
first rises by more than one point. Maps, training and other units are tried at three of them: the first that
cost more than a point, or the largest.

*Cost.* Multiply-adds are counted from shapes (``models.layer_table``). The time is that of a compiled forward
pass of one batch; the programs of all networks take turns (``cutting.cost``), and a share is the median over
rounds of the ratio to the intact network's turn.

*Reading it.* The finding is the largest measured k up to which no mended error is more than one point above
that of the intact network with its own statistics. Its interval is over evaluation examples
(``resjax.studies.counts``), and is told in shares of time, too. Numbers between two measured ones are not
known. The error of one training on has no interval over examples in the text; seeds show how much orders of
batches change it. Time is that of this machine and this batch. A short training helps intact networks as
well, and is not measured for them here.

*Cost of the study.* That of the greedy choice, n(n + 1)/2 deletions on few examples. For each of about 7
numbers: 2 networks on the evaluated and 1 on the reference images, of which equal beginnings run once, and
one compilation; at three of them, also 4 networks on both, the maps, and the steps of training on. The turns
of all programs take at most about 10 s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from resjax import config as configs
from resjax.network import Network, Variables
from resjax.network.cut import cut as cut_network
from resjax.network.losses import share_wrong
from resjax.network.refusal import Refusal
from resjax.studies import counts, verdicts
from resjax.studies.batches import BATCH_SIZE, Inference, Progress, part, reported, within
from resjax.studies.costs import Cost, again, evaluated, scaled, training
from resjax.studies.cutting import cut_shown as shown
from resjax.studies.cutting.cost import compiled, latency
from resjax.studies.cutting.cut_result import Cut, before_harm, tried_further
from resjax.studies.cutting.gated import Gated, Wrong
from resjax.studies.cutting.greedy import (
    MOST_CHOICE_EXAMPLES,
    Rounds,
    chosen_order,
    given_or_greedy,
    rounds_of,
)
from resjax.studies.cutting.made import Made, Without, made, mean_wrong, without_of, without_of_found
from resjax.studies.cutting.maps import fit, passes_to_fit
from resjax.studies.cutting.training_on import trained_further
from resjax.studies.examples import checked_examples, take
from resjax.studies.given import GivenNetwork
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.lesions.passes import has_statistics, of_choice, of_recalibrated, of_rows, one_by_one
from resjax.studies.lesions.prefixes import deleting
from resjax.studies.lesions.subsets import candidates, random_subsets
from resjax.studies.options import Options
from resjax.studies.run import Run
from resjax.studies.study import Bench, Study
from resjax.studies.subject import Subject

PARTS, HALVINGS, DRAWS = 4, 3, 3
TURNS, SECONDS = 15, 10.0  # of each program, and for the turns of all


def cut(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    reference: Any,
    choose_on: tuple[Any, ArrayLike] | None = None,
    chosen: Rounds | None = None,
    max_cut: int | None = None,
    map_rank: int = 8,
    seed: int = 0,
    without: Without | None = None,
    seconds: float = SECONDS,
    **how: Unpack[Inference],
) -> Cut:
    """Cuts more and more units in the greedy order: errors, multiply-adds and times, without any training.

    Args: those of every analysis (``Inference``), whose examples give the errors, and
      reference: inputs [M, …] for BatchNorm's statistics and for maps, augmented as in training.
      choose_on: inputs [M, …] and labels [M] for choosing the order, such as training examples.
      chosen: an order that ``resjax.studies.cutting.greedy`` has chosen, instead of ``choose_on``.
      max_cut: the largest number of units; None for all of the order. One unit always stays.
      map_rank: of the maps; 0 for no maps.
      seed: of the random sets.
      without: makes the network without some units; None for ``resjax.network.cut``. With another one, no
        maps are fitted.
      seconds: for the turns of all programs; it may lessen the turns, to 2 of each at least.

    Raises:
      ValueError: also if no unit can be cut, for a ``max_cut`` below 1, for a negative rank, and for neither
        or both of ``choose_on`` and ``chosen``.
    """
    images, labels, _ = checked_examples(network, variables, images, labels)
    allowed, never = candidates(network, variables, images)
    pool = min(int(allowed.sum()), network.num_units - 1)
    if not pool:
        raise Refusal("the only unit of this network can't be cut, because one must stay")
    most = min(pool, pool if max_cut is None else max_cut, pool if chosen is None else len(chosen.order))
    if most < 1 or map_rank < 0:
        raise ValueError(
            f"max_cut={max_cut}, map_rank={map_rank}; allowed: 1 … {pool}, the units that can be cut, and a "
            "rank of 0 (no maps) or more"
        )
    progress = how.pop("progress", None)
    choosing = Inference(**{**how, "progress": within(progress, 0, 30, 100)})
    chosen = given_or_greedy(network, variables, choose_on, chosen, allowed, most, **choosing)
    order = chosen.order[:most]
    gated = Gated(network, variables, images, labels, reference, how)
    number, wrong = _along(order, gated, progress)
    error, after = (own.mean(1, dtype=float) for own in wrong)
    further = tried_further(before_harm(verdicts.spared(after, error[0])), len(number))
    tried = {i: number[i] for i in further}
    others = _others(gated, allowed, tried, seed, within(progress, 55, 15, 100))

    names = [[network.units[unit].name for unit in order[:k]] for k in number]
    choices: dict[str, Any] = {}
    ways, maps = list[Made](), dict[int, Made]()
    make = without or without_of(network, variables, images)
    try:
        ways = [make(gone) for gone in names]
    except ValueError as refused:
        choices["time"] = f"not measured, because no smaller network can be made: {refused}"
    if ways and map_rank and without is None:
        try:
            for i in reported(further, within(progress, 70, 20, 100)):
                maps[i] = _with_maps(gated, names[i], map_rank)
        except ValueError as refused:
            choices["maps"] = f"not fitted: {refused}"
    turns = _turns(gated, ways, maps, seconds, within(progress, 90, 10, 100))
    sizes = range(len(number))
    mended = "re-estimated on the reference images, for each network"
    return Cut(
        unit=tuple(unit.name for unit in network.units),
        order=order,
        number=np.array(number),
        pool=pool,
        error=error,
        recalibrated=np.full(len(number), np.nan) if gated.not_mended else after,
        spared=counts.spared_share(wrong.mended, wrong.as_cut[0]),
        last=np.array([others[i][0] if i in others else np.nan for i in sizes]),
        random=np.stack([others[i][1] if i in others else np.full(DRAWS, np.nan) for i in sizes]),
        mapped=np.array([maps[i].error if i in maps else np.nan for i in sizes]),
        trained=np.zeros((len(number), 0)),
        scratch=np.zeros((len(number), 0)),
        multiply_adds=np.array([own.multiply_adds for own in ways] or [np.nan] * len(number)),
        mapped_multiply_adds=np.array([maps[i].multiply_adds if i in maps else np.nan for i in sizes]),
        seconds=_rows([turns.get(i) for i in sizes]),
        mapped_seconds=_rows([turns.get(~i) for i in sizes]),
        map_rank=map_rank,
        training="",
        left_out=never,
        num_examples=len(labels),
        num_choice_examples=chosen.num_examples,
        num_classes=gated.num_classes,
        choices={
            "chosen by": "the lowest mean loss on the examples for choosing; ties go to the earlier unit",
            "BatchNorm": f"not re-estimated: {gated.not_mended}" if gated.not_mended else mended,
            "random sets": f"{DRAWS} of each number",
            "time": f"of a compiled forward pass of {_batch_size(gated)} examples, on one device",
            "seed": seed,
            **choices,
        },
    )


def _along(order: np.ndarray, gated: Gated, progress: Progress | None) -> tuple[list[int], Wrong]:
    """Some numbers of units, and the networks without as many of the order: quarters, and halvings of the
    interval in which the error first rises by more than a point."""
    place = np.full(gated.network.num_units, len(order))  # of each unit in the order
    place[order] = np.arange(len(order))

    def without_first(sizes: list[int]) -> np.ndarray:
        return place < np.array(sizes)[:, None]

    number = sorted({round(len(order) * i / PARTS) for i in range(PARTS + 1)})
    wrong = gated.measure(without_first(number), within(progress, 30, 15, 100))
    for i in range(HALVINGS):
        mended = wrong.mended.mean(1, dtype=float)
        at = before_harm(verdicts.spared(mended, wrong.as_cut[0].mean(dtype=float)))
        if at + 1 == len(number) or number[at + 1] == number[at] + 1:
            break
        middle = (number[at] + number[at + 1]) // 2
        one = gated.measure(without_first([middle]), within(progress, 45 + 3 * i, 3, 100))
        number.insert(at + 1, middle)
        wrong = Wrong(*(np.insert(old, at + 1, new, axis=0) for old, new in zip(wrong, one, strict=True)))
    return number, wrong


def _others(
    gated: Gated,
    allowed: np.ndarray,
    number: Mapping[int, int],
    seed: int,
    progress: Progress | None,
) -> dict[int, tuple[float, np.ndarray]]:
    """{size: error without the last units, errors without random sets [draw]}, mended.

    ``number`` is {size: how many units}.
    """
    pool = np.flatnonzero(allowed)
    sets = {
        i: np.concatenate(
            [
                np.isin(np.arange(len(allowed)), pool[len(pool) - k :])[None],
                random_subsets(allowed, [k], DRAWS, seed),
            ]
        )
        for i, k in number.items()
    }
    wrong = gated.measure_mended(np.concatenate(list(sets.values())), progress)
    error = iter(wrong.mean(1, dtype=float).tolist())
    found = {}
    for i, own in sets.items():
        last, *drawn = (next(error) for _ in own)
        found[i] = last, np.array([*drawn, *[np.nan] * (DRAWS - len(drawn))])
    return found


def _with_maps(gated: Gated, gone: Sequence[str], rank: int) -> Made:
    """The network with linear maps in the place of units, and its error, mended."""
    size = gated.how.get("batch_size", BATCH_SIZE)
    given = gated.network, gated.variables, gone, gated.reference
    variables = fit(*given, "linear", rank, batch_size=size)
    network = cut_network(gated.network, gone, take(gated.images, slice(1)), ("linear", rank))
    if not gated.not_mended:
        variables = reestimate(network, variables, gated.reference, batch_size=size)
    metric = gated.how.get("metric", share_wrong)
    error = mean_wrong(network, variables, gated.images, gated.labels, metric, size)
    return made(network, variables, gated.images, error)


def _batch_size(gated: Gated) -> int:
    return min(gated.how.get("batch_size", BATCH_SIZE), len(gated.labels))


def _turns(
    gated: Gated,
    ways: Sequence[Made],
    maps: Mapping[int, Made],
    budget: float,
    progress: Progress | None,
) -> dict[int, np.ndarray]:
    """Seconds of each turn of a forward pass of one batch: of ``ways[i]`` under i, ``maps[i]`` under ~i."""
    if not ways:
        return {}
    batch = take(gated.images, slice(_batch_size(gated)))
    every = [*enumerate(ways), *((~i, own) for i, own in maps.items())]
    programs = {
        str(i): compiled(own.run, own.variables, batch) for i, own in reported(every, part(progress, 0, 2))
    }
    found = latency(programs, rounds=TURNS, budget=budget, progress=part(progress, 1, 2))
    return {int(i): own for i, own in found.items()}


def _rows(known: Sequence[np.ndarray | None]) -> np.ndarray:
    """[size, turn], NaN where a program was not timed."""
    turns = max((len(own) for own in known if own is not None), default=0)
    return np.array([np.full(turns, np.nan) if own is None else own for own in known])


# --- the study ---

MOST_EXAMPLES = 2_000


def measure(bench: Bench) -> Cut:
    run, options, progress = bench.run, bench.options, bench.progress
    given, reference = bench.evaluation(MOST_EXAMPLES), bench.reference()
    trains = isinstance(run, Run) and configs.steps_of(options.cut_training, 1, "cut_training") > 0
    parts = 3 if trains else 2
    chosen = chosen_order(bench, part(progress, 0, parts))
    how = Inference(**{**bench.how, "progress": part(progress, 1, parts)})
    result = cut(
        *given,
        reference=reference,
        chosen=chosen,
        map_rank=options.cut_maps,
        seed=options.seed,
        without=without_of_found(run.found) if isinstance(run, GivenNetwork) else None,
        **how,
    )
    if isinstance(run, GivenNetwork):
        bench.choices["maps"] = "not fitted, because a given network is cut as a function"
    if trains:
        found = trained_further(bench, result, *given[2:], reference, part(progress, 2, parts))
        return dataclasses.replace(result, **found)
    bench.choices["trained on"] = "not at all"
    if not isinstance(run, Run):
        bench.choices["trained on"] += ", because the recipe of a given network is not known"
    return result


def cost(run: Subject, options: Options) -> Cost:
    """Which numbers of units are tried depends on the errors. Here they rise in the middle of the order."""
    network, allowed, count = run.network, run.deletable, evaluated(run, options, MOST_EXAMPLES)
    reference, mends = training(run, options.reference), has_statistics(run)
    most = min(rounds_of(int(allowed.sum())), network.num_units - 1)
    order = one_by_one(allowed, most)
    quarters = sorted({round(most * i / PARTS) for i in range(PARTS + 1)})
    low, high = quarters[(len(quarters) - 1) // 2 :][:2]
    between = sorted({(low + high) // 2, (3 * low + high) // 4, (7 * low + high) // 8} - {low})
    number = sorted({*quarters, *between})
    tried = [*number[number.index(low) + 1 :], *number[number.index(low) : 0 : -1]][:3]

    def errors(rows: np.ndarray, as_cut: bool = True) -> Cost:
        if not mends:
            return of_rows(network, deleting(rows), count)
        own = of_recalibrated(network, deleting(rows), count, reference, options.batch_size)
        return own + of_rows(network, deleting(rows), count) if as_cut else own

    total = of_choice(run, options) + errors(order[quarters])
    for k in between:
        total += again(errors(order[[k]]))
    sets = [random_subsets(allowed, [k], 1 + DRAWS, options.seed) for k in tried]  # one for the last units
    total += again(errors(np.concatenate(sets), as_cut=False))
    compilations = sum(1 - k / network.num_units for k in number)  # of programs that are timed
    total += Cost(compilations=compilations, fixed=SECONDS, evaluated=count)
    for gone in order[tried]:
        left = 1 - float(gone.mean())  # of the network
        if options.cut_maps and network.chained and not isinstance(run, GivenNetwork):
            mapped = Cost(forward=left * (mends * reference + count), compilations=3 * left)
            total += mapped + Cost(walked=reference * passes_to_fit(gone))
        if isinstance(run, Run) and (examples := _trained(run, options)):
            trained = Cost(forward=examples + count, backward=2 * examples, compilations=4)
            total += scaled(trained, left) + Cost(forward=mends * reference)
    return total


def _trained(run: Run, options: Options) -> int:
    """How many examples the trainings of one number of units see."""
    steps = configs.steps_of(options.cut_training, run.experiment.plan.per_epoch, "cut_training")
    long = run.step + steps if steps and options.cut_scratch and run.from_scratch else 0
    return (steps + long) * options.cut_seeds * run.train_batch_size


STUDY = Study(
    name="cut",
    title="Cut units to save time",
    question=(
        "How large is the error when units are cut so that a forward pass takes less time? Units go in the "
        "order of their harm. Then BatchNorm's statistics are re-estimated, small maps stand in their place, "
        "or the rest is trained on for a short time. Random units and the last ones are cut for comparison."
    ),
    code=(
        f"choose_on = run.examples('train', {MOST_CHOICE_EXAMPLES})\n"
        "reference, _ = run.examples('train', 2048, augmented=True)\n"
        f"given = run.evaluation({MOST_EXAMPLES:_})\n"
        "resjax.analysis.cut(*given, choose_on=choose_on, reference=reference, loss=run.loss)"
    ),
    result=Cut,
    unsuited=verdicts.cannot_delete,
    measure=measure,
    cost=cost,
    plot=shown.plot,
    verdict=shown.verdict,
    says={"some": shown.some, "none": shown.none, "untrained": verdicts.UNTRAINED},
    points=shown.points,
    notes=lambda results: [shown.NOTE],
    table=shown.table,
    summary=shown.summary,
)
