"""Judges studies by the criteria of claims.json: ``python docs/results/tolerances.py FOLDER [FOLDER …]``.

FOLDER is a report of ``resjax.analyze``, or a copy of one that ``collect.py`` made. Writes
FOLDER/tolerances.json: network → row → criteria, each with the measured value, its 95 % interval, what the
interval is over, the allowed values, and the verdict: met, missed, or undecided where the interval crosses
the end of what is allowed (``resjax.studies.judged``). The reader must check that network and protocol are
those of the row. Rows without a study in FOLDER are left out. Row 15 compares networks: it is judged in a
report of several, under "all".
"""

import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resjax.report.write import read
from resjax.studies.catalogue import STUDIES
from resjax.studies.initial import less
from resjax.studies.intervals import of_difference, reflected
from resjax.studies.judged import all_of, judged
from resjax.studies.lesions.deletions import by_number
from resjax.studies.lesions.deletions_result import Deletions
from resjax.studies.lesions.lesion import Lesion
from resjax.studies.lesions.reorder import Reordering, by_swaps, tau_and_error
from resjax.studies.paths.path_lengths import share_between
from resjax.studies.paths.paths import Paths
from resjax.studies.ranks import spearman
from resjax.studies.units.identity_result import Identity
from resjax.studies.units.identity_shown import faster, near_0
from resjax.studies.units.responses import Responses
from resjax.workdir.atomic import write

Criteria = dict[str, dict[str, Any]]
_CLAIMS = json.loads(Path(__file__).with_name("claims.json").read_text("utf-8"))["claims"]
LIMITS: dict[int, dict[str, Any]] = {claim["row"]: claim["limits"] for claim in _CLAIMS}
"""Row → the numbers of its criterion, in the units of its text: points and percent, not shares."""


def criterion(
    measured: Any, interval: Sequence[float], over: str, allowed: str, verdict: str, digits: int = 3
) -> dict[str, Any]:
    """One criterion with its verdict; ``over`` says what the interval is an interval over."""
    return {
        "measured": _plain(measured, digits),
        "interval": _plain(interval, digits),
        "over": over,
        "allowed": allowed,
        "verdict": verdict,
    }


def told(measured: Any, digits: int = 3) -> dict[str, Any]:
    """A number that is reported and can't fail."""
    return {"measured": _plain(measured, digits)}


def _plain(value: Any, digits: int) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v, digits) for k, v in value.items()}
    if isinstance(value, str | int | None):
        return value
    if np.ndim(value):
        return [_plain(v, digits) for v in value]
    return round(float(value), digits) if np.isfinite(value) else None


def transitions(unit: tuple[str, ...]) -> np.ndarray:
    """bool [unit]: those that open a stage after the first, and change the shape."""
    return np.array([u.endswith("/unit1") and not u.startswith("stage1/") for u in unit])


def rises(r: Lesion) -> tuple[np.ndarray, np.ndarray]:
    """[unit]: the rise of the error by each deletion in points, and the half-width of its interval.

    The rise is (b − c)/N, where the deletion spoils the predictions of b of N images and corrects those of c.
    Both together are at most the images whose prediction changes, (1 − agreement)·N, so the standard error is
    at most √((1 − agreement) − rise²)/√N.
    """
    rise = r.error - r.intact_error
    most = np.clip(1 - r.agreement - rise**2, 0, None)
    return 100 * rise, 196 * np.sqrt(most / r.num_examples)


