"""Whose layers can go? Five architectures of twelve units, each unit deleted; rows 28 to 32 for the ViT.

    python docs/results/whose_layers.py WORKDIR digits|cifar10 [DATA] [--networks=vit,resnet,…]

*Protocol.* The networks and the recipe of ``twelve_units``, three seeds; DATA is an .npz file of CIFAR-10. A
finished training or measurement is not repeated. Every deletion is at test time, without further training and
with BatchNorm's running statistics, on the 397 test images of digits or 1,000 of CIFAR-10, spread
evenly. Beside each trained network stands the same network at initialization.

*Criteria.* Those of docs/results/claims.json, which were committed before the first measurement. A seed gives
one number, and the interval is Student's t over seeds. A network that has hardly learned, with more than 60 %
error (chance is 90 %), decides nothing: its rows are undecided.

* *Layers* of the ViT are attention and MLP together. *Sets of three* are all 20 of each kind. *Random orders*
  move whole layers, 20 of the 719, the same for all networks.
* *Cuts.* For n = 1 … 6, the n consecutive layers with the least angular distance on 512 training images are
  deleted (Gromov et al. 2024, Eq. 7, with the whole state of an image for that of the last token). Accuracy
  above chance falls to half at a share of the layers that is interpolated between two n.

Writes whose_layers_DATA.json and .png beside this file, anew after each seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import by_seed
import numpy as np
import twelve_units
from by_seed import Row
from layer_rows import judged

from resjax.analysis import at_initialization, influence, load_run
from resjax.cpu.compilation import compile_quickly, keep_compiled
from resjax.studies import style
from resjax.studies.cutting.similarity import block_distances
from resjax.studies.lesions.prefixes import measure_places
from resjax.studies.run import Run
from resjax.studies.subject import Subject
from resjax.train import train_and_evaluate
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance
from resjax.workdir.stopping import ends_process

HERE = Path(__file__).resolve().parent
IMAGES, CHOOSE_ON, ORDERS = 1000, 512, 20


def without(units: int, sets: Sequence[Sequence[int]]) -> np.ndarray:
    """int [sets, units], the rows of ``measure_places`` for networks without these units."""
    places = np.tile(np.arange(units), (len(sets), 1))
    for row, gone in zip(places, sets, strict=True):
        row[list(gone)] = ~row[list(gone)]
    return places


def of_layers(orders: Sequence[Sequence[int]]) -> np.ndarray:
    """int [orders, units]: layers in another order, where layer l is the units 2l and 2l + 1."""
    return np.array([[unit for layer in order for unit in (2 * layer, 2 * layer + 1)] for order in orders])


def random_orders(layers: int) -> list[list[int]]:
    """The random orders of whole layers, none the true one."""
    rng, found = np.random.default_rng(0), []
    while len(found) < ORDERS:
        order = rng.permutation(layers).tolist()
        if order not in found and order != sorted(order):
            found.append(order)
    return found


def errors_of(run: Run, places: np.ndarray) -> Row:
    """Error, loss, and agreement with the intact network of each row, and the intact error and loss."""
    changed, intact = measure_places(*run.evaluation(IMAGES), places, loss=run.loss)
    return {
        "intact": float(intact.error[0]),
        "intact_loss": float(intact.loss[0]),
        **{name: getattr(changed, name).tolist() for name in ("error", "loss", "agreement")},
    }


def single(run: Run) -> Row:
    """Each unit deleted, in the trained network and at initialization."""
    units = [unit.name for unit in run.network.units]
    places = without(len(units), [[i] for i in range(len(units))])
    return {
        "unit": units,
        **errors_of(run, places),
        "initial": errors_of(at_initialization(run), places),
    }


def layers(run: Run) -> Row:
    """What rows 28 to 32 ask of a network whose layers are two units each."""
    units = run.network.num_units
    count = units // 2
    halves = list(itertools.combinations(range(count), count // 2))
    neighbors = []
    for i in range(count - 1):
        neighbors.append([*range(i), i + 1, i, *range(i + 2, count)])
    blocks = {n: least_distant(run, n) for n in range(1, count + 1)}
    parts = {
        "layer": without(units, [[2 * i, 2 * i + 1] for i in range(count)]),
        "swap": of_layers(neighbors),
        "order": of_layers(random_orders(count)),
        "three_attention": without(units, [[2 * i for i in half] for half in halves]),
        "three_mlp": without(units, [[2 * i + 1 for i in half] for half in halves]),
        "cut": without(units, [range(2 * first, 2 * (first + n)) for n, first in blocks.items()]),
    }
    found = errors_of(run, np.concatenate(list(parts.values())))
    ends = np.cumsum([len(places) for places in parts.values()])
    shares = np.split(np.array(found["error"]), ends[:-1])
    return {
        "intact": found["intact"],
        "first_layer_cut": list(blocks.values()),
        **{name: share.tolist() for name, share in zip(parts, shares, strict=True)},
    }


def scores(run: Run) -> Row:
    """Cheap scores of each unit, and Spearman's ρ of each with the rise of the loss by its deletion."""
    return {"trained": ranked(run), "initial": ranked(at_initialization(run))}


