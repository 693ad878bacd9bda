"""Progress of long work on the terminal, which a signal stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from resjax.studies.batches import Progress
from resjax.workdir.stopping import NOTHING, phase, stoppable

Task = Callable[[str], AbstractContextManager[Progress]]


@contextmanager
def progress(console: Console, kept: str = NOTHING) -> Iterator[Task]:
    """A context that gives a function: for the name of a task, a context that gives its ``Progress``.

    Args:
      console: where names and bars are shown.
      kept: what a stop during a task says of the work before it.

    Raises:
      Stopped: a signal to stop came, at the latest where a task reports progress.
    """
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with stoppable() as stop, bar:

        @contextmanager
        def task(name: str) -> Iterator[Progress]:
            console.print(name, markup=False)
            row = bar.add_task("", total=None)

            def tell(done: int, of: int) -> None:
                bar.update(row, completed=done, total=of)
                stop.check()

            try:
                with phase(f"{name!r} was computed", kept):
                    yield tell
            finally:
                bar.remove_task(row)

        yield task
