"""A network that somebody else made and trained, as a subject of studies.

A ``Given`` holds what a person has: a function, its variables, and evaluation examples. More is optional, and
each study that needs it says so where it is absent. ``load_network`` finds the units of the function
(``resjax.discover``). The result has what a study needs of a run: ``network``, ``variables``, ``evaluation``,
``examples``, ``loss``::

    run = load_network("package.module:make")
    result = lesion(*run.evaluation(1_000), loss=run.loss)
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from resjax.discovery import Found, discover
from resjax.network import Network, Variables
from resjax.network.example import alike, described, one_example
from resjax.network.losses import Loss, Metric, cross_entropy, share_wrong
from resjax.network.refusal import Refusal
from resjax.studies.checksum import of_arrays, of_function
from resjax.studies.examples import check_labels, evenly_spread, logits_shape
from resjax.studies.moments import AS_GIVEN
from resjax.studies.subject import Examples, Subject


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """A network as it is, with examples.

    A pytree of inputs is a single array, or several, such as {"tokens": …, "mask": …}, with an equal leading
    axis.

    Attributes:
      fn: ``(variables, x) -> logits`` in inference: running statistics, no dropout. Logits are [B, classes],
        or [B, T, classes].
      variables: any pytree, a module of NNX or Equinox included.
      inputs: evaluation inputs, a pytree of arrays [N, …].
      labels: their labels, int [N] or [N, T].
      initial_variables: the variables before training, in the same form.
      train_inputs, train_labels: training examples, as ``inputs`` and ``labels``.
      train_fn: ``(variables, x, key) -> (logits, new statistics)`` in training, with statistics of the batch
        and dropout.
      batch_size: training examples in a batch, for gradients.
      loss: ``(logits, labels) -> float [B]``; None for cross-entropy.
      metric: ``(logits, labels) -> [B]``, each 0 … 1, whose mean is called the error; None for the share of
        wrong predictions.
      name: of the network in figures and tables.
      grain, boundaries: arguments of ``resjax.discover``.

    Raises:
      ValueError: a field that does not fit the others.
    """

    fn: Callable[[Any, Any], Any]
    variables: Any
    inputs: Any
    labels: Any
    initial_variables: Any = None
    train_inputs: Any = None
    train_labels: Any = None
    train_fn: Callable[[Any, Any, Any], Any] | None = None
    batch_size: int = 128
    loss: Loss | None = None
    metric: Metric | None = None
    name: str = ""
    grain: str = "sum"
    boundaries: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("fn", "train_fn", "loss", "metric"):
            value = getattr(self, name)
            if not callable(value) and (value is not None or name == "fn"):
                raise ValueError(f"{name}={value!r}; it must be a function{_SIGNATURES[name]}")
        _check_examples("", self.inputs, self.labels)
        if (self.train_inputs is None) != (self.train_labels is None):
            raise ValueError("train_inputs and train_labels go together: give both or neither")
        if self.train_inputs is not None:
            _check_examples("train_", self.train_inputs, self.train_labels)
            if not alike(self.train_inputs, self.inputs):
                raise ValueError(
                    f"train_inputs are {described(self.train_inputs)}, but inputs are "
                    f"{described(self.inputs)}; allowed: another number of examples only"
                )
        if self.initial_variables is not None:
            initial, newest = _leaves(self.initial_variables), _leaves(self.variables)
            if unlike := sorted(set(initial.items()) ^ set(newest.items())):
                path = unlike[0][0]
                raise ValueError(
                    f"initial_variables must have the names and shapes of variables; at {path} they have "
                    f"{initial.get(path, 'nothing')}, and variables have {newest.get(path, 'nothing')}"
                )
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}; allowed: 1 or more")

    @classmethod
    def of(cls, given: Any) -> Given:
        """``given`` itself, or a ``Given`` of a mapping with its fields.

        Raises:
          ValueError: neither, a missing or unknown field, or fields that do not fit each other.
        """
        if isinstance(given, cls):
            return given
        fields = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(cls)}
        needed = [name for name, must in fields.items() if must]
        allowed = (
            f"needed: {', '.join(needed)}; allowed, too: {', '.join(n for n in fields if n not in needed)}"
        )
        if not isinstance(given, Mapping):
            raise ValueError(
                f"a network is given as a dictionary or a resjax.analysis.Given, got {type(given).__name__}; "
                f"{allowed}"
            )
        missing = [name for name in needed if name not in given]
        unknown = [repr(name) for name in given if name not in fields]
        if missing or unknown:
            wrong = [f"missing: {', '.join(missing)}"] * bool(missing)
            wrong += [f"unknown: {', '.join(unknown)}"] * bool(unknown)
            raise ValueError(f"{'; '.join(wrong)}; {allowed}")
        return cls(**given)


_SIGNATURES = {
    "fn": " (variables, x) -> logits",
    "train_fn": " (variables, x, key) -> (logits, new statistics), or None",
    "loss": " (logits, labels) -> [B], or None",
    "metric": " (logits, labels) -> [B], or None",
}


def _leaves(variables: Any) -> dict[str, str]:
    """{path: shape} of the leaves of a pytree; of what is no array, its type."""

    def form(leaf: Any) -> str:
        return str(list(leaf.shape)) if hasattr(leaf, "shape") else type(leaf).__name__

    paths, _ = jax.tree_util.tree_flatten_with_path(variables)
    return {jax.tree_util.keystr(path): form(leaf) for path, leaf in paths}


def _check_examples(prefix: str, inputs: Any, labels: Any) -> None:
    """Refuses inputs and labels that are no examples, or not of the same number."""
    leaves = jax.tree.leaves(inputs)
    if not leaves or not all(np.ndim(leaf) and hasattr(leaf, "dtype") for leaf in leaves):
        raise ValueError(
            f"{prefix}inputs={inputs!r:.80}; allowed: an array [N, …], or a pytree of arrays, such as "
            "{'tokens': …, 'mask': …}"
        )
    if len({len(leaf) for leaf in leaves}) > 1:
        raise ValueError(f"the arrays of {prefix}inputs differ in N, their length: {described(inputs)}")
    if not len(leaves[0]):
        raise ValueError(f"{prefix}inputs have no example: {described(inputs)}")
    if not hasattr(labels, "dtype") or not np.ndim(labels) or len(labels) != len(leaves[0]):
        what = f"{len(labels)}" if np.ndim(labels) else f"{labels!r:.80}"
        what += "" if hasattr(labels, "dtype") else f", a {type(labels).__name__}"
        raise ValueError(
            f"{prefix}inputs have {len(leaves[0])} examples, {prefix}labels {what}; allowed: an int array "
            "with one entry, or one row of positions, for each example"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class GivenNetwork(Subject):
    """A given network whose units have been found; use ``load_network``.

    Attributes:
      given: what was given.
      found: what ``resjax.discover`` found in it.
      program: a checksum of what ``given.fn`` computes.
      source: 'package.module:function', or '' where it was not given by name.
      folder: where finished results are kept.
      untrained: stacked variables before training, where these take the place of the given ones.
    """

    given: Given
    found: Found
    program: str
    source: str = ""
    folder: Path = Path("analysis")
    untrained: Variables | None = None

    @property
    def network(self) -> Network:
        return self.found.network

    @property
    def variables(self) -> Variables:
        return self.found.variables if self.untrained is None else self.untrained

    @functools.cached_property
    def initial_variables(self) -> Variables | None:
        given = self.given.initial_variables
        return None if given is None else self.found.stack(given)

    def at_start(self, variables: Variables) -> Self:
        return dataclasses.replace(self, untrained=variables).reading_as(self)

    @property
    def step(self) -> int:
        return AS_GIVEN if self.untrained is None else 0

    @property
    def loss(self) -> Loss:
        return self.given.loss or cross_entropy

    @property
    def metric(self) -> Metric:
        return self.given.metric or share_wrong

    @property
    def example(self) -> Any:
        return one_example(self.given.inputs)

    @property
    def split(self) -> str:
        return "evaluation"

    def examples(self, split: str, most: int, *, augmented: bool = False) -> Examples:
        """As given: nothing is standardized, cropped or flipped, with ``augmented`` either."""
        given = self.given
        if split not in ("train", self.split):
            raise ValueError(f"split={split!r}; a given network has: 'train', {self.split!r}")
        if augmented and split != "train":
            raise ValueError(f"split={split!r}, augmented=True; only 'train' is augmented")
        train = split == "train"
        if train and given.train_inputs is None:
            raise Refusal("it needs training examples, and none were given (train_inputs, train_labels)")
        inputs, labels = (given.train_inputs, given.train_labels) if train else (given.inputs, given.labels)
        count = min(most, len(labels))

        def read() -> Examples:
            rows = slice(count) if train else evenly_spread(len(labels))[:count]
            return jax.tree.map(lambda v: np.asarray(v)[rows], inputs), np.asarray(labels)[rows]

        return self._read_once(split, count, False, read)

    def count(self, split: str) -> int:
        labels = self.given.train_labels if split == "train" else self.given.labels
        return 0 if labels is None else len(labels)

    @property
    def has_training_examples(self) -> bool:
        return self.given.train_inputs is not None

    @property
    def train_batch_size(self) -> int:
        return self.given.batch_size

    @property
    def told(self) -> str:
        return "as given" if self.untrained is None else self.told_initial

    @property
    def told_initial(self) -> str:
        return "the initial variables that were given"

    @property
    def as_they_are(self) -> str:
        return "as given"

    @property
    def kept(self) -> Path:
        return self.folder / "kept"

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Checksums of the arrays and of the traced functions that were given."""
        given, x = self.given, one_example(self.given.inputs)
        arrays = ("variables", "inputs", "labels", "initial_variables", "train_inputs", "train_labels")
        sums = {name: of_arrays(getattr(given, name)) for name in arrays}
        sums["fn"] = self.program
        if given.train_fn:
            sums["train_fn"] = of_function(given.train_fn, given.variables, x, jax.random.key(0))
        logits = jax.eval_shape(lambda v, x: self.network.apply(v, x).logits, self.variables, x)
        for name in ("loss", "metric"):
            if function := getattr(given, name):
                sums[name] = of_function(function, logits, one_example(given.labels))
        return {**sums, "batch": given.batch_size, "units": [str(unit) for unit in self.found.units]}


