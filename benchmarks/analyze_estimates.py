"""Estimated and measured time of each study: how good ``resjax.studies.costs`` is.

    python benchmarks/analyze_estimates.py WORKDIR [--studies lesion …] [--minutes 5] [--json PATH]

Each study runs once on a run, with the sizes that ``resjax.analyze --minutes=M`` would choose, in a fresh
process, so that it compiles its own programs; the cache of compiled programs is off. The estimate is made in
the same process before the study, and so are the figures behind it. ``--clock=cpu`` measures processor time
instead, for a machine that does other work, too: then the speed is measured in processor time as well, and
the minutes are those of all cores together.

Columns: estimated and measured seconds, their ratio, and the seconds of the figures (``plan.DRAWING``).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results import save
from rich.console import Console
from rich.table import Table

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def chosen(workdir: str, minutes: float, clock: str) -> dict[str, dict[str, Any]]:
    """{study: options} within these minutes, without a look at finished results."""
    from resjax.report.plan import DRAWING
    from resjax.studies.budget import choose
    from resjax.studies.catalogue import STUDIES
    from resjax.studies.options import Options
    from resjax.studies.run import load_run
    from resjax.studies.speed import measure_speed

    run = load_run(workdir)
    speed = measure_speed(run, Options(), clock=CLOCKS[clock])
    suited = {name: study for name, study in STUDIES.items() if not study.unsuited(run)}
    prices = {
        name: lambda options, study=study: DRAWING + study.estimate(run, options).seconds(speed)
        for name, study in suited.items()
    }
    return {name: dataclasses.asdict(own) for name, own in choose(prices, Options(), minutes).items()}


def measured(workdir: str, name: str, options: dict[str, Any], clock: str) -> dict[str, Any] | None:
    """One study: estimated and measured seconds, and those of its figures; None if it refuses the run."""
    from resjax.network.refusal import Refusal
    from resjax.report.figures import picture
    from resjax.report.figures import save as save_figures
    from resjax.studies.catalogue import STUDIES
    from resjax.studies.options import Options
    from resjax.studies.run import load_run
    from resjax.studies.speed import measure_speed

    run, study, own, now = load_run(workdir), STUDIES[name], Options(**options), CLOCKS[clock]
    begun = now()
    speed = measure_speed(run, own, clock=now)
    start = now()
    estimated = study.estimate(run, own).seconds(speed)
    try:
        result = study.run(run, own, None)
    except Refusal:
        return None
    end = now()
    with tempfile.TemporaryDirectory() as folder:
        save_figures(lambda: study.plot({"run": result}), Path(folder), name)
        picture(lambda: study.plot({"run": result}), name)
    return {
        "study": name,
        "options": options,
        "speed": speed._asdict(),
        "estimated": estimated,
        "measured": end - start,
        "speed_measured_in": start - begun,
        "figures": now() - end,
    }


def call(function: str, *given: Any) -> Any:
    """``function(*given)`` in a fresh process that shares cores as the command does."""
    code = (
        "import json, sys; sys.path[:0] = json.loads(sys.argv[1])\n"
        "from resjax import config as configs\n"
        "from resjax.cpu.compilation import compile_quickly\n"
        "from resjax.training.cores import share_cores_to_analyse\n"
        "import analyze_estimates\n"
        "given = json.loads(sys.argv[2])\n"
        "compile_quickly()\n"
        "share_cores_to_analyse(configs.load(given[0], ()))\n"
        f"print(json.dumps(analyze_estimates.{function}(*given)))\n"
    )
    paths = [str(Path(__file__).parent), os.getcwd()]
    words = [sys.executable, "-c", code, json.dumps(paths), json.dumps(given)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{function} of {given} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--studies", nargs="*", help="default: all that fit")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", type=Path, help="where to write the results")
    args = parser.parse_args()

    sizes = call("chosen", args.workdir, args.minutes, args.clock)
    table = Table("study", title=f"{args.workdir}, {args.minutes:g} minutes, {args.clock} time")
    for column in ("estimated (s)", "measured (s)", "measured ÷ estimated", "figures (s)"):
        table.add_column(column, justify="right")
    rows: list[dict[str, Any]] = []
    console = Console()
    for name in args.studies or sizes:
        row = call("measured", args.workdir, name, sizes[name], args.clock)
        if row is None:
            console.print(f"{name}: refuses this run")
            continue
        rows.append(row)
        console.print(f"{name}: {row['estimated']:.1f} s estimated, {row['measured']:.1f} s measured")
        ratio = row["measured"] / row["estimated"] if row["estimated"] else float("nan")
        cells = (row["estimated"], row["measured"], ratio, row["figures"])
        table.add_row(name, *(f"{cell:.2f}" for cell in cells))
        save(args.json, {"clock": args.clock, "minutes": args.minutes, "rows": rows})
    sums = [sum(row[key] for row in rows) for key in ("estimated", "measured", "figures")]
    table.add_row(
        "all", *(f"{cell:.2f}" for cell in (sums[0], sums[1], sums[1] / max(sums[0], 1e-9), sums[2]))
    )
    console.print(table)


if __name__ == "__main__":
    main()
