"""Cheap scores of units and of runs of units, and whether they tell what deletion does.

*Question.* Layers of large networks are cut by scores that need one forward pass and no label: the *block
influence* (ShortGPT, Men et al. 2024, arXiv:2403.03853), or the *angular distance* that n consecutive layers
cover (Gromov et al. 2024, arXiv:2403.17887). Deletion measures the same question with labels, one network
for each set of units. Do the scores rank units as deletion does?

*Scores.* y is the state behind a run of n = 1, 2, … consecutive units of the intact network, and x the state
that the run returns without its branches: its input, wherever shortcuts are identities. F = y − x.

    influence   mean of 1 − cos(x_t, y_t) over examples and positions t (ShortGPT's, whose t are tokens)
    distance    mean of arccos(x·y / ‖x‖‖y‖) / π over examples (Gromov's Eq. 7; ``cutting.similarity``)
    size        mean of ‖F‖ / ‖x‖ over examples
    novelty     mean of 1 − cos²(F, x) over examples: the share of ‖F‖² that is orthogonal to x

Influence takes the vector of channels at each position, the others a whole example's array as one vector, as
``identity`` and ``cut`` do. (Gromov et al. take a text's last token.) Size and novelty are those of
``identity`` where the shortcut is the identity and nothing follows the sum. The two make the angle: with f∥
and f⊥ the parts of F along x and orthogonal to it, tan(π · distance) = ‖f⊥‖ / (‖x‖ + f∥).

*Damage.* The rise of the loss, and of the error, without the run, on the same held-out examples. Spearman's ρ
ranks each score against it, over all runs of n units, n = 1, 2, 4, 8. Scores have 95 % intervals over
examples (1,000 resamples, the same for all runs). ρ has one over units: runs of n units overlap, so n
neighbouring runs are drawn together (the moving-block bootstrap, Künsch 1989), and n = 1 is the ordinary
bootstrap. ρ has none where fewer than 2n runs, or four, could be measured.

*What is judged.* The scores tell what deletion does if ρ of single units and the rise of the loss is at least
0.5, for block influence and for angular distance, with its whole interval; they do not if both whole
intervals are below 0.5. Else it is undecided. (The loss, because most errors are tied.)

*Reading it.* A rank correlation over a dozen units is coarse. The interval treats units as draws of more
units of this kind, which those of one network are not, so it is a rough guide; it does not cover other seeds.
A score and the damage may both follow a unit's place, so a high ρ is no cause: the scores at initialization
are ranked against the damage to the trained network, too, and ``identity`` has partial correlations. That a
score ranks units rightly does not say how much their deletion costs.

*Cost.* One forward pass, and the shortcuts of each run, which run no branch; and one deletion for each run of
1, 2, 4 and 8 units, which shares states with others. All of it twice, for the network at initialization.
"""

from __future__ import annotations

from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies import verdicts
from resjax.studies.batches import BATCH_SIZE, Inference, part
from resjax.studies.costs import Cost, evaluated
from resjax.studies.cutting.similarity import angles, blocks_by_batch
from resjax.studies.examples import num_examples
from resjax.studies.intervals import percentiles
from resjax.studies.lesions.known import KnownScores, known_scores
from resjax.studies.lesions.passes import of_rows
from resjax.studies.lesions.prefixes import deleting
from resjax.studies.lesions.subsets import candidates
from resjax.studies.options import Options
from resjax.studies.ranks import moving_blocks, spearman, spearman_of_rows
from resjax.studies.study import Bench, Study
from resjax.studies.subject import Subject
from resjax.studies.units import influence_shown as shown
from resjax.studies.units.influence_result import DAMAGES, SCORES, Influence

LENGTHS = (1, 2, 4, 8)  # runs that are deleted
MOST_RUNS = 2_000  # that are scored: their resamples are kept in memory
RESAMPLES = 1_000


