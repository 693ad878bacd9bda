"""Checkpoints with orbax: one folder per step, complete or absent; the newest are kept.

A checkpoint is written to a temporary folder, with the checksums of its files (``resjax.training.manifest``),
and renamed when it is complete and on the disk. So a run that is killed during a save, or by a loss of power,
loses only that save, and a file that has changed since is never loaded. Checkpoints of earlier versions have
no checksums and load without.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax
from orbax.checkpoint import v1 as ocp

from resjax.data.files import NotRegular
from resjax.training import manifest
from resjax.training.devices import any_process
from resjax.training.step import TrainState
from resjax.workdir.atomic import flush, flush_all
from resjax.workdir.failures import naming

# What orbax raises where files are missing or damaged, or belong to another network.
_UNREADABLE = (ValueError, KeyError, TypeError, FileNotFoundError)
# Folders of unfinished saves and deletions: ours, and those of orbax.
_UNFINISHED = re.compile(r"\d+\.(incomplete|orbax-checkpoint-tmp)(\..*)?")
# orbax keeps this, so that a checkpoint whose checksums are lost is not taken for one of an earlier version.
_MARK = {"checksums": manifest.FILE}


class Damaged(ValueError):
    """Files of a checkpoint have changed or are missing."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
      workdir: folder of the run.
      keep: number of newest checkpoints to keep; None for all.
      tidy: remove incomplete saves. Only the process that trains here may do so: otherwise, another process
        may still be writing an incomplete save.
    """

    def __init__(self, workdir: str | Path, keep: int | None = None, tidy: bool = False) -> None:
        self.directory = Path(workdir).resolve() / "checkpoints"
        self._keep = keep
        if tidy and jax.process_index() == 0:
            for folder in self._folders():
                if _UNFINISHED.fullmatch(folder.name):
                    with naming(folder):
                        shutil.rmtree(folder)

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints, oldest first."""
        names = [folder.name for folder in self._folders()]
        return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return max(self.steps, default=None)

    def save(self, state: TrainState) -> None:
        """Saves ``state`` and waits until the save is complete. Does nothing if its step has a checkpoint.

        Raises:
          OSError: it can't be saved; what was written of it is removed.
        """
        step = int(state.step)
        if step in self.steps:
            return
        saved = self._unfinished(step)

        def try_folder() -> None:
            self.directory.mkdir(parents=True, exist_ok=True)
            os.rmdir(tempfile.mkdtemp(dir=self.directory, prefix=f"{saved.name}."))

        def finish() -> None:
            manifest.write(saved, step)
            flush_all(saved)
            saved.rename(self._folder(step))
            flush(self.directory)
            self._forget_oldest()

        try:
            # Where orbax can't make its folder, its threads keep the process alive for minutes.
            self._on_first(step, try_folder)
            logging.getLogger("absl").addFilter(_not_of_threads)
            _print_no_closed_loop()
            with naming(self._folder(step)):
                ocp.save(saved, state, overwrite=True, custom_metadata=_MARK)
            self._on_first(step, finish)  # all processes have written their part
        except OSError:
            for seconds in (0, 0.1, 0.4) if jax.process_index() == 0 else ():
                time.sleep(seconds)  # orbax's other threads may still write
                for folder in self.directory.glob(f"{step}.*"):
                    if _UNFINISHED.fullmatch(folder.name):
                        shutil.rmtree(folder, ignore_errors=True)
            raise

    def _on_first(self, step: int, work: Callable[[], None]) -> None:
        """Does ``work`` for the checkpoint of ``step`` in the first process. If it fails, all stop."""
        failure: OSError | None = None
        if jax.process_index() == 0:
            try:
                with naming(self._folder(step)):
                    work()
            except OSError as error:
                failure = error
        if any_process(failure is not None):
            raise failure or OSError(f"the first process could not save {self._folder(step)}")

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """The checkpoint of ``step``, or the newest, with the shapes and devices of ``like``: a state, or an
        abstract state (``Devices.abstract``).

        Raises:
          FileNotFoundError: there is no checkpoint, or none of that step.
          Damaged: its files are not those that were saved.
          ValueError: it is that of another network.
        """
        steps = self.steps
        if not steps or (step is not None and step not in steps):
            wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
            raise FileNotFoundError(
                f"{self.directory} does not hold {wanted}; it holds "
                f"{', '.join(map(str, steps)) if steps else 'none'}"
            )
        step = steps[-1] if step is None else step
        checked, folder = self._check(step), self._folder(step)
        try:
            state = ocp.load(folder, jax.tree.map(_abstract, like))
        except _UNREADABLE as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            if checked:
                raise ValueError(f"{folder} is intact, but that of another network: {why}") from error
            raise Damaged(
                f"the checkpoint of step {step} is damaged or that of another network: {folder}: {why}"
            ) from error
        if (own := int(state.step)) != step:
            raise Damaged(f"the checkpoint of step {step} is another one: {folder} holds step {own}")
        return cast(TrainState, state)

    def intact(self, like: TrainState, last: int) -> tuple[int | None, dict[int, str]]:
        """The newest step with an intact checkpoint, None if there is no checkpoint, and what is wrong with
        each newer one.

        Args:
          like: as in ``restore``.
          last: the last step of the run.

        Raises:
          Damaged: there are checkpoints, and none is intact.
          ValueError: the newest intact one is of a step after ``last``.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps):
            try:
                if not self._check(step):
                    self.restore(like, step)  # without checksums, this shows whether the files are whole
            except Damaged as error:
                if not self._folder(step).is_dir():  # the run that trains here has just removed it
                    return self.intact(like, last)
                damaged[step] = str(error)
                continue
            if step > last:
                raise ValueError(self._after_the_end(step, last))
            return step, damaged
        if damaged:
            said = "; ".join(list(damaged.values())[:3]) + (" …" if len(damaged) > 3 else "")
            raise Damaged(
                f"{self.directory} holds no intact checkpoint: {said}. Copy an intact one there from "
                "elsewhere, or repeat the first command of the run with another --workdir"
            )
        return None, {}

    def set_aside(self, step: int) -> Path:
        """Gives the checkpoint of ``step`` a name that is none of a checkpoint; returns its new path."""
        names = [f"{step}.damaged", *(f"{step}.damaged-{number}" for number in range(2, 1000))]
        free = next(name for name in names if not (self.directory / name).exists())
        return self._folder(step).rename(self.directory / free)

    def _check(self, step: int) -> bool:
        """Whether the checkpoint has checksums.

        Raises:
          Damaged: a file differs from its checksum or is missing.
        """
        folder = self._folder(step)
        try:
            manifest.check_regular(folder)
            damage = manifest.damage(folder)
        except NotRegular as error:
            raise Damaged(f"the checkpoint of step {step} is damaged: {error}") from error
        except FileNotFoundError:
            if not _has_mark(folder):
                return False
            damage = f"{manifest.FILE} is missing"
        if damage:
            raise Damaged(f"the checkpoint of step {step} is damaged: {folder}/{damage}")
        return True

    def _after_the_end(self, step: int, last: int) -> str:
        folder, earlier = self._folder(step), [s for s in self.steps if s <= last]
        newest = f"the checkpoint of step {earlier[-1]} is the newest" if earlier else "there is none left"
        return (
            f"{folder} is after the last step of this run, {last}: it belongs to another run, or the "
            "training set was larger. Rename it: "
            f"{shlex.join(['mv', str(folder), f'{folder}.other'])}; then {newest}"
        )

    def _forget_oldest(self) -> None:
        """Removes all checkpoints but the newest ``keep``. Each is renamed first, so none is ever in part."""
        for step in self.steps[: -self._keep] if self._keep else ():
            shutil.rmtree(self._folder(step).rename(self._unfinished(step)))

    def _folders(self) -> list[Path]:
        """All folders beside each other; a folder that can't be read is an error, not an empty one."""
        try:
            return [path for path in self.directory.iterdir() if path.is_dir()]
        except FileNotFoundError:
            return []

    def _folder(self, step: int) -> Path:
        return self.directory / str(step)

    def _unfinished(self, step: int) -> Path:
        return self.directory / f"{step}.incomplete"


def _not_of_threads(record: logging.LogRecord) -> bool:
    """A filter of absl's log: without the tracebacks of orbax's threads. A save raises what the first of them
    met, and the others may log theirs later."""
    return not (record.exc_info and Path(record.pathname).name == "future.py")


def _print_no_closed_loop() -> None:
    """Makes Python print no traceback where a thread of TensorStore finds the event loop of a save closed.

    The save has then raised the error that another thread met, and the remaining threads still report theirs.
    """
    global _hook
    if sys.unraisablehook is _hook:
        return
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            before(unraisable)

    sys.unraisablehook = _hook = hook


_hook: Callable[[Any], None] | None = None


def _has_mark(folder: Path) -> bool:
    # orbax.metadata would open every array, and log a warning for each damaged one.
    try:
        return manifest.FILE in (folder / "_CHECKPOINT_METADATA").read_text("utf-8", "replace")
    except FileNotFoundError:
        return False


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