def ranked(run: Subject) -> Row:
    found = influence(*run.evaluation(IMAGES), lengths=(1,), loss=run.loss)
    rho = found.rho[found.damage.index("loss"), 0]
    return {
        "score": {
            name: np.diag(value).tolist() for name, value in zip(found.score, found.value, strict=True)
        },
        "rho": dict(zip(found.score, rho.tolist(), strict=True)),
    }


def least_distant(run: Run, n: int) -> int:
    """The first of the n consecutive layers whose angular distance is least."""

    def distances() -> np.ndarray:
        images, _ = run.examples("train", CHOOSE_ON)
        return block_distances(run.network, run.variables, images, run.deletable)

    known = run.once("angular distances of blocks", distances)
    last = len(known) // 2 - n
    return int(np.argmin([known[2 * i, 2 * (i + n) - 1] for i in range(last + 1)]))


MEASURES: dict[str, tuple[tuple[str, ...], Callable[[Run], Row]]] = {
    "single": (tuple(twelve_units.NETWORKS), single),
    "layers": (("vit", twelve_units.SHUFFLED), layers),
    "scores": (tuple(twelve_units.NETWORKS), scores),
}
"""What is measured: of which networks, and how."""


def path_of(workdir: Path, name: str) -> Path:
    """The file of a measurement of a run."""
    return workdir / f"whose_layers_{name}.json"


def kept(workdir: Path, name: str, measure: Callable[[Run], Row]) -> Row:
    """A measurement of a finished run, which is made once."""
    path = path_of(workdir, name)
    if not path.is_file():
        write(path, json.dumps(measure(load_run(workdir))))
    return json.loads(path.read_text("utf-8"))


def correlations(rows: list[Row]) -> Row:
    """{network: {score: its rank correlation with the damage, over seeds}}, trained and at initialization."""
    found: Row = {}
    for network in dict.fromkeys(r["network"] for r in rows if "scores" in r):
        own = [r["scores"] for r in rows if r["network"] == network and "scores" in r]
        found[network] = {
            state: {
                name: by_seed.estimate([one[state]["rho"][name] for one in own])
                for name in own[0][state]["rho"]
            }
            for state in ("trained", "initial")
        }
    return found


def summary(rows: list[Row]) -> Row:
    """Of each network, over seeds: errors, units that may go, and its predictions that deletions keep."""
    found: Row = {}
    for network in dict.fromkeys(r["network"] for r in rows if "single" in r):
        own = [r["single"] for r in rows if r["network"] == network]
        rise = [100 * (np.array(one["error"]) - one["intact"]) for one in own]
        found[network] = {
            "test error, %": by_seed.estimate([100 * one["intact"] for one in own]),
            "units that cost at most one point, of 12": by_seed.estimate([np.sum(r <= 1) for r in rise]),
            "median rise, points": by_seed.estimate([np.median(r) for r in rise]),
            "largest rise, points": by_seed.estimate([np.max(r) for r in rise]),
            "agreement with the intact network, mean, %": by_seed.estimate(
                [100 * np.mean(one["agreement"]) for one in own]
            ),
            "… at initialization": by_seed.estimate(
                [100 * np.mean(one["initial"]["agreement"]) for one in own]
            ),
        }
    return found


