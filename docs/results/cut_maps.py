"""What maps mend in the place of cut units: ``python docs/results/cut_maps.py WORKDIR``.

WORKDIR is what ``python -m resjax.pretrained resnet20.safetensors --workdir=WORKDIR`` made. The first units
of the greedy order are cut, as ``python -m resjax.cut --count`` cuts them, with no maps and with maps of each
kind. Maps and BatchNorm's statistics come from reference images, cropped and flipped as in training. All is
done for several sets of reference images that have none in common; each number is a mean over them, and its
interval is Student's. The errors are those on one sample of test images. What a kind of map mends is
compared with no map on the same images, and that interval is over the images.

Writes cut_maps.json after each set, and prints the table of docs/cut.md, which is made from that file.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resjax.analysis import load_run
from resjax.network import Network, Variables
from resjax.network.cut import cut, cut_variables
from resjax.studies.cutting.choose import order
from resjax.studies.cutting.maps import fit
from resjax.studies.intervals import of_mean, wilson
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.run import Run
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance

PATH = Path(__file__).with_suffix(".json")
UNITS, CHOSEN_ON, TESTED, REFERENCE, SETS = 3, 512, 2_000, 768, 3
KINDS = {
    "nothing": None,
    "`affine`": ("affine", 1),
    **{f"`linear`, rank {rank}": ("linear", rank) for rank in (2, 8, 16)},
}
AS_FITTED, REESTIMATED = "as fitted", "re-estimated"
Wrong = dict[str, dict[str, list[np.ndarray]]]  # {row: {column: for each set, which images are wrong}}


@partial(jax.jit, static_argnums=0)
def predicted(network: Network, variables: Variables, images: jax.Array) -> jax.Array:
    return network.apply(variables, images).logits.argmax(-1)


def measure(run: Run, units: tuple[str, ...], reference: np.ndarray, wrong: Wrong) -> None:
    """Adds what one set of reference images gives."""
    images, labels = run.examples("test", TESTED)

    def add(row: str, network: Network, variables: Variables) -> None:
        columns = wrong.setdefault(row, {AS_FITTED: [], REESTIMATED: []})
        for column, sets in columns.items():
            if column == REESTIMATED:
                variables = reestimate(network, variables, reference)
            elif sets and KINDS.get(row) is None:  # the reference images have no part in it
                sets.append(sets[0])
                continue
            parts = range(0, len(labels), 500)
            found = np.concatenate([predicted(network, variables, images[i : i + 500]) for i in parts])
            sets.append(found != labels)

    add("nothing cut", run.network, run.variables)
    for row, maps in KINDS.items():
        smaller = cut(run.network, units, run.image_shape, maps)
        if maps:
            add(row, smaller, fit(run.network, run.variables, units, reference, *maps))
        else:
            add(row, smaller, cut_variables(run.network, run.variables, units, run.image_shape))


def summary(wrong: Wrong) -> dict[str, Any]:
    """{row: {column: …}} of all sets, in percent and in percentage points."""
    rows: dict[str, Any] = {}
    nothing = np.mean(wrong["nothing"][REESTIMATED], 0)
    for row, columns in wrong.items():
        rows[row] = {}
        for column, sets in columns.items():
            each = 100 * np.mean(sets, 1)
            rows[row][column] = {"each": each.tolist(), "interval": np.array(of_mean(each, 0)).tolist()}
        less = 100 * (nothing - np.mean(columns[REESTIMATED], 0))
        rows[row]["mended"] = {"mean": less.mean(), "interval": np.array(of_mean(less, 0)).tolist()}
    return rows


def table(rows: dict[str, Any]) -> str:
    """The table of docs/cut.md."""
    lines = [
        "| in the place of units | error as fitted | error with BatchNorm re-estimated | points less than "
        "with nothing |",
        "|---|---|---|---|",
    ]
    for row, columns in rows.items():
        cells = [row]
        for column in (AS_FITTED, REESTIMATED):
            each, (low, high) = columns[column]["each"], columns[column]["interval"]
            spread = "" if np.ptp(each) == 0 else f" ({low:.1f} to {high:.1f})"
            cells.append(f"{np.mean(each):.1f} %{spread}")
        low, high = columns["mended"]["interval"]
        compared = row not in ("nothing", "nothing cut")
        less = f"{columns['mended']['mean']:.1f} ({low:.1f} to {high:.1f})".replace("-", "−")
        cells.append(less if compared else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(workdir: str) -> None:
    run = load_run(workdir)
    chosen = order(
        run.network, run.variables, "greedy", choose_on=run.examples("train", CHOSEN_ON), count=UNITS
    )
    reference, _ = run.examples("train", SETS * REFERENCE, augmented=True)
    wrong: Wrong = {}
    for i in range(SETS):
        measure(run, chosen.units, reference[i * REFERENCE : (i + 1) * REFERENCE], wrong)
        record = {
            "made": {k: v for k, v in provenance().items() if k != "command"},
            "imported": {k: run.starts[0]["imported"][k] for k in ("sha256", "layout")},
            "units": chosen.units,
            "pool": chosen.pool,
            "chosen on": CHOSEN_ON,
            "test images": TESTED,
            "reference images": REFERENCE,
            "sets": i + 1,
            "half a Wilson interval at 30 %, points": 50 * float(np.ptp(wilson(0.3, TESTED))),
            "rows": summary(wrong),
        }
        write(PATH, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        print(f"set {i + 1} of {SETS}\n{table(record['rows'])}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