def influence(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    lengths: tuple[int, ...] = LENGTHS,
    known: KnownScores | None = None,
    seed: int = 0,
    **how: Unpack[Inference],
) -> Influence:
    """Scores of all runs of consecutive units, and their rank correlation with the damage of deleting them.

    Args: those of every analysis (``Inference``), and
      network: any that is chained.
      images, labels: held-out examples.
      lengths: numbers of units in the runs that are deleted; those that no run has are left out.
      known: scores on the same examples, as of ``lesion``.
      seed: of the bootstraps.

    Raises:
      ValueError: also if no unit can be deleted, and for a length below 1 or one that no run has.
    """
    network.check_chain()
    allowed, never = candidates(network, variables, images)
    every = runs_of(allowed, lengths)
    size, progress = how.get("batch_size", BATCH_SIZE), how.get("progress")
    how["progress"] = part(progress, 0, 2)
    given = network, variables, images, labels, deleting(every)
    scores, intact = (known or KnownScores()).measure(*given, **how)
    told = part(progress, 1, 2)
    value, low, high = _scored(network, variables, images, allowed, seed, size, told)
    n = network.num_units
    found = {name: np.full((n, n), np.nan) for name in DAMAGES}
    first, last = every.argmax(1), n - 1 - every[:, ::-1].argmax(1)
    for name, damage in found.items():
        damage[first, last] = getattr(scores, name)
    measured = np.unique(last - first + 1)
    rho = np.full((3, len(DAMAGES), len(measured), len(SCORES)), np.nan)
    for i, name in enumerate(DAMAGES):
        for j, length in enumerate(measured):
            damage = np.diagonal(found[name], length - 1)
            for k, own in enumerate(value):
                rho[:, i, j, k] = _ranked(np.diagonal(own, length - 1), damage, int(length), seed)
    return Influence(
        **intact.as_intact,
        unit=tuple(unit.name for unit in network.units),
        kind=tuple(unit.stack.group for unit in network.units),
        score=SCORES,
        value=value,
        low=low,
        high=high,
        loss=found["loss"],
        error=found["error"],
        length=measured,
        damage=DAMAGES,
        rho=rho[0],
        rho_low=rho[1],
        rho_high=rho[2],
        left_out=never,
        choices={
            "state": "the channels at each position for influence, else an example's whole array",
            "runs": f"scored: those of at most {longest_scored(n)} units; "
            f"deleted: those of {', '.join(map(str, measured))}",
            "BatchNorm": "running statistics of training, not re-estimated after the deletion",
            "intervals": "of scores over examples, of rank correlations over units",
            "seed": seed,
        },
    )


def runs_of(allowed: np.ndarray, lengths: tuple[int, ...]) -> np.ndarray:
    """bool [run, unit]: all runs of so many consecutive units that can be deleted.

    Raises:
      ValueError: a length below 1, or no run of these lengths.
    """
    n = len(allowed)
    if not lengths or min(lengths) < 1:
        raise ValueError(f"lengths={lengths}; allowed: numbers of units from 1")
    rows = [
        (np.arange(n) >= i) & (np.arange(n) < i + length)
        for length in sorted(set(lengths))
        for i in range(n - length + 1)
        if allowed[i : i + length].all()
    ]
    if not rows:
        raise ValueError(f"lengths={lengths}; allowed here: those of runs of units that can be deleted")
    return np.stack(rows)


def longest_scored(n: int) -> int:
    """The longest runs whose scores are measured, of n units: all, if they are at most MOST_RUNS."""
    return n if n * (n + 1) // 2 <= MOST_RUNS else max(1, MOST_RUNS // n)


def _scored(
    network: Network,
    variables: Variables,
    images: Any,
    allowed: np.ndarray,
    seed: int,
    batch_size: int,
    progress: Any,
) -> np.ndarray:
    """[3, score, first, last]: the means and the ends of their intervals."""
    n, examples = len(allowed), num_examples(images)
    # Row 0 counts each example once, the others as often as a resample draws it.
    drawn = np.random.default_rng(seed).multinomial(examples, np.full(examples, 1 / examples), RESAMPLES)
    often = np.vstack([np.ones(examples), drawn])
    totals: dict[tuple[int, int], np.ndarray] = {}
    how: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    done = 0
    for mask, blocks in blocks_by_batch(network, variables, images, allowed, longest_scored(n), **how):
        own = often[:, done : done + int(mask.sum())]
        done += int(mask.sum())
        for i, j, behind, without in blocks:
            values = np.asarray(_scores(behind, without), float)[:, mask]
            known = np.isfinite(values)
            added = own @ np.vstack([np.where(known, values, 0), known]).T
            totals[i, j] = totals.get((i, j), 0.0) + added
    found = np.full((3, len(SCORES), n, n), np.nan)
    for (i, j), total in totals.items():
        sums, weights = np.split(total, 2, axis=1)
        means = sums / np.where(weights > 0, weights, np.nan)
        found[:, :, i, j] = means[0], *percentiles(means[1:])
    return found


