"""How long the page of ``resjax.play`` takes to answer.

    python benchmarks/play.py [--workdir RUN] [--examples 400] [--rounds 20] [--json PATH]

Without ``--workdir``, a ResNet-56 for 8×8 digits with initial weights: the time of an answer does not depend
on the weights. Columns: the median and the largest of the rounds for an answer after a switch, a slider, and
a move, in this process, and for a request with its answer. Each round changes another unit of the intact
network, from the first to the last; the first one is the slowest, because all units are computed again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from results import save
from rich.console import Console
from rich.table import Table


def seconds_of(
    function: Callable[[int], Any], before: Callable[[], Any], rounds: int
) -> dict[str, list[float]]:
    """Seconds on the clock and of the processor of ``function(0)``, ``function(1)``, …, each after
    ``before()``, which does not count."""
    clock, processor = [], []
    for i in range(rounds):
        before()
        start = time.perf_counter(), time.process_time()
        function(i)
        clock.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return {"clock": clock, "processor": processor}


def untrained(config: ConfigDict, folder: Path) -> Path:
    """A run of this configuration that ends before the first step."""
    from resjax.training.checkpoint import Checkpoints
    from resjax.training.experiment import load_experiment
    from resjax.workdir.workdir import claim

    Checkpoints(claim(folder, config)).save(load_experiment(config).create_state())
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--examples", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="where to write the results")
    args = parser.parse_args()

    from resjax import config as configs
    from resjax.cpu.compilation import compile_quickly
    from resjax.play import server
    from resjax.play.live import Live, Sizes
    from resjax.play.state import State
    from resjax.studies.run import load_run
    from resjax.training.cores import share_cores_to_analyse

    compile_quickly()
    config = configs.load(args.workdir) if args.workdir else configs.load_file(configs.files()["digits"], "")
    share_cores_to_analyse(config, sums=False)  # before the first array
    with tempfile.TemporaryDirectory() as folder:
        run = load_run(args.workdir or untrained(config, Path(folder)))
        start = time.perf_counter()
        live = Live(run, Sizes(args.examples))
        live.described()
        compiling = time.perf_counter() - start
        n = live.network.num_units

        def switched(i: int, factor: float = 0.0) -> State:
            unit = i * n // args.rounds
            return State(tuple(factor if u == unit else 1.0 for u in range(n)), tuple(range(n)))

        def scaled(i: int) -> State:
            return switched(i, 0.5)

        pairs = [own[k : k + 2] for own in live.network.classes for k in range(len(own) - 1)]

        def moved(i: int) -> State:
            order = list(range(n))
            a, b = pairs[i * len(pairs) // args.rounds]
            order[a], order[b] = order[b], order[a]
            return State((1.0,) * n, tuple(order))

        def back() -> None:
            live.measure(State.intact(n))

        states = {"switch": switched, "slider": scaled, "move": moved}
        seconds = {
            name: seconds_of(lambda i, make=make: live.measure(make(i)), back, args.rounds)
            for name, make in states.items()
        }
        own = server.bound("127.0.0.1", 8400)
        address = f"http://127.0.0.1:{own.getsockname()[1]}/ask/measure"
        threading.Thread(target=server.serve, args=[server.app([live], "t"), own], daemon=True).start()

        def request(i: int) -> None:
            body = json.dumps({"state": {"gates": list(switched(i).gates)}}).encode()
            with urllib.request.urlopen(urllib.request.Request(address, body, {"X-Token": "t"})) as answer:
                answer.read()

        time.sleep(1)
        seconds["switch, with the request"] = seconds_of(request, back, args.rounds)
    sizes = {"units": n, "examples": len(live.labels), "devices": live.cores.count}
    save(args.json, {**sizes, "compiling": compiling, "seconds": seconds})
    table = Table(
        "answer after a",
        "median (s)",
        "largest (s)",
        "processor, median (s)",
        title=f"{n} units, {len(live.labels)} examples",
    )
    for name, own_seconds in seconds.items():
        clock, processor = own_seconds["clock"], own_seconds["processor"]
        numbers = (statistics.median(clock), max(clock), statistics.median(processor))
        table.add_row(name, *(f"{number:.3f}" for number in numbers))
    Console().print(table)
    print(f"compiling: {compiling:.1f} s")


if __name__ == "__main__":
    main()
