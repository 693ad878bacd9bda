"""Judges studies by the criteria of claims.json: ``python docs/results/tolerances.py FOLDER [FOLDER …]``.

FOLDER is a report of ``resjax.analyze``, or a copy of one that ``collect.py`` made. Writes
FOLDER/tolerances.json: network → row → criteria, each with the measured value, the allowed values, and
whether it was met. The reader must check that network and protocol are those of the row. Rows without a study
in FOLDER are left out. Row 15 compares networks: it is judged in a report of several, under "all", with those
of its depths that are there; otherwise "met" is null, and "why" says what is missing.
"""

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from resjax.report.write import read
from resjax.studies.catalogue import STUDIES
from resjax.studies.lesions.deletions import Deletions, by_number
from resjax.studies.lesions.lesion import Lesion
from resjax.studies.lesions.reorder import Reordering, by_swaps, tau_and_error
from resjax.studies.paths.path_lengths import share_between
from resjax.studies.paths.paths import Paths
from resjax.studies.ranks import spearman
from resjax.studies.units.identity import Identity, openings, refining
from resjax.studies.units.responses import Responses
from resjax.workdir.workdir import write

Criteria = dict[str, dict[str, Any]]
_CLAIMS = json.loads(Path(__file__).with_name("claims.json").read_text("utf-8"))["claims"]
LIMITS: dict[int, dict[str, Any]] = {claim["row"]: claim["limits"] for claim in _CLAIMS}
"""Row → the numbers of its criterion, in the units of its text: points and percent, not shares."""


def criterion(measured: Any, allowed: str, met: bool | None, why: str = "") -> dict[str, Any]:
    """One criterion; ``met`` is None if nothing can fail, or if ``why`` says that it cannot be judged."""
    measured = json.loads(json.dumps(measured, default=lambda v: np.asarray(v).tolist()))
    found = {"measured": measured, "allowed": allowed, "met": None if met is None else bool(met)}
    return found | ({"why": why} if met is None and why else {})


def transitions(unit: tuple[str, ...]) -> np.ndarray:
    """bool [unit]: those that open a stage after the first, and change the shape."""
    return np.array([u.endswith("/unit1") and not u.startswith("stage1/") for u in unit])


def single_deletions(r: Lesion) -> Criteria:
    """Row 2. The interval of a rise is at most that of 1 − agreement, the share of images that change."""
    limit = LIMITS[2]
    share = limit["share"] / 100
    rise, opening = 100 * (r.error - r.intact_error), transitions(r.unit)
    half = 196 * np.sqrt((1 - r.agreement) / r.num_examples)
    other = rise[~opening]
    worst = [r.unit[i] for i in np.argsort(-rise)[: limit["top"]]]
    exceptions = {
        r.unit[i]: [round(float(rise[i]), 2), round(float(half[i]), 2)]
        for i in np.flatnonzero(rise > limit["median"])
    }
    return {
        "median rise where the shape stays, points": criterion(
            round(float(np.median(other)), 2),
            f"≤ {limit['median']}",
            np.median(other) <= limit["median"],
        ),
        f"share of those that cost at most {limit['rise']} points": criterion(
            round(float(np.mean(other <= limit["rise"])), 3),
            f"≥ {share}",
            np.mean(other <= limit["rise"]) >= share,
        ),
        "the five worst hold all that change the shape": criterion(
            worst, "all of them", all(u in worst for u in np.array(r.unit)[opening])
        ),
        f"units that cost more than {limit['median']} point (rise, ± at most)": criterion(
            exceptions, "", None
        ),
    }


def many_deletions(r: Deletions) -> Criteria:
    """Row 5."""
    limit = LIMITS[5]
    step, low, high = (limit[name] / 100 for name in ("step", "low", "high"))
    curve = by_number(r)
    k, median = curve.amount, curve.median
    steps = np.diff(median) / np.diff(k)
    at = {int(n): float(m) for n, m in zip(k, median, strict=True)}
    rank = spearman(k[1:], median[1:])
    found = {
        "rank correlation of k and the median": criterion(
            round(rank, 3), f"≥ {limit['rank']}", rank >= limit["rank"]
        ),
        "largest step of the median from k to k + 1": criterion(
            round(float(steps.max()), 3), f"≤ {step}", steps.max() <= step
        ),
        "median error by k": criterion({n: round(m, 4) for n, m in at.items()}, "", None),
    }
    if 10 in at:
        found["median at k = 10"] = criterion(
            round(at[10], 3), f"{low:.2f} to {high:.2f}", low <= at[10] <= high
        )
    if 20 in at and 10 in at:
        ratio = at[20] / at[10]
        found["median at k = 20 ÷ at k = 10"] = criterion(
            round(ratio, 2), f"≥ {limit['ratio']}", ratio >= limit["ratio"]
        )
    return found


def orders(r: Reordering) -> Criteria:
    """Row 6."""
    limit = LIMITS[6]["rank"]
    rank = tau_and_error(r)
    tau, error = by_swaps(r, "tau"), by_swaps(r)
    curve = {
        int(k): [round(float(t), 3), round(float(e), 4)]
        for k, t, e in zip(tau.amount, tau.median, error.median, strict=True)
    }
    return {
        "rank correlation of τ and the error, medians": criterion(
            round(rank, 3), f"≤ −{-limit}", rank <= limit
        ),
        "swaps → median τ, median error": criterion(curve, "", None),
    }


