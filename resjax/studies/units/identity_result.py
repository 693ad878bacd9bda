"""The result of ``identity``."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Self

import numpy as np

from resjax.studies.result import Result
from resjax.studies.units import over_images

MEASURES = ("ratio", "cosine", "novelty", "estimation")
GIVEN = ("nothing", "place", "place and stage")


@dataclasses.dataclass(frozen=True)
class Identity(Result):
    """Four measures of each unit, NaN where there is none, and their rank correlation with the damage.

    Intervals are 95 % intervals over images, but those of correlations over units. In files of earlier
    versions they are NaN where they were not measured.
    """

    unit: tuple[str, ...]  # names of all units in order
    stage: Annotated[np.ndarray, "unit"]  # int
    residual: Annotated[np.ndarray, "unit"]  # bool, whether the unit has a shortcut when intact
    ratio: Annotated[np.ndarray, "unit"]  # mean over examples, as the next two
    cosine: Annotated[np.ndarray, "unit"]
    novelty: Annotated[np.ndarray, "unit"]
    estimation_mean: Annotated[np.ndarray, "unit"]  # mean of a_i − a_last over all entries
    estimation_std: Annotated[np.ndarray, "unit"]
    scale: Annotated[np.ndarray, "unit"]  # root mean square of a_last
    measure: tuple[str, ...]  # the names in MEASURES
    num_examples: int
    interval: Annotated[np.ndarray, "measure", "unit", "end"]
    bias_interval: Annotated[np.ndarray, "unit", "end"]  # of ``bias``, as the next three of their names
    below_interval: Annotated[np.ndarray, "end"]
    lead_interval: Annotated[np.ndarray, "stage", "end"]
    remaining_interval: Annotated[np.ndarray, "stage", "end"]
    # With lesions; without, these are None. ρ and its interval are NaN for too few units.
    damage: Annotated[np.ndarray | None, "unit"] = None  # KL(p_intact ‖ p_without), nats
    given: tuple[str, ...] = GIVEN[:1]  # what is held fixed, of GIVEN
    correlation: Annotated[np.ndarray | None, "given", "measure"] = None  # Spearman's ρ with the damage
    low: Annotated[np.ndarray | None, "given", "measure"] = None  # ends of its 95 % interval
    high: Annotated[np.ndarray | None, "given", "measure"] = None

    @property
    def estimation(self) -> np.ndarray:
        """[unit], the deviation of a_i from a_last in units of a_last."""
        return self.estimation_std / self.scale

    @property
    def bias(self) -> np.ndarray:
        """[unit], the mean of a_i − a_last ÷ its deviation; NaN for a stage's last unit."""
        return over_images.over(self.estimation_mean, self.measured("estimation_std"))

    @property
    def below(self) -> float:
        """The share of units whose mean cosine is negative."""
        return float(over_images.below(self.cosine))

    @property
    def lead(self) -> np.ndarray:
        """[stage], the ratio of the first unit ÷ the largest of the others."""
        return over_images.lead(self.stage, self.ratio)

    @property
    def remaining(self) -> np.ndarray:
        """[stage], what is left of the first distance from a_last, on average over the units between."""
        return over_images.remaining(self.stage, self.estimation_std)

    def measured(self, name: str) -> np.ndarray:
        """One of the measures, NaN where it is 0 by definition: the estimation of a stage's last unit."""
        values = getattr(self, name)
        is_last = np.append(np.diff(self.stage) != 0, True)
        return np.where(is_last, np.nan, values) if name.startswith("estimation") else values

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """As ``Result.from_json``. Files of earlier versions hold the standard error of the mean cosine."""
        data = dict(data)
        if "cosine_error" in data:
            units, stages = len(data["unit"]), len(set(data["stage"]))
            interval = np.full((len(MEASURES), units, 2), np.nan)
            cosine, error = (np.array(data[k], float) for k in ("cosine", "cosine_error"))
            interval[1] = np.stack([cosine - 1.96 * error, cosine + 1.96 * error], -1)
            del data["cosine_error"]
            data |= {"interval": interval, "bias_interval": np.full((units, 2), np.nan)}
            data |= {"below_interval": np.full(2, np.nan)}
            data |= {f"{k}_interval": np.full((stages, 2), np.nan) for k in ("lead", "remaining")}
            if data["correlation"] is not None:
                data |= {k: [data[k]] for k in ("correlation", "low", "high")}
        return super().from_json(data)
