"""How greedy deletions are shown; the numbers are those of ``resjax.studies.lesions.pruning``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from resjax.studies.batches import Progress
from resjax.studies.lesions import pruning
from resjax.studies.lesions.deletions_shown import (
    group,
    sentence,
    too_little,
    unsuited,
    untrained,
    with_interval,
)
from resjax.studies.lesions.lesion_shown import MAY_GO
from resjax.studies.lesions.pruning import Pruning, prune_greedily, random_curve
from resjax.studies.old_study import Finding, Options, Study, Table
from resjax.studies.run import Run
from resjax.studies.words import join, number, percent

Results = Mapping[str, Pruning]

# The order is chosen by about n²/2 deletions: few examples, and fewer rounds where there are many units.
MOST_CHOICE_EXAMPLES = 128
MOST_TRIALS = 5_000
# Random sets only give the scale here; the study of random deletions has more.
DRAWS = 10


def _run(run: Run, options: Options, progress: Progress | None) -> Pruning:
    images, labels = run.examples(run.split, options.max_examples)
    choose_on = run.examples("train", min(options.max_examples, MOST_CHOICE_EXAMPLES))
    pool = int(run.network.deletable(run.variables, run.image_shape).sum())
    rounds = min(pool, max(1, MOST_TRIALS // pool))
    result = prune_greedily(
        run.network,
        run.variables,
        images,
        labels,
        choose_on=choose_on,
        max_deleted=rounds,
        draws=DRAWS,
        loss=run.loss,
        batch_size=options.batch_size,
        seed=options.seed,
        progress=progress,
    )
    result.choices["chosen on"] = f"{len(choose_on[0]):,} training examples, not augmented"
    result.choices["data"] = f"{len(images):,} {run.split} examples, not augmented"
    result.choices["network"] = f"the checkpoint of step {run.step:,}"
    if rounds < pool:
        result.choices["rounds"] = f"{rounds} of {pool}, to keep the cost down"
    return result


def spared(result: Pruning) -> int:
    """How many units can go in this order before the error first rises by more than one point."""
    harmful = np.flatnonzero(result.error > result.intact_error + MAY_GO + 1e-9)
    return int(harmful[0]) - 1 if len(harmful) else len(result.order)


def spared_at_random(result: Pruning) -> int:
    """The largest measured size of random sets up to which the median error rises by at most one point."""
    curve = random_curve(result)
    harmful = np.flatnonzero(curve.median > result.intact_error + MAY_GO + 1e-9)
    return int(curve.amount[harmful[0] - 1 if len(harmful) else -1])


def _pool(result: Pruning) -> int:
    return len(result.unit) - len(result.left_out)


def _verdict(result: Pruning) -> str:
    if untrained(result):
        return "untrained"
    return "spare" if spared(result) else "none"


def finding(results: Results) -> Finding:
    """How many units can go when they are chosen."""
    groups = group(results, _verdict)
    parts = []
    for label in groups.get("spare", []):
        result = results[label]
        chosen, random = spared(result), spared_at_random(result)
        beside = "as many" if random == chosen else ("none" if random == 0 else str(random))
        parts.append(
            f"{chosen} of {_pool(result)} units can go at once from {label} when they are chosen, for at "
            f"most one point of error, and {beside} when they are drawn"
        )
    if labels := groups.get("none"):
        parts.append(f"not even the least harmful unit can go from {join(labels)}")
    if labels := groups.get("untrained"):
        parts.append(too_little(labels))
    return Finding(sentence(parts), [_point(label, result) for label, result in results.items()])


def _point(label: str, result: Pruning) -> str:
    names = [result.unit[u] for u in result.order[:5]]
    middle = len(result.order) // 2 or 1
    text = (
        f"{label}: {percent(result.intact_error)} error when intact, {percent(result.error[1])} without the "
        f"least harmful unit, {percent(result.error[middle])} without the {middle} least harmful. "
        f"First to go: {', '.join(names)}. The order was chosen on {result.num_choice_examples:,} other "
        f"examples, where the error without those {middle} is {percent(result.choice_error[middle])}."
    )
    if np.min(result.error) < result.intact_error - MAY_GO:
        text += (
            " Fewer units do better here: trained too little, or BatchNorm's running statistics are not "
            "settled."
        )
    if result.left_out:
        reasons = sorted(set(result.left_out.values()))
        text += f" Never deleted: {join(list(result.left_out))} ({'; '.join(reasons)})."
    return text


def table(results: Results) -> Table:
    """One row a network and round."""
    rows = []
    for label, r in results.items():
        random = random_curve(r)
        at = {int(k): i for i, k in enumerate(random.amount)}
        for k in range(len(r.error)):
            rows.append(
                (
                    label,
                    str(k),
                    r.unit[r.order[k - 1]] if k else "",
                    percent(r.error[k]),
                    number(r.loss[k]),
                    number(r.kl[k]),
                    percent(r.agreement[k]),
                    percent(r.choice_error[k]),
                    number(r.choice_loss[k]),
                    with_interval(random, at[k]) if k in at else "",
                )
            )
    columns = ("network", "deleted", "the last of them", "error", "loss", "KL (nats)", "agreement")
    more = ("error where chosen", "loss where chosen", "random sets: median error")
    return Table((*columns, *more), rows)


def summary(results: Results) -> dict[str, dict[str, str]]:
    """How many units can go together."""
    return {
        label: {"units that may go together": f"{spared(result)} of {_pool(result)}"}
        for label, result in results.items()
        if not untrained(result)
    }


STUDY = Study(
    name="pruning",
    title="Delete the least harmful units first",
    question=(
        "How far can the network be cut down at once? In each round that unit goes which is missed least on "
        "some training images; the curve is the error on images that had no say in it. Nothing is trained "
        "again."
    ),
    code=(
        "images, labels = run.examples(run.split, 10_000)\n"
        f"choose_on = run.examples('train', {MOST_CHOICE_EXAMPLES})\n"
        "resjax.analysis.prune_greedily(run.network, run.variables, images, labels,\n"
        "                               choose_on=choose_on, loss=run.loss)"
    ),
    result=Pruning,
    unsuited=unsuited,
    run=_run,
    plot=pruning.plot,
    finding=finding,
    table=table,
    summary=summary,
)