def paths(r: Paths) -> Criteria:
    """Rows 8 and 9, for each mode of BatchNorm."""
    r_squared, ends, most = LIMITS[8]["r_squared"], LIMITS[9], LIMITS[9]["share"] / 100
    slack = ends["slack"]
    found = {}
    for mode in r.modes:
        sample, exact = r.sample[mode], r.exact[mode]
        g, (low, high) = sample.attenuation, sample.attenuation_interval
        first, last = sample.effective
        share = share_between(sample.num_residual, first, last, sample.num_plain)
        found[f"{mode}: R² of log mean norm over length"] = criterion(
            round(sample.r_squared, 4), f"≥ {r_squared}", sample.r_squared >= r_squared
        )
        found[f"{mode}: g"] = criterion([round(float(v), 4) for v in (g, low, high)], "", None)
        found[f"{mode}: number × mean norm, central 95 %, of {sample.num_residual}"] = criterion(
            [first, last],
            f"{ends['first']} ± {slack} to {ends['last']} ± {slack} of 54",
            abs(first - ends["first"]) <= slack and abs(last - ends["last"]) <= slack,
        )
        found[f"{mode}: share of all paths in there"] = criterion(round(share, 5), f"< {most}", share < most)
        found[f"{mode}: exact norms, central 95 %"] = criterion(exact.effective[0], "", None)
        found[f"{mode}: exact mean length, interval over batches"] = criterion(
            np.round([exact.mean_length[0], *(e[0] for e in exact.mean_length_interval)], 2),
            "",
            None,
        )
    return found


def refinement(r: Identity) -> Criteria:
    """Row 20."""
    share, less_of = LIMITS[20]["share"] / 100, (LIMITS[20]["less"], LIMITS[20]["of"])
    known = np.isfinite(r.cosine)
    down = float(np.mean(r.cosine[known] < 0))
    clear = int(np.sum(r.cosine[known] < -2 * r.cosine_error[known]))
    (first, stages), (less, of) = openings(r), refining(r)
    return {
        "share of units with a mean cosine below 0": criterion(round(down, 3), f"≥ {share}", down >= share),
        "of these beyond two standard errors": criterion(f"{clear} of {known.sum()}", "", None),
        "stages whose first unit has the largest ‖F‖/‖x‖": criterion(
            f"{first} of {stages}", "all", first == stages
        ),
        "stages along which the estimation error shrinks": criterion(
            f"{less} of {of}", "≥ {} of {}".format(*less_of), less >= less_of[0]
        ),
    }


def responses(results: dict[str, Responses]) -> Criteria:
    """Row 15, which compares networks: medians of normalized responses, at equal depth their mean."""
    medians = {label: float(np.median(r.std[r.normalized])) for label, r in results.items()}
    levels: dict[bool, dict[int, float]] = {False: {}, True: {}}
    for residual, by_depth in levels.items():
        # Every layer but the classifier has a response, so a network of depth d has d − 1.
        depths = {k: len(r.layer) + 1 for k, r in results.items() if r.residual == residual}
        for depth in sorted(set(depths.values())):
            by_depth[depth] = float(np.mean([medians[k] for k, d in depths.items() if d == depth]))
    plain, residual = levels[False], levels[True]
    both = {d: [round(plain[d], 3), round(residual[d], 3)] for d in plain if d in residual}
    deeper = {d: round(residual[d], 3) for d in LIMITS[15]["depths"] if d in residual}
    falls = all(b < a for a, b in itertools.pairwise(residual[d] for d in deeper))
    return {
        "median response": criterion({k: round(v, 3) for k, v in medians.items()}, "", None),
        "depth → plain, residual": criterion(
            both,
            "plain > residual",
            all(plain[d] > residual[d] for d in both) if both else None,
            "no plain and residual network of equal depth among these",
        ),
        "residual networks by depth": criterion(
            deeper,
            " > ".join(map(str, LIMITS[15]["depths"])),
            falls if len(deeper) > 1 else None,
            "fewer than two of the depths {}, {} and {} among these".format(*LIMITS[15]["depths"]),
        ),
    }


ROWS: dict[str, tuple[str, Callable[[Any], Criteria]]] = {
    "lesion": ("2", single_deletions),
    "deletions": ("5", many_deletions),
    "reorder": ("6", orders),
    "paths": ("8, 9", paths),
    "identity": ("20", refinement),
}


def tolerances(folder: Path) -> dict[str, dict[str, Criteria]]:
    """network → row → criterion, of the studies in a folder."""
    found: dict[str, dict[str, Criteria]] = {}
    for study, (row, judge) in ROWS.items():
        if (path := folder / f"{study}.json").is_file():
            for label, result in read(path, STUDIES[study]).items():
                found.setdefault(label, {})[row] = judge(result)
    if (path := folder / "responses.json").is_file():
        found["all"] = {"15": responses(read(path, STUDIES["responses"]))}  # type: ignore[arg-type]
    return found


if __name__ == "__main__":
    for name in sys.argv[1:]:
        made = tolerances(Path(name))
        text = json.dumps(made, indent=1, ensure_ascii=False)
        write(Path(name) / "tolerances.json", text + "\n")
        print(text)
