"""What a study measures: a network and its variables, with examples and what is known of its training.

There are two kinds: a run of ``resjax.train`` (``resjax.studies.run.Run``), and a network that somebody else
made and trained (``resjax.studies.given.GivenNetwork``). Studies use what both have. A study that needs more,
such as the log of a training, asks for a ``Run`` and says so in ``Study.unsuited``.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import numpy as np
import optax

from resjax.network import Network, Variables
from resjax.network.losses import Loss, Metric, share_wrong
from resjax.studies.examples import take

T = TypeVar("T")
Examples = tuple[Any, Any]
"""Inputs and labels [N, …]. Those of a run are standardized images float32 [N, H, W, C] and int32 [N]."""


@dataclasses.dataclass(frozen=True, eq=False)
class Subject(abc.ABC):
    """A network to be taken apart.

    Attributes:
      label: its name in figures and tables.
    """

    label: str

    @property
    @abc.abstractmethod
    def network(self) -> Network:
        """The network, without variables."""

    @property
    @abc.abstractmethod
    def variables(self) -> Variables:
        """The newest variables."""

    @property
    @abc.abstractmethod
    def initial_variables(self) -> Variables | None:
        """The variables before training, of a network of the same kind; None where they are not known."""

    @property
    def from_scratch(self) -> bool:
        """Whether training started from ``initial_variables``, where these are known."""
        return True

    @abc.abstractmethod
    def at_start(self, variables: Variables) -> Self:
        """Itself as if ``variables``, those before training, were its newest."""

    @property
    @abc.abstractmethod
    def step(self) -> int:
        """Training steps of the newest variables; ``resjax.studies.moments.AS_GIVEN`` where not known."""

    @property
    def moments(self) -> dict[int, Variables]:
        """{training steps: variables} before training, where these are known, and now."""
        initial = self.initial_variables
        return {**({} if initial is None else {0: initial}), self.step: self.variables}

    @property
    @abc.abstractmethod
    def loss(self) -> Loss:
        """(logits, labels) → float [B]."""

    @property
    def metric(self) -> Metric:
        """(logits, labels) → [B], each 0 … 1, whose mean is called the error."""
        return share_wrong

    @property
    @abc.abstractmethod
    def example(self) -> Any:
        """One input with a batch axis of 1: a pytree of ``jax.ShapeDtypeStruct``."""

    @property
    @abc.abstractmethod
    def split(self) -> str:
        """The name of the evaluation set."""

    @abc.abstractmethod
    def examples(self, split: str, most: int, *, augmented: bool = False) -> Examples:
        """At most ``most`` examples: of ``split``, the first in an order that spreads them evenly over the
        evaluation set (``resjax.studies.examples.evenly_spread``); of 'train', the first training examples.

        Raises:
          ValueError: an unknown split, or augmented examples of the evaluation set.
          Refusal: 'train', and there are no training examples.
        """

    def evaluation(self, most: int) -> tuple[Network, Variables, Any, Any]:
        """Network, newest variables, and inputs and labels of at most ``most`` examples of the evaluation
        set: the first arguments of most analyses."""
        return self.network, self.variables, *self.examples(self.split, most)

    @abc.abstractmethod
    def count(self, split: str) -> int:
        """How many examples a split has: ``split``, or 'train'; 0 where there are none."""

    @property
    def has_training_examples(self) -> bool:
        """Whether ``examples`` has the split 'train'."""
        return True

    @property
    @abc.abstractmethod
    def train_batch_size(self) -> int:
        """Examples in one batch of its training."""

    @property
    def optimizer(self) -> optax.GradientTransformation | None:
        """That of its training, or None."""
        return None

    @property
    def seed(self) -> int:
        """That of its training."""
        return 0

    @property
    def augmentation(self) -> str:
        """How training examples are changed at random, in words; '' if they are not."""
        return ""

    # --- texts, for the choices that results record ---

    @property
    @abc.abstractmethod
    def told(self) -> str:
        """Which variables are the newest, in words."""

    @property
    @abc.abstractmethod
    def told_initial(self) -> str:
        """Which variables are those before training, in words."""

    @property
    def as_they_are(self) -> str:
        """How examples are called that were not changed."""
        return "not augmented"

    # --- for the report ---

    @property
    @abc.abstractmethod
    def kept(self) -> Path:
        """The folder of its finished results."""

    @property
    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """Changes with whatever could change a result, apart from the code of this package; JSON-ready."""

    @property
    def num_parameters(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))

    @functools.cached_property
    def initially(self) -> Self | None:
        """Itself with the variables before training as its newest; None where they are not known."""
        variables = self.initial_variables
        return None if variables is None else self.at_start(variables)

    @functools.cached_property
    def deletable(self) -> np.ndarray:
        """bool [units], which units can be deleted."""
        return self.network.deletable(self.variables, self.example)

    @property
    def residual(self) -> bool:
        """Whether some unit has a shortcut."""
        return any(stack.unit.residual for stack in self.network.stacks)

    # --- what studies share ---

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """``make()`` of the first call with this key; later calls return the same.

        For values that several studies of this network need, such as its scores without a unit. They live as
        long as the subject, which stands for one network on one set of data, so the key names only what else
        they depend on. Keep scores, not states.
        """
        if key not in self._shared:
            self._shared[key] = make()
        value: T = self._shared[key]
        return value

    def _read_once(self, split: str, most: int, augmented: bool, read: Callable[[], Examples]) -> Examples:
        """``read()`` of the first call with these arguments. Fewer examples of the evaluation set are the
        first of more, so only the most that were read are in memory."""
        of_evaluation = {key: own for key, own in self._examples.items() if key[0] == split == self.split}
        for (_, count, _), (inputs, labels) in of_evaluation.items():
            if count >= most:
                return take(inputs, slice(most)), labels[:most]
        key = split, most, augmented
        if key not in self._examples:
            self._examples[key] = read()
            for fewer in of_evaluation:
                del self._examples[fewer]
        return self._examples[key]

    def reading_as(self, other: Subject) -> Self:
        """Itself, with the arrays of examples that ``other``, of the same data, has read."""
        vars(self)["_examples"] = other._examples
        return self

    @functools.cached_property
    def _shared(self) -> dict[Hashable, Any]:
        return {}

    @functools.cached_property
    def _examples(self) -> dict[tuple[str, int, bool], Examples]:
        return {}