@jax.jit
def _scores(y: jax.Array, x: jax.Array) -> jax.Array:
    """[score, B] of one run: ``y`` [B, …] is the state behind it, ``x`` the same without its branches. NaN
    where a vector is 0."""
    y, x = (v.astype(jnp.promote_types(v.dtype, jnp.float32)) for v in (y, x))
    by_position = [v.reshape(len(v), -1, v.shape[-1] if v.ndim > 2 else v[0].size) for v in (y, x)]
    a, b = map(_unit, by_position)
    turned = jnp.sum(jnp.square(a - b), -1) / 2  # 1 − cos; the difference of 1 and a cosine loses digits
    flat_y, flat_x = (v.reshape(len(v), -1) for v in (y, x))
    added = flat_y - flat_x
    size = jnp.linalg.norm(added, axis=1) / _positive(jnp.linalg.norm(flat_x, axis=1))
    along = jnp.sum(_unit(added) * _unit(flat_x), 1)
    known = jnp.isfinite(_unit(flat_x)[:, 0])
    distance = jnp.where(known, angles(y, x), jnp.nan)
    return jnp.stack([jnp.nanmean(turned, 1), distance, size, 1 - jnp.square(along)])


def _positive(norm: jax.Array) -> jax.Array:
    return jnp.where(norm > 0, norm, jnp.nan)


def _unit(v: jax.Array) -> jax.Array:
    """Vectors along the last axis, of length 1; NaN where one is 0."""
    return v / _positive(jnp.linalg.norm(v, axis=-1, keepdims=True))


def _ranked(score: np.ndarray, damage: np.ndarray, length: int, seed: int) -> tuple[float, float, float]:
    """Spearman's ρ over the runs of one length, and its interval."""
    rows = np.stack([score, damage])
    rows = rows[:, np.isfinite(rows).all(0)]
    if rows.shape[1] < max(4, 2 * length):
        return (np.nan,) * 3
    drawn = moving_blocks(rows.shape[1], length, RESAMPLES, seed)
    made = spearman_of_rows(*(own[drawn] for own in rows))
    low, high = percentiles(np.nan_to_num(made))  # 0 where a resample leaves a constant
    return spearman(*rows), float(low), float(high)


def unsuited(run: Subject) -> str | None:
    run.network.check_chain()
    return verdicts.cannot_delete(run)


def measure(bench: Bench) -> Influence:
    seed, known = bench.options.seed, known_scores(bench)
    return influence(*bench.evaluation(), known=known, seed=seed, **bench.how)


def cost(run: Subject, options: Options) -> Cost:
    count = evaluated(run, options)
    scored = Cost(walked=count, compilations=1, evaluated=count)
    return scored + of_rows(run.network, deleting(runs_of(run.deletable, LENGTHS)), count)


STUDY = Study(
    name="influence",
    title="Do cheap scores tell what deletion does?",
    question=(
        "Layers of large networks are cut by scores of one forward pass: block influence, or the angle by "
        "which consecutive layers turn the state. Do these scores, the size and the novelty of what units "
        "add rank single units, and runs of units, as the loss does when they are deleted?"
    ),
    code="resjax.analysis.influence(*run.evaluation(10_000), loss=run.loss)",
    result=Influence,
    control=True,
    unsuited=unsuited,
    measure=measure,
    cost=cost,
    plot=shown.plot,
    verdict=shown.verdict,
    says={
        "agree": "cheap scores tell what single deletions do to {}",
        "disagree": "cheap scores do not tell what single deletions do to {}",
        "undecided": "it is undecided whether cheap scores tell what single deletions do to {}",
        "untrained": verdicts.UNTRAINED,
    },
    points=shown.points,
    table=shown.table,
    summary=shown.summary,
)
