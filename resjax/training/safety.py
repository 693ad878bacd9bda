"""What is safe in a training: whether its checkpoints fit on the disk, and what an error leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax

from resjax.training.checkpoint import Checkpoints
from resjax.training.experiment import Experiment
from resjax.training.step import TrainState
from resjax.workdir.failures import free, is_full, size


def bytes_of(like: TrainState) -> int:
    """The size of a state, or of its shapes; its checkpoint takes about a tenth less, being compressed."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(like))


def need_space(folder: Path, needed: int) -> None:
    """Raises ValueError if a checkpoint of ``needed`` bytes (``bytes_of``) can't fit on the disk of a folder,
    which need not exist."""
    left = free(folder)
    if left < needed / 2:  # files are compressed, but trained numbers hardly
        raise ValueError(
            f"{folder}: a checkpoint takes about {size(needed)}, and {size(left)} are free on this disk; "
            "remove what you do not need there, or name a folder on another disk"
        )


def lack_of_space(checkpoints: Checkpoints, experiment: Experiment, start: int) -> str:
    """A warning if the disk may not suffice for the checkpoints of a training from step ``start``; '' if it
    does.

    Raises:
      ValueError: not even one fits.
    """
    plan = experiment.plan
    if start >= plan.total:
        return ""
    needed = bytes_of(experiment.state_shapes)
    need_space(checkpoints.directory, needed)
    saves = -(-plan.total // plan.save) - start // plan.save
    keep = experiment.config.checkpoint.keep
    # The oldest is removed when the newest is whole.
    together = min(saves, keep + 1 - min(keep, len(checkpoints.steps))) if keep else saves
    left = free(checkpoints.directory)
    if left >= together * needed:
        return ""
    return (
        f"the disk may become full: {size(left)} are free in {checkpoints.directory.parent}, and the "
        f"checkpoints of this run may take {size(together * needed)} more"
    )


@contextlib.contextmanager
def telling_what_is_safe(checkpoints: Checkpoints, experiment: Experiment) -> Iterator[None]:
    """A context of a training, in which errors get a note: the step where the same command continues.

    An error of values (ValueError) before the first save gets none. It may be about the checkpoint itself.
    """
    start = checkpoints.newest
    try:
        yield
    except FloatingPointError:  # its text says what is saved
        raise
    except Exception as error:
        if is_full(error):
            error.add_note(f"A checkpoint takes about {size(bytes_of(experiment.state_shapes))}.")
        with contextlib.suppress(OSError):
            newest = checkpoints.newest
            if isinstance(error, ValueError) and newest == start:
                raise
            safe = "No checkpoint is saved yet; the same command starts anew."
            if newest is not None:
                safe = f"The checkpoint of step {newest} is whole; the same command continues there."
            error.add_note(safe)
        raise
