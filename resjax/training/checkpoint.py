"""Checkpoints with orbax: one folder per step, complete or absent; the newest are kept.

A checkpoint is written to a temporary folder and renamed when it is complete, so a run that is killed during
a save loses only that save.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from resjax.training.step import TrainState


class Checkpoints:
    """The checkpoints of one run; use it as a context manager, or call ``close``.

    Args:
      workdir: folder of the run.
      keep: number of newest checkpoints to keep; None for all.
      tidy: remove incomplete saves. Only the process that trains here may do so: otherwise, another process
        may still be writing an incomplete save.
    """

    def __init__(self, workdir: str | Path, keep: int | None = None, tidy: bool = False) -> None:
        self.directory = Path(workdir).resolve() / "checkpoints"
        policies = ocp.training.preservation_policies
        self._orbax = ocp.training.Checkpointer(
            self.directory,
            preservation_policy=policies.PreserveAll() if keep is None else policies.LatestN(keep),
            cleanup_tmp_directories=tidy,
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints, oldest first."""
        return sorted(c.step for c in self._orbax.checkpoints)

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return max(self.steps, default=None)

    def save(self, state: TrainState) -> None:
        """Saves ``state`` and waits until the save is complete. Does nothing if its step has a checkpoint."""
        step = int(state.step)
        if step not in self.steps:
            self._orbax.save(step, state, force=True)

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """The checkpoint of ``step``, or the newest, with the shapes and devices of ``like``: a state, or an
        abstract state (``Devices.abstract``).

        Raises:
          FileNotFoundError: there is no checkpoint, or none of that step.
        """
        steps = self.steps
        if not steps or (step is not None and step not in steps):
            wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
            raise FileNotFoundError(
                f"{self.directory} does not hold {wanted}; it holds "
                f"{', '.join(map(str, steps)) if steps else 'none'}"
            )
        return self._orbax.load(steps[-1] if step is None else step, jax.tree.map(_abstract, like))

    def close(self) -> None:
        self._orbax.close()


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
