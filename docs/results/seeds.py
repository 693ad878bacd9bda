"""Three seeds of a residual and a plain network as groups: ``python docs/results/seeds.py WORKDIR``.

Trains configs/digits.py and configs/digits_plain.py with 20 layers and the seeds 0, 1 and 2, analyzes all six
runs together (``--workdir='WORKDIR/*/seed*'``), and writes seeds.json, anew after each study, and seeds.png
beside this file: what the report says of the two groups, and the numbers of each seed. A finished run or
study is not repeated.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from resjax import config as configs
from resjax.analyze import analyze
from resjax.report import compare, overlay
from resjax.report.seeds import pool
from resjax.report.write import read
from resjax.studies import style
from resjax.studies.catalogue import STUDIES
from resjax.studies.lesions.deletions import by_number
from resjax.studies.lesions.lesion import may_go
from resjax.studies.options import Options
from resjax.train import train_and_evaluate
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance

HERE = Path(__file__).parent
KINDS = {"residual": "digits.py", "plain": "digits_plain.py"}
SEEDS, DEPTH = (0, 1, 2), 20
SHOWN = ("curves", "lesion", "deletions", "paths")
FIGURE = "lesion"
OPTIONS = Options(path_draws=30)


def config_of(kind: str, seed: int) -> ConfigDict:
    """One run's configuration."""
    c = configs.load_file(HERE.parents[1] / "configs" / KINDS[kind])
    c.model.depth, c.seed = DEPTH, seed
    return c


def numbers_of(study: str, result: Any) -> dict[str, Any]:
    """The numbers of one seed that the findings are about."""
    if study == "curves":
        return {"test_error": result.eval_error[-1], "training_error": result.train_error[-1]}
    if study == "lesion":
        names = ["intact_error", "error", "unit"]
        return {name: getattr(result, name) for name in names} | {"may_go": may_go(result)}
    if study == "deletions":
        curve = by_number(result)
        return {"deleted": curve.amount, "median_error": curve.median, "quartiles": curve.quartiles}
    exact, sample = result.first
    return {
        "mean_length": exact.mean_length[0],
        "effective": exact.effective[0],
        "sampled_mean_length": sample.mean_length,
        "g": sample.attenuation,
    }


def plain(value: Any) -> Any:
    """As JSON, with five digits; NaN is None."""
    if isinstance(value, np.ndarray):
        return [plain(one) for one in value.tolist()]
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    return value


def shown(name: str, workdir: Path) -> dict[str, Any]:
    """What the report says of the groups in one study, and the numbers of each seed; writes the figure."""
    study, out = STUDIES[name], workdir / "report" / name
    analyze([workdir / kind / "seed*" for kind in KINDS], [name], out, OPTIONS)
    results = read(out / f"{name}.json", study)
    pooled = pool(results, json.loads((out / f"{name}.json").read_text("utf-8"))["seeds"])
    if name == FIGURE:
        with style.theme():
            figure = overlay.draw(study, pooled)
            figure.savefig(HERE / "seeds.png", dpi=150, facecolor="white")
    said = compare.finding(study, pooled)
    seeds = {label: numbers_of(name, result) for label, result in results.items()}
    return {
        "finding": said.headline,
        "points": list(said.points),
        "summary": compare.summary(study, pooled),
        "seeds": {label: {k: plain(v) for k, v in own.items()} for label, own in seeds.items()},
    }


def main(workdir: Path) -> None:
    for seed in SEEDS:
        for kind in KINDS:
            train_and_evaluate(config_of(kind, seed), workdir / kind / f"seed{seed}")
    studies: dict[str, Any] = {}
    for number, name in enumerate(SHOWN, 1):
        studies[name] = shown(name, workdir)
        record = {
            "made": {k: v for k, v in provenance().items() if k != "command"},
            "command": "python docs/results/seeds.py WORKDIR",
            "config": {**config_of("residual", 0).to_dict(), "seed": list(SEEDS), "kinds": KINDS},
            "options": OPTIONS.arguments(),
            "finished": f"{number} of {len(SHOWN)} studies",
            "studies": studies,
        }
        write(HERE / "seeds.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