_EXAMPLES = 2  # with which the function is traced; more would not show more


def load_network(network: str | Given | Mapping[str, Any], folder: str | Path = "analysis") -> GivenNetwork:
    """Finds the units of a network, so that studies can be run on it.

    Args:
      network: a ``Given``, a mapping with its fields, or 'package.module:make', the name of a function
        without arguments that returns one of them.
      folder: where a report keeps finished results.

    Raises:
      ValueError: a name that can't be imported, a function that fails, or fields of a wrong form.
      NotFound: a network whose units can't be found; the message says what was found instead.
    """
    source = network if isinstance(network, str) else ""
    given = Given.of(_made(network) if isinstance(network, str) else network)
    example = jax.tree.map(lambda v: v[:_EXAMPLES], given.inputs)
    program = _traced("fn", given.fn, given.variables, example)
    if given.train_fn:
        _traced("train_fn", given.train_fn, given.variables, example, jax.random.key(0))
    found = discover(
        given.fn,
        given.variables,
        example,
        train_fn=given.train_fn,
        grain=given.grain,
        boundaries=given.boundaries,
    )
    logits = logits_shape(found.network, found.variables, given.inputs)
    for labels in (given.labels, given.train_labels):
        if labels is not None:
            check_labels(np.asarray(labels), len(labels), logits)
    module, _, function = source.partition(":")
    called = module.rpartition(".")[2] if function == "make" else function
    label = given.name or called or "network"
    return GivenNetwork(label, given, found, program, source, Path(folder))