def single_deletions(r: Lesion) -> Criteria:
    """Row 2. All rises at the upper ends of their intervals, and all at the lower ones, bound each number."""
    limit, share = LIMITS[2], LIMITS[2]["share"] / 100
    rise, half = rises(r)
    opening, over = transitions(r.unit), f"{r.num_examples:,} images, at most"
    other, wide = rise[~opening], half[~opening]
    median = [float(np.median(other + sign * wide)) for sign in (-1, 1)]
    few = [float(np.mean(other + sign * wide <= limit["rise"])) for sign in (1, -1)]
    worst = np.argsort(-rise)[: limit["top"]]
    # The weakest of the units that change the shape, minus the strongest of the others that must be below it.
    below = limit["top"] - opening.sum()
    rank = [
        float((rise - half)[opening].min(initial=np.inf) - _nth((rise + half)[~opening], below)),
        float((rise + half)[opening].min(initial=np.inf) - _nth((rise - half)[~opening], below)),
    ]
    allowed = f"{opening.sum()} of {opening.sum()}"
    return {
        "median rise where the shape stays, points": criterion(
            np.median(other), median, over, f"≤ {limit['median']}", judged(*median, most=limit["median"])
        ),
        f"share of those that cost at most {limit['rise']} points": criterion(
            np.mean(other <= limit["rise"]), few, over, f"≥ {share}", judged(*few, least=share)
        ),
        f"units that change the shape among the {limit['top']} worst": criterion(
            f"{opening[worst].sum()} of {opening.sum()}", [], over, allowed, judged(*rank, least=0)
        ),
        f"units that cost more than {limit['median']} point, and the half-width of the interval": told(
            {r.unit[i]: [rise[i], half[i]] for i in np.flatnonzero(rise > limit["median"])}, 2
        ),
    }


def _nth(values: np.ndarray, n: int) -> float:
    """The value of rank ``n`` from the largest, which has rank 0; −∞ where there are fewer."""
    return float(np.sort(values)[::-1][n]) if len(values) > n else -np.inf


RESAMPLES = 2000


def resampled_medians(r: Deletions) -> tuple[np.ndarray, np.ndarray]:
    """k [number], and medians of the error [resample, number], over resampled sets of each number.

    Where all possible sets were deleted, there is nothing to resample.
    """
    curve, rng = by_number(r), np.random.default_rng(0)
    made = np.empty((RESAMPLES, len(curve.amount)))
    for i, (k, low, high) in enumerate(zip(curve.amount, curve.low, curve.high, strict=True)):
        own = r.error[r.number == k]
        if low == high:
            made[:, i] = curve.median[i]
        else:
            made[:, i] = np.median(rng.choice(own, (RESAMPLES, len(own))), axis=1)
    return curve.amount, made


def _interval(values: np.ndarray, tests: int = 1) -> np.ndarray:
    """Percentile 95 % interval over the first axis; with several tests, Bonferroni's."""
    return np.quantile(values, (0.025 / tests, 1 - 0.025 / tests), axis=0)


def many_deletions(r: Deletions) -> Criteria:
    """Row 5.

    The largest of many noisy steps exceeds the largest true step, so it is no estimate of it. Here each
    step has an interval: "no step above 15 points" is met if none of them reaches above 15, and missed if one
    of them (by Bonferroni's interval for so many) lies above it as a whole.
    """
    limit = LIMITS[5]
    step, low, high = (limit[name] / 100 for name in ("step", "low", "high"))
    median = by_number(r).median
    k, made = resampled_medians(r)
    over = f"{int(np.median(by_number(r).draws[1:]))} sets a number"
    rank = spearman(k[1:], median[1:])
    ranks = _interval(np.array([spearman(k[1:], row[1:]) for row in made]))
    ranks = np.clip(reflected(rank, (ranks[0], ranks[1])), -1, 1)
    slope = np.diff(made, axis=1) / np.diff(k)
    each, strict = _interval(slope), _interval(slope, len(k) - 1)
    steep = int(np.argmax(np.diff(median) / np.diff(k)))
    # The step whose lower end is highest decides "missed", the one whose upper end is highest "met".
    bounds = float(strict[0].max()), float(max(each[1].max(), strict[0].max()))
    found = {
        "rank correlation of k and the median": criterion(
            rank, ranks, over, f"≥ {limit['rank']}", judged(*ranks, least=limit["rank"])
        ),
        "largest step of the median from k to k + 1": criterion(
            (np.diff(median) / np.diff(k))[steep],
            each[:, steep],
            f"{over}; at k = {k[steep]}",
            f"no step > {step}",
            judged(*bounds, most=step),
        ),
        "median error by k": told(dict(zip(k.tolist(), median.tolist(), strict=True)), 4),
    }
    at = {int(n): i for i, n in enumerate(k)}
    if 10 in at:
        error = median[at[10]]
        ends = _with_images(error, _interval(made[:, at[10]]), r.num_examples)
        found["median at k = 10"] = criterion(
            error,
            ends,
            f"{over} and {r.num_examples:,} images",
            f"{low:.2f} to {high:.2f}",
            judged(*ends, least=low, most=high),
        )
    if 20 in at and 10 in at:
        ratio = _interval(made[:, at[20]] / made[:, at[10]])
        found["median at k = 20 ÷ at k = 10"] = criterion(
            median[at[20]] / median[at[10]],
            ratio,
            over,
            f"≥ {limit['ratio']}",
            judged(*ratio, least=limit["ratio"]),
            2,
        )
    return found


