"""How often intervals of path lengths hold the true value: ``python docs/results/path_coverage.py
[WORKDIR]``.

The batches of a trained network are the population: of WORKDIR (``make demo``: runs/demo/residual), 87
batches of 16 training images, with statistics of the batch, and two single paths of each length for each
batch. Some of them are drawn at random, with replacement, and the interval of each method is compared with
the value of the whole population. "before": norms are averaged over batches, percentile bootstrap. "now":
every batch alike, Student's t (exact sums) and the jackknife (draws); see docs/analyses/paths.md. Without
WORKDIR, the norms recorded in path_coverage.json are used. Writes path_coverage.json beside this file.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from resjax.analysis import load_run
from resjax.studies.intervals import bootstrap, of_mean
from resjax.studies.paths.path_exact import path_spectrum
from resjax.studies.paths.path_lengths import fit_attenuation, path_lengths, shares, totals
from resjax.studies.paths.path_sampled import of_draws, sample_paths
from resjax.studies.paths.path_walk import STUDY_BATCH, TRAINING
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance

PATH = Path(__file__).with_suffix(".json")
BATCHES, DRAWS = (4, 8, 16), (5, 10, 30, 87)
SAMPLES, FEWER, RESAMPLES = 400, 120, 200
Covered = dict[str, list[float]]


def population(workdir: str) -> dict[str, Any]:
    """Norms of all batches, and of two draws for each."""
    run = load_run(workdir)
    images, labels = run.examples("train", run.experiment.dataset.info.num_train)
    given = run.network, run.variables, images, labels
    exact = path_spectrum(*given, loss=run.loss, probe=TRAINING, batch_size=STUDY_BATCH)
    draws = 2 * exact.norm.shape[1]
    sample = sample_paths(*given, loss=run.loss, probe=TRAINING, batch_size=STUDY_BATCH, draws=draws)
    rounded = {"exact": exact.norm[0], "draws": sample.norm.T, "totals": sample.total}
    return {
        "workdir": run.label,
        "step": run.step,
        "made": provenance(),
        **{
            name: [[float(f"{v:.6g}") for v in row] for row in np.atleast_2d(x)]
            for name, x in rounded.items()
        },
    }


def of_batches(norms: np.ndarray, length: np.ndarray, rng: np.random.Generator) -> dict[str, Covered]:
    """Coverage of the mean effective length, by the number of batches."""
    pooled, alike = shares(norms.mean(0)) @ length, float((shares(norms) @ length).mean())
    found: dict[str, Covered] = {"before": {"mean length": []}, "now": {"mean length": []}}
    for count in BATCHES:
        held = np.zeros(2)
        for _ in range(SAMPLES):
            own = norms[rng.integers(0, len(norms), count)]
            low, high = bootstrap(own.T, lambda v, axis: shares(v.mean(axis)) @ length, resamples=RESAMPLES)
            held[0] += low <= pooled <= high
            low, high = of_mean(shares(own) @ length, 0)
            held[1] += low <= alike <= high
        for part, share in zip(found.values(), held / SAMPLES, strict=True):
            part["mean length"].append(float(share))
    return found


def of_paths(
    norms: np.ndarray, total: np.ndarray, length: np.ndarray, rng: np.random.Generator
) -> dict[str, Covered]:
    """Coverage of g, R² and the mean length by the product, by the number of draws; norms are [length,
    draw]."""
    units = len(length) - 1

    def statistics(mean: np.ndarray) -> np.ndarray:
        return np.array([*fit_attenuation(mean, length, units, 0), totals(mean, units, 0) @ length])

    raw, alike = statistics(norms.mean(1)), statistics((norms / total).mean(1))
    names = ("g", "R²", "mean length by the product")
    found: dict[str, Covered] = {part: {name: [] for name in names} for part in ("before", "now")}
    for count in DRAWS:
        held = {"before": np.zeros(3), "now": np.zeros(3)}
        for seed in range(FEWER):
            rows = rng.integers(0, norms.shape[1], count)
            low, high = bootstrap(
                norms[:, rows], lambda v, axis: statistics(v.mean(axis)), resamples=RESAMPLES
            )
            held["before"] += (low <= raw) & (raw <= high)
            size = {"num_residual": units, "num_plain": 0, "batch_size": STUDY_BATCH}
            sample = of_draws(norms[:, rows], total[rows], **size, choices={"seed": seed})
            low, high = np.transpose(
                [sample.attenuation_interval, sample.r_squared_interval, sample.mean_length_interval]
            )
            held["now"] += (low <= alike) & (alike <= high)
        for part, counts in held.items():
            for name, share in zip(names, counts / FEWER, strict=True):
                found[part][name].append(float(share))
    return found


def main(workdir: str | None) -> None:
    record = json.loads(PATH.read_text("utf-8")) if workdir is None else {"population": population(workdir)}
    recorded = record["population"]
    exact, draws = np.array(recorded["exact"]), np.array(recorded["draws"]).T
    total, length = np.ravel(recorded["totals"]), path_lengths(exact.shape[1] - 1)
    rng = np.random.default_rng(0)
    sums = exact.sum(1)
    relative = np.log(draws / total)
    middle = (len(exact.T) - 1) * 8 // 27  # length 8 of 27
    half = draws.shape[1] // 2
    record["facts"] = {
        "largest ÷ median sum of norms": float(sums.max() / np.median(sums)),
        "effective number of batches": float(sums.sum() ** 2 / np.sum(sums**2)),
        f"correlation of two draws on a batch, length {middle}": [
            float(np.corrcoef(x[middle, :half], x[middle, half:])[0, 1]) for x in (np.log(draws), relative)
        ],
    }
    record["batches"] = {"numbers": BATCHES, "samples": SAMPLES, **of_batches(exact, length, rng)}
    record["paths"] = {"numbers": DRAWS, "samples": FEWER, **of_paths(draws, total, length, rng)}
    record["coverage made"] = provenance()
    write(PATH, json.dumps(record, ensure_ascii=False) + "\n")
    told = {name: record[name] for name in ("facts", "batches", "paths")}
    print(json.dumps(told, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
