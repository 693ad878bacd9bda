"""Progress of long work on the terminal; work that shows it can be stopped by a signal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from resjax.studies.batches import Progress
from resjax.workdir.stopping import Stopped, StopRequest

Task = Callable[[str], AbstractContextManager[Progress]]


@contextmanager
def progress(console: Console, when_stopped: str) -> Iterator[Task]:
    """A context that gives a function: for the name of a task, a context that gives its ``Progress``.

    Raises:
      Stopped: a signal to stop came; raised where a task reports progress, or at the end of the context.
        The message ends in ``when_stopped``.
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
    with StopRequest() as stop, bar:

        @contextmanager
        def task(name: str) -> Iterator[Progress]:
            console.print(name, markup=False)
            row = bar.add_task("", total=None)

            def tell(done: int, of: int) -> None:
                bar.update(row, completed=done, total=of)
                if stop.name:
                    raise Stopped(f"{stop.name}: stopped in {name!r}; {when_stopped}")

            try:
                yield tell
            finally:
                bar.remove_task(row)

        yield task
        if stop.name:  # it came after the last report
            raise Stopped(f"{stop.name}: stopped; {when_stopped}")
