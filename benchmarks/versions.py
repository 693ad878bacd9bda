"""A training step of resjax with several versions of JAX, trees of resjax or settings of XLA, in turns.

    python benchmarks/versions.py 0.10.2=.venv/bin/python 0.12=.venv-newest/bin/python \\
        "0.12, sums=.venv-newest/bin/python --xla_cpu_experimental_ynn_fusion_type=-reduce" \\
        "before=.venv/bin/python PYTHONPATH=../before" [--network 56] [--batch 128] [--rounds 5] [--steps 2]

A contender is NAME=INTERPRETER, then settings: XLA's begin with ``--``, others are environment variables.
PYTHONPATH names another tree. The program is that of ``train_step.py``: each core is a device. Seconds are
those of the processor, over all threads, so that other work on the machine counts less; those on the clock
show where cores wait. The ratio is the median over rounds of (seconds / seconds of the first contender); the
first round is dropped.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from results import save
from rich.console import Console
from rich.table import Table
from serving import Contender, against

STEP = Path(__file__).parent / "train_step.py"


def contender(given: str, network: str, batch: int, steps: int) -> Contender:
    interpreter, *settings = given.split()
    flags = " ".join(s for s in settings if s.startswith("--"))
    own = "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling"  # as the commands have it
    variables = [s for s in settings if not s.startswith("--")] + [f"XLA_FLAGS={own} {flags}".strip()]
    step = (str(STEP), "--serve", "resjax", network, str(batch), "float32", str(steps))
    return Contender("env", *variables, interpreter, *step)


def compared(seconds: list[float], first: list[float]) -> dict[str, Any]:
    """Of all rounds but the first, and their ratios to those of the first contender."""
    kept = seconds[1:]
    return {"seconds": statistics.median(kept), "rounds": kept, **against(kept, first[1:])}


def told(row: dict[str, Any]) -> tuple[str, str]:
    return f"{row['seconds']:.3f}", "{:.2f}× ({:.2f} to {:.2f})".format(row["ratio"], *row["range"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("contenders", nargs="+", help="NAME=INTERPRETER [SETTING …]")
    parser.add_argument("--network", default="56", help="a depth, or resnet50")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="of a round, one dispatch")
    parser.add_argument("--json", type=Path, help="where to write the results")
    args = parser.parse_args()
    named = dict(given.partition("=")[::2] for given in args.contenders)
    if len(named) < len(args.contenders) or not all(named.values()):
        parser.error(f"contenders {args.contenders}; allowed: NAME=INTERPRETER, each name once")
    started = {
        name: contender(given, args.network, args.batch, args.steps).ready() for name, given in named.items()
    }
    for _ in range(args.rounds + 1):
        for it in started.values():
            it.round()
    table = Table("contender", "processor, s", "ratio (range)", "clock, s", "ratio (range)")
    rows = {}
    first = next(iter(started.values()))
    for name, it in started.items():
        it.close()
        work = compared(it.processor_seconds, first.processor_seconds)
        clock = compared(it.step_seconds, first.step_seconds)
        rows[name] = {"given": named[name], **work, "clock": clock, "compile_seconds": it.compile_seconds}
        table.add_row(name, *told(work), *told(clock))
    about = {"network": args.network, "batch": args.batch, "steps_a_round": args.steps}
    save(args.json, {"seconds": "processor time, all threads", **about, "contenders": rows})
    Console().print(table)


if __name__ == "__main__":
    main()
