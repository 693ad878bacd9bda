"""Progress of long work, which a signal stops: a bar on a terminal, elsewhere a line a minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from resjax.studies.batches import Progress
from resjax.studies.words import duration
from resjax.workdir.stopping import NOTHING, phase, stoppable

EVERY = 60.0  # seconds between two lines where there is no terminal
# The estimate counts as this share of the total already done as estimated: the first seconds say little.
_TRUST = 0.1


class Task(Protocol):
    """For the name of a task and its estimated seconds, a context that gives its ``Progress``."""

    def __call__(self, name: str, seconds: float = 0.0) -> AbstractContextManager[Progress]: ...


def seconds_left(total: float, done: float, elapsed: float) -> float:
    """What is left of ``total`` estimated seconds, of which ``done`` took ``elapsed``.

    The rest is scaled by how much longer than estimated the finished part took; the estimate has the weight
    of a tenth of the total.
    """
    trust = _TRUST * total
    return max(total - done, 0.0) * (elapsed + trust) / (done + trust)


@contextmanager
def progress(
    console: Console,
    kept: str = NOTHING,
    total: float = 0.0,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Task]:
    """A context that gives a ``Task``.

    Args:
      console: where names, bars and lines are shown.
      kept: what a stop during a task says of the work before it.
      total: estimated seconds of all tasks, over which the progress is then shown; 0 where there is no
        estimate, and each task has a progress of its own.
      clock: returns seconds.

    Raises:
      Stopped: a signal to stop came, at the latest where a task reports progress.
    """
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %{task.fields[left]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    begun = told = clock()
    before = 0.0  # estimated seconds of the finished tasks
    with stoppable() as stop, bar:

        @contextmanager
        def task(name: str, seconds: float = 0.0) -> Iterator[Progress]:
            nonlocal before
            console.print(name, markup=False)
            row, start = bar.add_task("", total=None, left=""), clock()

            def tell(done: int, of: int) -> None:
                nonlocal told
                now, part = clock(), done / of if of else 0.0
                if total:
                    ready, whole, elapsed = before + part * seconds, total, now - begun
                else:
                    ready, whole, elapsed = part, 1.0, now - start
                left = ""
                if ready < whole and (total or ready):
                    rest = seconds_left(whole, ready, elapsed) if total else elapsed * (1 - part) / part
                    left = f", about {duration(rest)} left"
                bar.update(row, completed=ready, total=whole, left=left)
                if not console.is_terminal and now - told >= EVERY:
                    told = now
                    console.print(f"{name}: {100 * ready / whole:.0f} %{left}", markup=False)
                stop.check()

            try:
                with phase(f"{name!r} was computed", kept):
                    yield tell
            finally:
                bar.remove_task(row)
                before += seconds

        yield task