def _traced(name: str, function: Callable[..., Any], *arguments: Any) -> str:
    """The checksum of a given function.

    Raises:
      ValueError: what the function raises, in one line.
    """
    try:
        return of_function(function, *arguments)
    except Exception as error:
        where = _where(error)
        raise ValueError(f"{name} raised {type(error).__name__}: {_line(error)} ({where})") from error


def _line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().partition("\n")[0]


def _where(error: Exception) -> str:
    """The innermost file and line of an error, if possible outside of installed packages."""
    frames = traceback.extract_tb(error.__traceback__)
    last = [*frames[-1:], *(frame for frame in frames if "site-packages" not in frame.filename)][-1]
    return f"{Path(last.filename).name}, line {last.lineno}"


def _made(name: str) -> Any:
    """What the function called 'package.module:make' returns."""
    module, colon, function = name.partition(":")
    form = "it must be 'package.module:function', importable from here"
    if not (module and colon and function):
        raise ValueError(f"network={name!r}: {form}")
    try:
        own = importlib.import_module(module)
    except Exception as error:  # of the module itself, or of one that it imports
        raise ValueError(f"network={name!r}: {type(error).__name__}: {_line(error)}; {form}") from error
    make = getattr(own, function, None)
    if not callable(make):
        there = [n for n, v in vars(own).items() if callable(v) and getattr(v, "__module__", "") == module]
        raise ValueError(
            f"network={name!r}: {module} has no function {function!r}; it has: {', '.join(there) or 'none'}"
        )
    try:
        return make()
    except Exception as error:
        raise ValueError(
            f"network={name!r}: {function}() raised {type(error).__name__}: {_line(error)} ({_where(error)})"
        ) from error
