"""The result of ``paths``: exact and sampled path gradients, for each mode of BatchNorm."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from resjax.studies.intervals import of_positive_mean
from resjax.studies.paths.path_exact import PathSpectrum
from resjax.studies.paths.path_lengths import log_path_counts
from resjax.studies.paths.path_sampled import PathSample
from resjax.studies.result import Result


@dataclasses.dataclass(frozen=True)
class Paths(Result):
    """Exact and sampled path gradients of one network, for each mode of BatchNorm.

    ``choices`` combines those of all parts; where modes differ, each value is followed by its mode.
    """

    exact: dict[str, PathSpectrum]  # mode → the sums over all paths of each length
    sample: dict[str, PathSample]  # the same modes → single paths; figures show the first mode

    @property
    def modes(self) -> tuple[str, ...]:
        """The statistics that BatchNorm used, as ``Probe.statistics`` names them."""
        return tuple(self.exact)

    @property
    def first(self) -> tuple[PathSpectrum, PathSample]:
        """The parts of the first mode."""
        return self.exact[self.modes[0]], self.sample[self.modes[0]]

    def __post_init__(self) -> None:
        found: dict[str, dict[str, str]] = {}
        for mode, result in (*self.exact.items(), *self.sample.items()):
            for name, value in result.choices.items():
                found.setdefault(name, {})[mode] = str(value)
        for name, values in found.items():
            each = [v if v == mode else f"{v} ({mode})" for mode, v in values.items()]
            alike = len(set(values.values())) == 1
            self.choices.setdefault(name, next(iter(values.values())) if alike else "; ".join(each))

    def alignment(self, mode: str) -> np.ndarray:
        """[length]: norm of the sum over all paths ÷ (number of paths × mean norm of one), where both norms
        are means over batches, relative to the whole gradient of the batch."""
        return self._aligned(mode, self._relative(mode).mean(0), self.sample[mode].mean)

    def alignment_interval(self, mode: str) -> np.ndarray:
        """[end, length]: interval of ``alignment``, from the far ends of the 95 % intervals of both norms, so
        its coverage is higher; NaN with one batch."""
        exact, single = of_positive_mean(self._relative(mode), 0), self.sample[mode].mean_interval
        return np.stack([self._aligned(mode, exact[i], single[1 - i]) for i in (0, 1)])

    def _relative(self, mode: str) -> np.ndarray:
        """[batch, length]: exact norms ÷ that of the whole gradient."""
        exact = self.exact[mode]
        with np.errstate(divide="ignore", invalid="ignore"):
            return exact.norm[0] / exact.total[0][:, None]

    def _aligned(self, mode: str, together: np.ndarray, single: np.ndarray) -> np.ndarray:
        sample = self.sample[mode]
        logs = log_path_counts(sample.num_residual, sample.num_plain)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.exp(np.log(together) - np.log(single) - logs)

    @classmethod
    def join(cls, modes: Sequence[Paths]) -> Paths:
        """The same network in several modes as one result."""
        exact = {mode: one.exact[mode] for one in modes for mode in one.modes}
        return cls(exact, {mode: one.sample[mode] for one in modes for mode in one.modes})

    def to_json(self) -> dict[str, Any]:
        """``Result.to_json`` of each part and mode, of the network at initialization, and the choices."""
        return {
            "exact": {mode: result.to_json() for mode, result in self.exact.items()},
            "sample": {mode: result.to_json() for mode, result in self.sample.items()},
            "initial": self.initial and self.initial.to_json(),
            "choices": self.choices,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of ``to_json``; raises a ``ValueError`` where a part is missing or unknown."""
        if not {"exact", "sample"} <= set(data) <= {"exact", "sample", "initial", "choices"}:
            raise ValueError(f"not a {cls.__name__}: it has {sorted(data)}")
        initial = data.get("initial")
        return cls(
            {mode: PathSpectrum.from_json(one) for mode, one in data["exact"].items()},
            {mode: PathSample.from_json(one) for mode, one in data["sample"].items()},
            initial=None if initial is None else cls.from_json(initial),
            choices=dict(data.get("choices", {})),
        )