def _with_images(error: float, ends: np.ndarray, images: int) -> tuple[float, float]:
    """An interval over sets, widened by the noise of so many images, which all sets share."""
    noise = 1.96 * np.sqrt(error * (1 - error) / images)
    return error - float(np.hypot(error - ends[0], noise)), error + float(np.hypot(ends[1] - error, noise))


def orders(r: Reordering) -> Criteria:
    """Row 6: medians of τ and of the error over resampled orders, for each number of swaps."""
    limit, rank = LIMITS[6]["rank"], tau_and_error(r)
    tau, error, rng = by_swaps(r, "tau"), by_swaps(r), np.random.default_rng(0)
    chosen, made = r.of_kind("swaps"), np.empty(RESAMPLES)
    groups = [np.flatnonzero(chosen & (r.swaps == k)) for k in tau.amount[1:]]
    for i in range(RESAMPLES):
        rows = [rng.choice(own, len(own)) for own in groups]
        medians = [(1.0, r.intact_error), *((np.median(r.tau[j]), np.median(r.error[j])) for j in rows)]
        made[i] = spearman(*np.array(medians).T)
    low, high = np.nanquantile(made, (0.025, 0.975))
    ends = np.clip(reflected(rank, (low, high)), -1, 1)
    curve = zip(tau.amount.tolist(), tau.median, error.median, strict=True)
    return {
        "rank correlation of τ and the error, medians": criterion(
            rank, ends, f"{len(groups[0])} orders a number", f"≤ −{-limit}", judged(*ends, most=limit)
        ),
        "swaps → median τ, median error": told({k: [t, e] for k, t, e in curve}),
    }


def attenuation(r: Paths) -> Criteria:
    """Row 8, for each mode of BatchNorm."""
    least, found = LIMITS[8]["r_squared"], {}
    for mode, sample in r.sample.items():
        fit, over = sample.r_squared_interval, f"{sample.norm.shape[1]} paths a length"
        found[f"{mode}: R² of log mean norm over length"] = criterion(
            sample.r_squared, fit, over, f"≥ {least}", judged(*fit, least=least), 4
        )
        found[f"{mode}: g"] = told([sample.attenuation, *sample.attenuation_interval], 4)
    return found


def effective_lengths(r: Paths) -> Criteria:
    """Row 9, for each mode of BatchNorm."""
    limit, found = LIMITS[9], {}
    slack, most = limit["slack"], limit["share"] / 100
    for mode, sample in r.sample.items():
        reach, over = sample.effective_interval, f"{sample.norm.shape[1]} paths a length"
        for i, end in enumerate(("first", "last")):
            near = judged(*reach[:, i], least=limit[end] - slack, most=limit[end] + slack)
            found[f"{mode}: {end} of the effective lengths, of {sample.num_residual}"] = criterion(
                sample.effective[i], reach[:, i], over, f"{limit[end]} ± {slack} of 54", near
            )
        narrow, wide = (reach[1, 0], reach[0, 1]), (reach[0, 0], reach[1, 1])
        share, *ends = (
            share_between(sample.num_residual, *given, sample.num_plain)
            for given in (sample.effective, narrow, wide)
        )
        found[f"{mode}: share of all paths in there"] = criterion(
            share, ends, over, f"≤ {most}", judged(*ends, most=most), 5
        )
        exact = r.exact[mode]
        found[f"{mode}: exact norms, central 95 %"] = told(exact.effective[0])
        ends = [exact.mean_length[0], *(e[0] for e in exact.mean_length_interval)]
        found[f"{mode}: exact mean length, interval over batches"] = told(ends, 2)
    return found


