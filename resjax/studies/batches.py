"""How examples are run: cut into equal batches, with a loss and a metric."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypedDict, TypeVar

import jax
import numpy as np
from numpy.typing import ArrayLike

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network.losses import Loss, Metric
from resjax.studies.examples import checked_examples, num_examples, take

T = TypeVar("T")
BATCH_SIZE = 128
Progress = Callable[[int, int], None]
"""Called as ``progress(parts done, total parts)``, first with 0 parts done."""


class Running(TypedDict, total=False):
    """How examples are run: arguments of every analysis, passed on as ``**how``; see ``Inference``."""

    loss: Loss  # (logits [B, …, classes], labels int32 [B, …]) → float32 [B]; default: cross-entropy
    batch_size: int  # maximum number of examples at a time; affects memory, not results
    progress: Progress | None


class Inference(Running, total=False):
    """How examples are run and judged: arguments of every analysis that measures an error.

    Every analysis takes ``network``, ``variables``, ``images`` and ``labels`` first: any network; its
    variables as ``Network.init`` returns them; float [N, H, W, C], standardized as in training, N ≥ 1, each
    counted once, or any pytree of arrays [N, …] that the network takes, such as tokens int [N, T] and a mask
    bool [N, T]; int [N], or int [N, …] where logits are [N, …, classes], negative at positions that do not
    count. It raises a ``ValueError`` for no example and for images or labels of a wrong form.

    Define ``loss`` and ``metric`` at module level: each new function object is compiled again. A measure of
    another range than 0 … 1, such as a perplexity, is a ``loss``.
    """

    metric: Metric  # how far each example is wrong, 0 … 1; default: the share of its positions that are


def part(progress: Progress | None, i: int, of: int) -> Progress:
    """A progress function for part ``i`` of ``of`` equal parts, which reports the progress of the whole."""

    def tell(done: int, total: int) -> None:
        if progress:
            progress(i * total + done, of * total)

    return tell


def following(progress: Progress | None, before: int, of: int) -> Progress:
    """A progress function for work behind ``before`` finished parts of ``of``, in parts of the same size."""

    def tell(done: int, total: int) -> None:
        del total
        if progress:
            progress(before + done, of)

    return tell


def within(progress: Progress | None, before: int, count: int, of: int) -> Progress:
    """A progress function for work, in parts of any size, that is parts ``before`` to ``before + count`` of
    ``of``."""

    def tell(done: int, total: int) -> None:
        if progress:
            # Work without parts is done when it is reported.
            progress(before + (done * count // total if total else count), of)

    return tell


def counted(progress: Progress | None, of: int) -> Callable[[], None]:
    """A function to call before each of ``of`` parts and once at the end, which reports the progress."""
    numbers, alone = itertools.count(), threading.Lock()

    def tell() -> None:
        if progress:
            with alone:  # several threads may call it
                progress(next(numbers), of)

    return tell


def reported(items: Sequence[T], progress: Progress | None) -> Iterator[T]:
    """The items one by one; ``progress`` is called before each of them and at the end."""
    tell = counted(progress, len(items))
    for item in items:
        tell()
        yield item
    tell()


class PaddedBatch(NamedTuple):
    """``images`` [B, …], an array or a pytree; ``labels`` int32 [B, …]; ``mask`` bool [B], False where an
    example is padding."""

    images: Any
    labels: np.ndarray
    mask: np.ndarray


def total(parts: Iterable[Any]) -> Any:
    """The sum of equal pytrees, on the host and in float64."""
    summed: Any = None
    for part in parts:
        part = jax.tree.map(np.float64, jax.device_get(part))
        summed = part if summed is None else jax.tree.map(np.add, summed, part)
    return summed


def padded_batches(
    images: Any,
    labels: np.ndarray,
    batch_size: int,
    progress: Progress | None = None,
    multiple: int = 1,
) -> Iterator[PaddedBatch]:
    """Batches of one size, at most ``batch_size`` (``even_size``); the last is padded.

    The size is a multiple of ``multiple``, and equal to it if ``batch_size`` is smaller.

    Raises:
      ValueError: a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; allowed: 1 or more")
    most = max(batch_size // multiple, 1) * multiple
    examples = num_examples(images)
    count = -(-examples // most)
    size = on_cores.even_size(examples, count * multiple, most // multiple) * multiple
    for i in reported(range(count), progress):
        # Padding repeats a real example: zeros could be outside the range a network was trained on.
        rows = np.arange(i * size, (i + 1) * size)
        mask = rows < examples
        rows = np.where(mask, rows, 0)
        yield PaddedBatch(take(images, rows), labels[rows].astype(np.int32), mask)


@dataclasses.dataclass(frozen=True)
class WholeBatches:
    """Images and labels in batches of one size, because a gradient belongs to a batch."""

    pairs: list[tuple[Any, np.ndarray]]

    @property
    def size(self) -> int:
        return len(self.pairs[0][1])

    def __str__(self) -> str:
        return f"{len(self.pairs)} of {self.size} examples"

    def keyed(
        self, seed: int, progress: Progress | None = None, first: int = 0
    ) -> Iterator[tuple[Any, np.ndarray, jax.Array]]:
        """Images, labels and a random key of each batch from number ``first`` on; reports progress.

        Raises:
          ValueError: there is no batch of this number.
        """
        if not 0 <= first < len(self.pairs):
            raise ValueError(f"first_batch={first}; allowed: 0 … {len(self.pairs) - 1}")
        for i, pair in enumerate(reported(self.pairs[first:], progress), first):
            yield *pair, jax.random.fold_in(jax.random.key(seed), i)


def whole_batches(
    network: Network, variables: Variables, images: Any, labels: ArrayLike | None, batch_size: int
) -> WholeBatches:
    """Drops examples beyond the last whole batch; fewer than ``batch_size`` examples make one batch. Without
    labels, all labels are 0.

    Raises:
      ValueError: no example, a wrong form, or a batch size below 1.
    """
    images, known, _ = checked_examples(network, variables, images, labels)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; allowed: 1 or more")
    size = min(batch_size, len(known))
    cuts = [slice(i, i + size) for i in range(0, len(known) - size + 1, size)]
    return WholeBatches([(take(images, own), known[own].astype(np.int32)) for own in cuts])


def sharing(run: Callable[..., T], variables: Variables) -> Callable[..., T]:
    """``run`` as a function of (examples, *others): one program on all cores if they can share the examples
    equally, else on one device (``resjax.cpu.shared_batches``).

    ``examples`` is a tuple of arrays, or of pytrees of arrays, [B, …]; ``others`` are not split.

    Args:
      run: calls a program of ``on_cores.jit`` with (cores, variables, *examples, *others). The program has
        ended when its result is returned.
      variables: copied to each core once.
    """
    shared = on_cores.shared_cores()
    copies: dict[on_cores.Cores, Variables] = {}

    def on_batch(examples: tuple[Any, ...], *others: Any) -> T:
        cores = shared.if_shared(num_examples(examples))
        if cores not in copies:
            copies[cores] = cores.copy(variables)
        return cores.wait(run(cores, copies[cores], *cores.split(examples), *others))

    return on_batch


def on_each_core(
    program: Callable[..., Any],
    fixed: tuple[Any, ...],
    variables: Variables,
    batches: Sequence[tuple[Any, ...]],
    progress: Progress | None,
) -> list[Any]:
    """What ``program`` returns of each batch, in order, on the host; each core works on a batch of its own.

    Args:
      program: of ``on_cores.jit_each``, called with (cores, *fixed, variables, *batch); ``fixed`` is static.
      batches: equal tuples of arrays, or of pytrees of arrays.
    """
    tell, found = counted(progress, len(batches)), list[Any]()
    cores = on_cores.shared_cores().first(max(1, len(batches)))
    own = cores.copy(variables)
    for i in range(0, len(batches), cores.count):
        some = batches[i : i + cores.count]
        tell()
        out = cores.wait(program(cores, *fixed, own, *on_cores.for_each(cores, some)))
        for _ in some[1:]:
            tell()
        found += on_cores.of_each(cores, jax.device_get(out))[: len(some)]
    tell()
    return found


def per_example(
    run: Callable[..., Any],
    images: Any,
    labels: np.ndarray | None,
    batch_size: int,
    progress: Progress | None = None,
    multiple: int = 1,
) -> Any:
    """What ``run(images)`` or, with labels, ``run(images, labels)`` returns for each of ``padded_batches``,
    arrays [..., B], joined to [..., N] without the padding."""

    def real(batch: PaddedBatch) -> Any:
        out = run(batch.images) if labels is None else run(batch.images, batch.labels)
        return jax.tree.map(lambda v: v[..., batch.mask], jax.device_get(out))

    some = np.zeros(num_examples(images), int) if labels is None else labels
    parts = [real(batch) for batch in padded_batches(images, some, batch_size, progress, multiple)]
    return jax.tree.map(lambda *v: np.concatenate(v, -1), *parts)
