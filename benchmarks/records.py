"""How long a workdir with a long log takes to open, and how much memory: a synthetic run of many records.

    python benchmarks/records.py [--records 100000] [--depth 20] [--json PATH]

The run is a ResNet for 8×8 digits with a checkpoint of its initial state and ``--records`` lines in
metrics.jsonl, each with the norms of all parameters, as if ``log.every`` were one step. Measured are, in a
process each, opening it for an analysis, the curves, the norms over training, and opening it to continue
training, at its last record and at the one before, which sets one line aside. Memory is the growth of the
peak of the resident set, of which JAX and the network have been taken off by opening a run of four records
first.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results import save

LINES = "metrics.jsonl"


def make(workdir: Path, records: int, depth: int) -> None:
    """A run with a checkpoint at step 1 and ``records`` lines."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from resjax import config as configs
    from resjax.network.norms import layer_norms
    from resjax.training.checkpoint import Checkpoints
    from resjax.training.experiment import load_experiment
    from resjax.workdir.workdir import claim

    config = configs.default("resnet", depth=depth, widths=(4, 8, 16))
    experiment = load_experiment(config)
    state = experiment.create_state()
    shapes = {
        name: np.shape(norm) for name, norm in layer_norms(experiment.task.network, state.params).items()
    }
    path = claim(workdir, config)
    checkpoints = Checkpoints(path)
    checkpoints.save(state.replace(step=jnp.int32(1)))
    rng = np.random.default_rng(0)

    def norms() -> dict[str, Any]:
        return {name: rng.random(shape, np.float32).tolist() for name, shape in shapes.items()}

    # Numbers of a few lines are repeated: only their text counts.
    tails = [json.dumps({kind: norms() for kind in ("gradient", "parameter", "update")}) for _ in range(16)]
    with (path / LINES).open("w") as file:
        first = {"step": 0, "epoch": 0.0, "test_loss": 2.3, "test_error": 0.9}
        file.write(json.dumps(first) + "\n")
        for step in range(1, records):
            loss, error = (float(x) for x in rng.random(2))
            head = {"step": step, "epoch": round(step / 14, 4), "loss": loss, "error": error}
            head |= {"learning_rate": 0.1, "images_per_second": 1000 * loss}
            file.write(json.dumps(head)[:-1] + f', "norms": {tails[step % 16]}}}\n')
    del jax


def measure(what: str, workdir: Path, small: Path, records: int) -> dict[str, float]:
    """Seconds and MB of one task, in this process."""
    from resjax.studies.curves import STUDY as CURVES
    from resjax.studies.options import Options
    from resjax.studies.run import load_run
    from resjax.studies.signals.norms_over_training import STUDY as NORMS
    from resjax.workdir.writers import Writer

    def run(folder: Path, count: int) -> None:
        nonlocal start, cpu
        if what.startswith("continue"):
            start, cpu = time.perf_counter(), time.process_time()
            Writer(folder, max(count - 1 - ("before" in what), 0), count)._file.close()
            return
        start, cpu = time.perf_counter(), time.process_time()
        opened = load_run(folder)
        if what == "open":
            return
        start, cpu = time.perf_counter(), time.process_time()
        study = {"curves": CURVES, "norms": NORMS}[what]
        study.run(opened, Options(), lambda done, of: None)

    start = cpu = 0.0
    run(small, 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(workdir, records)
    seconds, busy = time.perf_counter() - start, time.process_time() - cpu
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": round(seconds, 2), "CPU_seconds": round(busy, 2), "MB": round(grown / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--task", nargs=4, help=argparse.SUPPRESS)  # what, workdir, small, records
    args = parser.parse_args()
    if args.task:
        what, workdir, small, records = args.task
        print(json.dumps(measure(what, Path(workdir), Path(small), int(records))))
        return
    record: dict[str, Any] = {"records": args.records, "depth": args.depth}
    with tempfile.TemporaryDirectory() as folder:
        workdir, small = Path(folder) / "long", Path(folder) / "small"
        make(small, 4, args.depth)
        make(workdir, args.records, args.depth)
        record["log_MB"] = round((workdir / LINES).stat().st_size / 2**20)
        print(f"{args.records:,} records, {record['log_MB']:,} MB")
        for what in ("open", "curves", "norms", "continue", "continue before"):
            command = [sys.executable, __file__, "--task", what, workdir, small, str(args.records)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            record[what] = json.loads(done.stdout.splitlines()[-1])
            seconds, busy, grown = record[what].values()
            print(f"{what:16} {seconds:8.2f} s, {busy:8.2f} s of CPU, {grown:6,} MB", flush=True)
    save(args.json, record)


if __name__ == "__main__":
    main()
