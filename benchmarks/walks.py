"""Passes through a network of two versions of resjax, side by side: unit by unit, and in one program.

    python benchmarks/walks.py --workdir DIR --against TREE [--kinds each …] [--images 64]
        [--rounds 5] [--json PATH]

Each version is a process that has compiled its programs before the first round, with the devices that
``resjax.analyze`` chooses. In every round they take turns with ``orders``, equal units in random order, and
``sets``, random units deleted, which run unit by unit (``resjax.studies.lesions.prefixes``); with ``scaled``,
branches times random factors, whole networks in one program (``resjax.studies.variants``); and with ``each``,
every unit deleted alone, all in one program. Numbers are milliseconds of one example and one pass:
``processor`` of all cores, which depend less on what else the machine does, and ``seconds`` by the clock.
``faults`` are the page faults of the process that read nothing from a disk, of one example and one pass.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from results import save
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent.parent
ROWS = 6  # orders, sets, and networks with scaled branches
KINDS = ("orders", "sets", "scaled", "each")


def serve(workdir: str, count: int, chosen: list[str]) -> None:
    """Measures once for each line of the input, and answers with a line of JSON."""
    import numpy as np

    from resjax import config as configs
    from resjax.cpu.compilation import compile_quickly
    from resjax.studies.lesions.lesion import lesion
    from resjax.studies.lesions.prefixes import count_passes, deleting, measure_places
    from resjax.studies.run import load_run
    from resjax.studies.variants import measure, with_gates
    from resjax.training.cores import share_cores_to_analyse

    compile_quickly()
    share_cores_to_analyse(configs.load(Path(workdir)))
    given = load_run(workdir).evaluation(count)
    network, rng = given[0], np.random.default_rng(0)
    orders = np.tile(np.arange(network.num_units), (ROWS, 1))
    for order in orders:
        for own in network.classes:
            order[own] = rng.permutation(own)
    sets = deleting(rng.random(orders.shape) < 0.2)
    gates = rng.random(orders.shape).astype(np.float32)
    kinds = {
        "orders": (lambda: measure_places(*given, orders), count_passes(orders)),
        "sets": (lambda: measure_places(*given, sets), count_passes(sets)),
        "scaled": (lambda: measure(*given, with_gates, gates), 1 + ROWS),
        "each": (lambda: lesion(*given), (network.num_units + 1) / 2),
    }
    kinds = {kind: own for kind, own in kinds.items() if kind in chosen}
    for run, _ in kinds.values():
        run()
    print("ready", flush=True)
    for _ in sys.stdin:
        found = {}
        for kind, (run, passes) in kinds.items():
            wall, processor, faults = time.perf_counter(), time.process_time(), page_faults()
            run()
            each = 1 / (count * passes)
            found[kind] = {
                "seconds": 1000 * each * (time.perf_counter() - wall),
                "processor": 1000 * each * (time.process_time() - processor),
                "faults": each * (page_faults() - faults),
            }
        print(json.dumps(found), flush=True)


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def started(tree: Path, args: argparse.Namespace) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--serve", "--workdir", args.workdir, "--images", str(args.images)]
    command += ["--kinds", *args.kinds]
    env = {**os.environ, "PYTHONPATH": str(tree), "RESJAX_CACHE_DIR": "off"}
    return subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def measured(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return dict(json.loads(process.stdout.readline()))


def table(rounds: list[dict[str, Any]]) -> Table:
    """Medians, and of times the ratios this / other of the rounds."""
    shown = Table("passes", "of", "this", "other", "ratio (range)")
    for kind in rounds[0]["this"]:
        for of, unit in (("processor", "ms"), ("seconds", "ms"), ("faults", "pages")):
            this, other = ([one[name][kind][of] for one in rounds] for name in ("this", "other"))
            told = ""
            if of != "faults":  # of which there may be none
                ratios = [a / b for a, b in zip(this, other, strict=True)]
                told = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            medians = (f"{statistics.median(found):.2f}" for found in (this, other))
            shown.add_row(kind, f"{of}, {unit}", *medians, told)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="a run of resjax.train that both versions read")
    parser.add_argument("--against", type=Path, help="folder of another version of resjax")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.workdir, args.images, args.kinds)
        return
    if args.against is None:
        parser.error("--against is missing: the folder of another version of resjax")
    trees = {"this": HERE, "other": args.against.resolve()}
    processes = {name: started(tree, args) for name, tree in trees.items()}
    for process in processes.values():
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    rounds: list[dict[str, Any]] = []
    for _ in range(args.rounds):
        rounds.append({name: measured(process) for name, process in processes.items()})
        save(args.json, {"images": args.images, "rounds": rounds})
    for process in processes.values():
        process.communicate()
    Console().print(table(rounds))


if __name__ == "__main__":
    main()