def refinement(r: Identity) -> Criteria:
    """Row 20. Intervals over images; where initialization was measured, also the differences from it."""
    limit, (low, high) = LIMITS[20], 100 * r.below_interval
    leads = np.isfinite(r.lead)
    worst = int(np.nanargmax(np.abs(r.bias)))
    found = {
        "units with a negative mean cosine, %": criterion(
            100 * r.below,
            [low, high],
            "images",
            f"≥ {limit['share']}",
            judged(low, high, least=limit["share"]),
        ),
        "first unit ÷ largest other, by stage": criterion(
            r.lead[leads],
            r.lead_interval[leads],
            "images",
            "> 1 in each stage",
            all_of(judged(a, b, least=1) for a, b in r.lead_interval[leads]),
        ),
        "mean ÷ deviation of the estimation error, largest": criterion(
            r.bias[worst], r.bias_interval[worst], "images", f"at most {limit['near']}", near_0(r)
        ),
    }
    if r.initial is not None:
        ends = 100 * less(r.below, r.below_interval, r.initial.below, r.initial.below_interval)
        found["… more than at initialization, points"] = criterion(
            100 * (r.below - r.initial.below), ends, "images", "> 0", judged(*ends, least=0)
        )
        signs = faster(r)[np.isfinite(r.remaining)]
        sure, possible = int(np.sum(signs > 0)), int(np.sum(signs >= 0))
        found["stages whose estimation error shrinks faster than at initialization"] = criterion(
            sure,
            [sure, possible],
            "images",
            f"≥ {limit['less']} of {limit['of']}",
            judged(sure, possible, least=limit["less"]),
        )
    return found


def responses(results: dict[str, Responses]) -> Criteria:
    """Row 15, which compares networks: medians of normalized responses, with an interval over seeds."""
    medians = {label: float(np.median(r.std[r.normalized])) for label, r in results.items()}
    levels: dict[bool, dict[int, list[float]]] = {False: {}, True: {}}
    for label, r in results.items():
        # Every layer but the classifier has a response, so a network of depth d has d − 1.
        levels[r.residual].setdefault(len(r.layer) + 1, []).append(medians[label])
    plain, residual = levels[False], levels[True]
    found = {"median response": told(medians)}
    pairs = [(f"plain − residual, depth {d}", plain[d], residual[d]) for d in plain if d in residual]
    deeper = [d for d in LIMITS[15]["depths"] if d in residual]
    pairs += [
        (f"residual, depth {a} − depth {b}", residual[a], residual[b]) for a, b in itertools.pairwise(deeper)
    ]
    for name, larger, smaller in pairs:
        low, high = difference(larger, smaller)
        found[name] = criterion(
            np.mean(larger) - np.mean(smaller),
            [low, high],
            f"{len(larger)} and {len(smaller)} seeds",
            "> 0",
            judged(low, high, least=0),
        )
    return found


def difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Welch's 95 % interval of the difference of two means; NaN with fewer than two values in either."""
    if min(len(a), len(b)) < 2:
        return np.nan, np.nan
    _, low, high = of_difference(np.array(a), np.array(b))
    return low, high


ROWS: dict[int, tuple[str, Callable[[Any], Criteria]]] = {
    2: ("lesion", single_deletions),
    5: ("deletions", many_deletions),
    6: ("reorder", orders),
    8: ("paths", attenuation),
    9: ("paths", effective_lengths),
    20: ("identity", refinement),
}
"""Row → the study that it needs, and what judges one of its results."""


def tolerances(folder: Path) -> dict[str, dict[str, Criteria]]:
    """network → row → criterion, of the studies in a folder."""
    found: dict[str, dict[str, Criteria]] = {}
    for row, (study, judge) in ROWS.items():
        if (path := folder / f"{study}.json").is_file():
            for label, result in read(path, STUDIES[study]).items():
                found.setdefault(label, {})[str(row)] = judge(result)
    if (path := folder / "responses.json").is_file():
        found["all"] = {"15": responses(read(path, STUDIES["responses"]))}  # type: ignore[arg-type]
    return found


if __name__ == "__main__":
    for name in sys.argv[1:]:
        made = tolerances(Path(name))
        text = json.dumps(made, indent=1, ensure_ascii=False)
        write(Path(name) / "tolerances.json", text + "\n")
        print(text)