def table(record: Row) -> str:
    """The summary in Markdown: means over seeds, with their intervals."""
    found = record["summary"]
    columns = list(next(iter(found.values())))
    lines = [f"| network | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for network, own in found.items():
        cells = [told(own[column]) for column in columns]
        lines.append(f"| {twelve_units.NETWORKS[network].title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def told(found: Row) -> str:
    """An estimate in words, as '1.2 (0.8 to 1.6)'."""
    if found["interval_95"] is None:
        return f"{found['mean']:.1f}"
    low, high = (f"{end:.1f}".replace("-", "−") for end in found["interval_95"])
    return f"{found['mean']:.1f} ({low} to {high})".replace("-", "−")


def plot(rows: list[Row]) -> style.Figure:
    """Error without each unit, a panel a network: seeds thin, their mean thick, initialization pale."""
    networks = [n for n in twelve_units.NETWORKS if any(r["network"] == n for r in rows)]
    fig, (axes,) = style.axes_grid(1, len(networks), sharey=True)
    for ax, network in zip(axes, networks, strict=True):
        own = [r["single"] for r in rows if r["network"] == network]
        errors = 100 * np.array([one["error"] for one in own])
        x = np.arange(1, errors.shape[1] + 1)
        for error in errors:
            ax.plot(x, error, lw=0.8, alpha=0.5, color=style.color(0))
        ax.plot(x, errors.mean(0), marker="o", lw=2, color=style.color(0), label="trained, without the unit")
        initial = 100 * np.mean([one["initial"]["error"] for one in own], 0)
        ax.plot(x, initial, ls="", marker="o", ms=4, mfc="none", alpha=0.6, color=style.color(0),
                label="at initialization")  # fmt: skip
        intact = 100 * np.mean([one["intact"] for one in own])
        ax.axhline(intact, ls="--", lw=1, color="0.4", label="trained, intact")
        ax.set(title=twelve_units.NETWORKS[network].title, xlabel="deleted unit", ylim=(0, 100))
        ax.set_xticks((1, 4, 8, 12))
    axes[0].set_ylabel("test error (%)")
    style.legend_above(fig, axes[0])
    return fig


def row_of(part: str, network: str, seed: int, data: str, folder: Path) -> Row:
    """The measurements of one run, which is trained if one of them is missing."""
    wanted = {name: measure for name, (on, measure) in MEASURES.items() if network in on}
    if not all(path_of(folder, name).is_file() for name in wanted):
        train_and_evaluate(twelve_units.config_of(part, network, seed, data), folder)
    return {
        "network": network,
        "seed": seed,
        **{name: kept(folder, name, measure) for name, measure in wanted.items()},
    }


def record_of(part: str, networks: Sequence[str], rows: list[Row]) -> Row:
    """What is written: the measurements, what they say, and what made them."""
    built = {name: twelve_units.config_of(part, name, 0) for name in networks}
    return {
        "made": {k: v for k, v in provenance().items() if k != "command"},
        "command": f"python docs/results/whose_layers.py WORKDIR {part}",
        "config": built[networks[0]].to_dict() | {"seed": list(twelve_units.SEEDS)},
        "models": {name: own.model.to_dict() for name, own in built.items()},
        "finished": f"{len(rows)} of {len(twelve_units.SEEDS) * len(networks)} runs",
        "summary": summary(rows),
        "correlations": correlations(rows),
        "judged": judged(rows),
        "runs": rows,
    }


def main(workdir: Path, part: str, data: str, networks: Sequence[str]) -> None:
    rows, record = [], {}
    for seed in twelve_units.SEEDS:
        for network in networks:
            rows.append(row_of(part, network, seed, data, workdir / f"{part}-{network}-seed{seed}"))
            print(f"{network}, seed {seed}: measured", flush=True)
        record = record_of(part, networks, rows)
        write(HERE / f"whose_layers_{part}.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    with style.theme():
        plot(rows).savefig(HERE / f"whose_layers_{part}.png", dpi=150, facecolor="white")
    print(table(record))
    print(json.dumps(record["judged"], indent=1, ensure_ascii=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", type=Path)
    parser.add_argument("part", choices=twelve_units.PARTS)
    parser.add_argument("data", nargs="?", default="")
    parser.add_argument("--networks", default=",".join((*twelve_units.NETWORKS, twelve_units.SHUFFLED)))
    given = parser.parse_args()
    compile_quickly()
    keep_compiled()
    with ends_process():
        main(given.workdir, given.part, given.data, given.networks.split(","))
