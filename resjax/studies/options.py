"""Options of users, defined once: each dataclass field is a flag, a part of the cache key of results, and a
part of the command that the report prints."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

from resjax.config import steps_of


def option(default: int, help: str, *, least: int = 1) -> Any:
    """A field of an options class: its default, what it means, and the smallest value allowed."""
    return dataclasses.field(default=default, metadata={"help": help, "least": least})


def duration(default: str, help: str) -> Any:
    """A field for a number of training steps or epochs, '50 steps' or '2 epochs'."""
    return dataclasses.field(default=default, metadata={"help": help, "duration": True})


def switch(help: str) -> Any:
    """A boolean field, off by default."""
    return dataclasses.field(default=False, metadata={"help": help})


class Checked:
    """Base of options classes: numbers below the smallest one allowed are errors, and so are durations that
    are none."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value, least = getattr(self, field.name), field.metadata.get("least", 0)
            if "duration" in field.metadata:
                steps_of(value, 1, field.name)
            elif value < least:
                raise ValueError(f"{field.name}={value}; allowed: {least} or more")

    def arguments(self) -> list[str]:
        """The command-line arguments of all options that differ from their defaults, as for a shell."""
        found = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value != field.default:
                given = shlex.quote(str(value))  # a duration has a blank
                found.append(f"--{field.name}" if value is True else f"--{field.name}={given}")
        return found


@dataclasses.dataclass(frozen=True)
class Options(Checked):
    """Options of all studies: ``python -m resjax.analyze --NAME=VALUE``."""

    max_examples: int = option(
        10_000,
        "maximum number of evaluation examples, spread evenly over the set",
    )
    batch_size: int = option(
        128,
        "examples at a time in inference; only re-estimated BatchNorm statistics depend on it",
    )
    gradient_batches: int = option(8, "training batches on which gradients are measured")
    draws: int = option(30, "random subsets, orders or committees of each size", least=2)
    path_draws: int = option(100, "random paths of each length", least=2)
    delete_up_to: int = option(
        0,
        "random deletions of every number of units from 1 to this one (20 in Veit et al. 2016); 0 for 1, 2, "
        "3, 5, 7, 10, … all",
        least=0,
    )
    reference: int = option(
        2048, "maximum number of training images on which BatchNorm's statistics are re-estimated"
    )
    plain_reference: bool = switch("do not crop and flip those images as in training")
    cut_maps: int = option(8, "rank of the maps that the study 'cut' fits; 0 for no maps", least=0)
    cut_training: str = duration(
        "50 steps",
        "how long the study 'cut' trains networks on, such as '2 epochs'; '0 steps' for none",
    )
    cut_seeds: int = option(1, "how often each of them is trained on, with another order of batches")
    cut_scratch: bool = switch(
        "the study 'cut' also trains networks of these depths from scratch, for as many steps as the intact "
        "one and those of training on: long"
    )
    seed: int = option(0, "seed of all random draws of a study", least=0)

    def at_most(self, name: str, most: int) -> int:
        """An option's value, or ``most`` where a study uses no more: larger values change no result."""
        return int(min(getattr(self, name), most))

    def value(self, entry: str) -> Any:
        """What an entry of ``Recorded.read`` stands for: 'NAME', or 'NAME, at most MOST'.

        Raises:
          AttributeError, ValueError: no such option, or no number.
        """
        name, limited, most = entry.partition(_AT_MOST)
        return self.at_most(name, int(most)) if limited else getattr(self, name)


_AT_MOST = ", at most "


class Recorded(Options):
    """Options that remember what was read of them, in ``read``: a result depends on nothing else. An entry is
    the name of an option, or of what ``at_most`` returned; ``value`` understands both."""

    read: set[str]

    def __init__(self, options: Options) -> None:
        super().__init__(**dataclasses.asdict(options))
        object.__setattr__(self, "read", set())

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__(self, "__dict__")
        if name in Options.__dataclass_fields__ and "read" in own:
            own["read"].add(name)
        return object.__getattribute__(self, name)

    def at_most(self, name: str, most: int) -> int:
        self.read.add(f"{name}{_AT_MOST}{most}")
        return int(min(vars(self)[name], most))


@dataclasses.dataclass(frozen=True)
class ClaimOptions(Checked):
    """Options of all claims: ``python -m resjax.claims --NAME=VALUE``."""

    smoke: bool = switch("smaller and faster, to check that it runs")
    seed: int = option(0, "seed of all random draws of a claim", least=0)
