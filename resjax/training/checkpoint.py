"""Checkpoints through orbax: one folder a step, complete or absent, the newest kept.

A checkpoint is written to a temporary folder and renamed when it is whole, so a run that is killed in a
save loses that save and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from resjax.training.step import TrainState


class Checkpoints:
    """The checkpoints of one run; use it as a context, or ``close`` it.

    Args:
      workdir: of the run.
      keep: how many of the newest stay on disk after a save; None for all.
      tidy: remove what killed saves have left. For the run that trains here, and no other: a save that is
        still being written by somebody else looks like one that was killed.
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
        """Steps that there are checkpoints of, oldest first."""
        return sorted(c.step for c in self._orbax.checkpoints)

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint, None for no checkpoint."""
        return max(self.steps, default=None)

    def save(self, state: TrainState) -> None:
        """Writes ``state`` and waits until it is whole; a step that is there already is left alone."""
        step = int(state.step)
        if step not in self.steps:
            self._orbax.save(step, state, force=True)

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """The checkpoint of ``step``, or the newest, with the shapes and devices of ``like``, a state or an
        abstract one (``Devices.abstract``).

        Raises:
          FileNotFoundError: there is none, or not of that step.
        """
        there = self.steps
        if not there or (step is not None and step not in there):
            wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
            raise FileNotFoundError(
                f"{self.directory} does not hold {wanted}; it holds "
                f"{', '.join(map(str, there)) if there else 'none'}"
            )
        abstract = jax.tree.map(_abstract, like)
        return self._orbax.load(there[-1] if step is None else step, abstract)

    def close(self) -> None:
        self._orbax.close()


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
