"""What the studies of ``resjax.analyze`` cost on one run: seconds, compilations and memory of each.

    python benchmarks/analyze.py --workdir DIR [--studies lesion …] [--options max_examples=300 …]
    python benchmarks/analyze.py --workdir DIR --against TREE [--rounds 2] [--json PATH]

Each measurement is a process of its own without a cache of compiled programs, in which the studies run one
after the other on one run, as in ``resjax.analyze``, with the devices that it chooses; nothing that is kept
in the workdir is read or written, and nothing is drawn. ``processor`` are seconds of all cores, which depend
less on what else the machine does; ``compiling`` are seconds in which programs are traced and compiled;
``programs`` is their number. ``memory`` is the peak of the process after each study (``ru_maxrss``), which
includes the studies before it.

With ``--against``, the folder of another version of resjax takes turns with this one, and the table has the
ratios of their seconds: the least of the rounds of each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from results import save
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent.parent
COLUMNS = {"seconds": ".1f", "processor": ".1f", "compiling": ".1f", "programs": ".0f", "memory": ".2f"}
Measured = dict[str, dict[str, float]]  # {study: {column: value}}


def measured(workdir: str, studies: list[str], options: dict[str, int]) -> Measured:
    """Every study that the run allows, in this process."""
    import resource

    import jax

    from resjax import config as configs
    from resjax.cpu.compilation import compile_quickly
    from resjax.network.refusal import Refusal
    from resjax.studies.catalogue import STUDIES
    from resjax.studies.options import Options
    from resjax.studies.run import load_run
    from resjax.training.cores import share_cores_to_analyse

    compiling = []

    def heard(name: str, seconds: float, **_: Any) -> None:
        if name.startswith("/jax/core/compile/"):
            compiling.append((name.endswith("backend_compile_duration"), seconds))

    compile_quickly()
    jax.monitoring.register_event_duration_secs_listener(heard)
    share_cores_to_analyse(configs.load(Path(workdir)))
    run, chosen, found = load_run(workdir), Options(**options), {}
    for name, study in STUDIES.items():
        if (studies and name not in studies) or study.unsuited(run):
            continue
        compiling.clear()
        wall, processor = time.perf_counter(), time.process_time()
        try:
            study.run(run, chosen)
        except Refusal:
            continue
        found[name] = {
            "seconds": time.perf_counter() - wall,
            "processor": time.process_time() - processor,
            "compiling": sum(seconds for _, seconds in compiling),
            "programs": sum(whole for whole, _ in compiling),
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,  # of KiB: GiB
        }
        print(json.dumps({name: found[name]}), file=sys.stderr, flush=True)
    return found


def in_process(tree: Path, args: argparse.Namespace) -> Measured:
    """``measured`` in a process that imports resjax from ``tree``."""
    command = [sys.executable, __file__, "--here", "--workdir", args.workdir]
    for name in ("studies", "options"):
        if values := getattr(args, name):
            command += [f"--{name}", *values]
    env = {**os.environ, "PYTHONPATH": str(tree), "RESJAX_CACHE_DIR": "off"}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def least(rounds: list[Measured]) -> Measured:
    """The smallest value of each column over the rounds, and the sums over studies as 'all'."""
    found = {
        study: {name: min(one[study][name] for one in rounds) for name in COLUMNS} for study in rounds[0]
    }
    found["all"] = {name: sum(row[name] for row in found.values()) for name in COLUMNS}
    found["all"]["memory"] = max(row["memory"] for study, row in found.items() if study != "all")
    return found


def table(rounds: dict[str, list[Measured]]) -> Table:
    """One row for each study, and the sum."""
    of_tree = {tree: least(own) for tree, own in rounds.items()}
    shown = Table("study")
    for tree in of_tree:
        for name in COLUMNS:
            unit = " (GiB)" if name == "memory" else ""
            shown.add_column(f"{name}{unit}\n{tree if len(of_tree) > 1 else ''}", justify="right")
    ratios = ("seconds", "processor") if len(of_tree) > 1 else ()
    for name in ratios:
        shown.add_column(f"ratio of\n{name}", justify="right")
    for study in of_tree["this"]:
        rows = [own[study] for own in of_tree.values() if study in own]
        cells = [format(row[name], form) for row in rows for name, form in COLUMNS.items()]
        shares = [f"{rows[0][name] / rows[1][name]:.2f}" for name in ratios if len(rows) > 1]
        shown.add_row(study, *cells, *shares)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="a run of resjax.train")
    parser.add_argument("--studies", nargs="*", default=[], help="default: all")
    parser.add_argument("--options", nargs="*", default=[], help="NAME=NUMBER, as of resjax.analyze")
    parser.add_argument("--against", type=Path, help="folder of another version of resjax")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    options = {name: int(value) for name, _, value in (text.partition("=") for text in args.options)}
    if args.here:
        print(json.dumps(measured(args.workdir, args.studies, options)))
        return
    trees = {"this": HERE, **({"other": args.against.resolve()} if args.against else {})}
    rounds: dict[str, list[Measured]] = {name: [] for name in trees}
    for _ in range(args.rounds):
        for name, tree in trees.items():
            rounds[name].append(in_process(tree, args))
            save(args.json, {"options": options, "rounds": rounds})
    Console().print(table(rounds))


if __name__ == "__main__":
    main()
