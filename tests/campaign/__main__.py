"""Runs a campaign: ``python -m tests.campaign --kills=50 --seed=0`` from the root of the repository."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

# Before JAX is imported.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance
from tests.campaign import damages, disks
from tests.campaign.commands import Commands
from tests.campaign.kills import command_of_kill, try_kill
from tests.campaign.lab import Lab
from tests.campaign.outcome import Outcome
from tests.campaign.table import table


def main(arguments: list[str] | None = None) -> int:
    """Runs the cases that the arguments ask for; returns 1 if something was lost, else 0."""
    given = _parsed(arguments)
    jax.config.update("jax_num_cpu_devices", 2)  # checkpoints of two devices are read, too
    folder = given.folder or Path(tempfile.mkdtemp(prefix="resjax-campaign-"))
    folder = folder.resolve()
    mounts = given.disk == "tmpfs" or (given.disk == "auto" and disks.can_mount(folder / "trial"))
    if given.disks and not given.only:
        print(f"full disks: {'a tmpfs' if mounts else 'no tmpfs can be mounted; files are limited instead'}")
    record = given.out or folder / "campaign.json"
    done = _read(record, given.seed) if given.go_on else {}
    commands = Commands()
    try:
        cases = _cases(given, mounts)
        needed = {command for command, _ in cases.values()}
        lab = Lab(folder / "lab", commands, needed, others=any(name.startswith("damage") for name in cases))
        for number, (name, (_, run)) in enumerate(cases.items(), 1):
            if name in done and not given.only:
                continue
            began = time.monotonic()
            done[name] = _tried(name, run, lab)
            took = time.monotonic() - began
            state = "survived" if done[name].survived else "LOST"
            print(
                f"{number}/{len(cases)} {state} {name} ({done[name].group}, {took:.1f} s): {done[name].what}",
                flush=True,
            )
            _write(record, given, done)
    except RuntimeError as error:  # the code without any disturbance is wrong
        raise SystemExit(f"error: {error}") from error
    finally:
        commands.close()
    print(f"\n{table(done.values())}\n\nrecord: {record}")
    lost = [one for one in done.values() if not one.survived]
    if lost:
        print(f"{len(lost)} lost; their folders are in {folder}/lab/cases. Repeat one: --only={lost[0].name}")
    return 1 if lost else 0


Case = tuple[str, Callable[[Lab], Outcome]]
"""The name of the undisturbed command that a case needs, and the case."""


def _cases(given: argparse.Namespace, mounts: bool) -> dict[str, Case]:
    """{name: case} in the order in which they run."""
    seed = given.seed
    term = signal.SIGTERM
    kills = {
        f"kill-{n}": (command_of_kill(n), partial(try_kill, seed=seed, number=n)) for n in range(given.kills)
    }
    stops = {
        f"stop-{n}": (command_of_kill(n), partial(try_kill, seed=seed, number=n, number_of=term))
        for n in range(given.stops)
    }
    hurt = {
        f"damage-{n}": (damages.command_of_damage(seed, n), partial(damages.try_damage, seed=seed, number=n))
        for n in range(given.damages)
    }
    full = {
        f"disk-{n}": (disks.command_of_disk(n), partial(disks.try_disk, seed=seed, number=n, mounts=mounts))
        for n in range(given.disks)
    }
    cases = kills | stops | hurt | full
    if not given.only:
        # All kinds from the start, so that the record of a campaign that is broken off shows all.
        share = {
            name: place / len(own) for own in (kills, stops, hurt, full) for place, name in enumerate(own)
        }
        return {name: cases[name] for name in sorted(cases, key=share.__getitem__)}
    names = given.only.split(",")
    if unknown := set(names) - set(cases):
        raise SystemExit(
            f"error: --only={', '.join(sorted(unknown))}: there is no such case. There are kill-0 to "
            f"kill-{given.kills - 1}, and stop-…, damage-…, disk-… as many as the flags ask for"
        )
    return {name: cases[name] for name in names}


def _tried(name: str, run: Callable[[Lab], Outcome], lab: Lab) -> Outcome:
    """The outcome; where the campaign itself fails, that is told, and the other cases still run."""
    try:
        return run(lab)
    except Exception as error:
        traceback.print_exc()
        return Outcome(name, "the campaign itself", False, f"{type(error).__name__}: {error}", {})


def _read(record: Path, seed: int) -> dict[str, Outcome]:
    if not record.is_file():
        return {}
    found = json.loads(record.read_text("utf-8"))
    if found["seed"] != seed:
        raise SystemExit(
            f"error: {record} is of --seed={found['seed']}; go on with that, or name another --out"
        )
    return {case["name"]: Outcome(**case) for case in found["cases"]}


def _write(record: Path, given: argparse.Namespace, done: dict[str, Outcome]) -> None:
    facts = {"seed": given.seed, "made": provenance(), "cases": [one._asdict() for one in done.values()]}
    write(record, json.dumps(facts, indent=1, default=str) + "\n")


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs, spread over the phases")
    parser.add_argument("--stops", type=int, default=10, help="SIGTERMs, spread over the phases")
    parser.add_argument("--damages", type=int, default=30, help="files that are damaged")
    parser.add_argument("--disks", type=int, default=6, help="disks that are too small")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--only", default="", help="names of cases, such as kill-17,damage-3")
    parser.add_argument(
        "--disk", choices=("auto", "tmpfs", "limit"), default="auto", help="how a disk is filled"
    )
    parser.add_argument("--folder", type=Path, help="of all runs; default: a temporary one")
    parser.add_argument("--out", type=Path, help="the record; default: campaign.json in the folder")
    parser.add_argument("--go_on", action="store_true", help="leave out cases that the record has")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
