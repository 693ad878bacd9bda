"""The output of a run: JSON lines, lines and a progress bar on the terminal, and optionally TensorBoard.

``metrics.jsonl`` has one object per line, which begins with a checksum: ``{"crc32": …, "step": …, "epoch": …,
"loss": …}``; norms are nested, ``{"norms": {"gradient": {"stem/conv/kernel": x, "stage1/conv1/kernel": [x,
…]}}}``, with a list where units are stacked. A run that resumes from a checkpoint first moves the lines after
it to another file, see ``set_aside``, and one that starts anew moves all, because it writes them again.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from resjax.data.files import open_regular
from resjax.workdir.atomic import replacing
from resjax.workdir.failures import naming
from resjax.workdir.records import Line, Records, line_of, lines

Record = Mapping[str, Any]


def read_records(workdir: str | Path) -> Records:
    """The records of ``metrics.jsonl``, oldest first."""
    return Records(Path(workdir) / "metrics.jsonl")


def set_aside(path: Path, start_step: int) -> str:
    """Prepares a log for a start that continues at ``start_step``, 0 for a start anew.

    Lines that this start writes again, and those that are no records, are moved to
    ``metrics.jsonl.set-aside-1``, or the first number that is free. Only blank lines, and the half last line
    that a killed process leaves, are dropped.

    Returns:
      What was moved, or is missing, in one line; '' if nothing is.
    """
    if not path.exists():
        return missing(path, 0, start_step)
    again = unreadable = size = last = 0
    ended = True
    with open_regular(path) as file:
        for line in lines(file):
            if line.half:
                break
            size, ended = size + len(line.content), line.content.endswith(b"\n")
            again += _again(line, start_step)
            unreadable += line.step is None and not line.blank and (ended or not line.piece)
            last = max(last, line.step or 0)
    lacks = missing(path, last, start_step)
    if not again and not unreadable:
        with path.open("ab") as file:
            file.truncate(size)
            file.write(b"" if ended else b"\n")
        return lacks
    numbers = itertools.count(1)
    aside = next(p for n in numbers if not (p := path.with_name(f"{path.name}.set-aside-{n}")).exists())
    # The context that is entered last ends first, so the lines are never absent from both files.
    with (
        replacing(path) as kept, replacing(aside) as moved,
        open_regular(path) as file, kept.open("wb") as ours, moved.open("wb") as others,
    ):  # fmt: skip
        for line in lines(file):
            if not line.half and not line.blank:
                out = others if line.step is None or _again(line, start_step) else ours
                out.write(line.content if line.piece else line.content.rstrip(b"\n") + b"\n")
    what = [_counted(again, "record of steps that are repeated", "records of steps that are repeated")]
    what += [_counted(unreadable, "line that is no record", "lines that are no records")]
    said = f"{path.name}: {' and '.join(filter(None, what))} moved to {aside.name}"
    return ". ".join(filter(None, [said, lacks]))


def missing(path: Path, last: int, step: int) -> str:
    """What is to be said of a log up to step ``last``, of a run with a checkpoint of ``step``; '' if nothing.

    Every checkpoint ends a record, except for that of an import, at step 1.
    """
    if last >= step or step <= 1:
        return ""
    return (
        f"{path.name} has no record after step {last}, but there is a checkpoint of step {step}: it was cut"
    )


def _again(line: Line, start_step: int) -> bool:
    return line.step is not None and (line.step > start_step or start_step == 0)


def _counted(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}" if number else ""


class Writer:
    """Writes the records of one run; use it as a context. On many hosts, only the first one writes.

    ``start_step`` is the step at which this start continues; with ``tensorboard``, event files are written to
    ``workdir/tensorboard``, too.
    """

    def __init__(self, workdir: Path, start_step: int, total_steps: int, tensorboard: bool = False) -> None:
        first = jax.process_index() == 0
        path = workdir / "metrics.jsonl" if first else Path(os.devnull)
        moved = set_aside(path, start_step) if first else ""
        self._path, self._file, self._first = path, path.open("a", encoding="utf-8"), first
        self._events = _event_writer(workdir / "tensorboard", start_step) if tensorboard and first else None
        self._console = Console(file=sys.stderr, quiet=not first, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("compiling", total=total_steps, completed=start_step)
        self._clock, self._clock_step = time.perf_counter(), start_step
        if moved:
            self.say(moved)

    def __enter__(self) -> Writer:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        with naming(self._path):  # closing writes what could not be written before
            self._file.close()
        if self._events:
            self._events.close()

    def say(self, text: str) -> None:
        """Prints a line on the terminal."""
        self._console.print(text, markup=False)

    def progress(self, step: int) -> None:
        """Moves the progress bar to ``step``."""
        self._bar.update(self._task, completed=step, description="training")

    def speed(self, step: int, batch_size: int) -> float:
        """Images per second since the last call, including compilation, evaluation and saving."""
        now = time.perf_counter()
        images = (step - self._clock_step) * batch_size
        speed = images / max(now - self._clock, 1e-9)
        self._clock, self._clock_step = now, step
        return speed

    def write(self, record: Record) -> None:
        """Writes a record to the file and to TensorBoard, and its scalars to the terminal."""
        plain = _plain(record)
        with naming(self._path):
            self._file.write(line_of(plain))
            self._file.flush()
        if self._events:
            for name, value in _scalars(plain):
                self._events.add_scalar(name, value, plain["step"])
        self.say(describe(plain))

    def sync(self) -> None:
        """Waits until the disk holds all records."""
        if self._first:
            with naming(self._path):
                os.fsync(self._file.fileno())


def describe(record: Record) -> str:
    """A record as one line of text."""
    text = f"step {record['step']:>6}  epoch {record['epoch']:>6.1f}"
    for name, value in record.items():
        if name in ("step", "epoch", "norms"):
            continue
        label = name.replace("_", " ")
        if name.endswith("error"):
            text += f"  {label} {100 * value:.2f} %"
        elif name == "images_per_second":
            text += f"  {value:,.0f} images/s"
        else:
            text += f"  {label} {value:.4g}"
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if hasattr(value, "shape"):
        return np.asarray(value).tolist()
    return value


def _scalars(tree: Any, prefix: str = "") -> list[tuple[str, float]]:
    if isinstance(tree, Mapping):
        return [s for k, v in tree.items() for s in _scalars(v, f"{prefix}/{k}" if prefix else k)]
    if isinstance(tree, list):
        return [s for i, v in enumerate(tree) for s in _scalars(v, f"{prefix}/{i}")]
    return [(prefix, float(tree))]


def _event_writer(directory: Path, start_step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "log.tensorboard=True needs tensorboardX: pip install 'resjax[tensorboard]', or leave it off"
        ) from error
    # Events of an earlier start after this step are hidden: they are written again.
    return SummaryWriter(str(directory), purge_step=start_step + 1 if start_step else 0)
