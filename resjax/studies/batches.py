"""Checks examples and cuts them into equal batches."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypedDict, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.network.losses import Loss

T = TypeVar("T")
BATCH_SIZE = 128
Progress = Callable[[int, int], None]
"""Called as ``progress(parts done, total parts)``, first with 0 parts done."""


class Inference(TypedDict, total=False):
    """How examples are run: arguments that every analysis takes, passed on as ``**how``.

    Every analysis takes ``network``, ``variables``, ``images`` and ``labels`` first: any network; its
    variables as ``Network.init`` returns them; float [N, H, W, C], standardized as in training, N ≥ 1, each
    counted once; int [N]. It raises a ``ValueError`` for no example and for images or labels of a wrong form.
    """

    loss: Loss  # (logits [B, classes], labels int32 [B]) → float32 [B]; default: cross-entropy
    batch_size: int  # maximum number of examples at a time; affects memory, not results
    progress: Progress | None


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


def counted(progress: Progress | None, of: int) -> Callable[[], None]:
    """A function to call before each of ``of`` parts and once at the end, which reports the progress."""
    numbers = itertools.count()
    return lambda: progress(next(numbers), of) if progress else None


def reported(items: Sequence[T], progress: Progress | None) -> Iterator[T]:
    """The items one by one; ``progress`` is called before each of them and at the end."""
    tell = counted(progress, len(items))
    for item in items:
        tell()
        yield item
    tell()


class PaddedBatch(NamedTuple):
    """``images`` [B, H, W, C]; ``labels`` int32 [B]; ``mask`` bool [B], False where an example is padding."""

    images: np.ndarray
    labels: np.ndarray
    mask: np.ndarray


def count_classes(network: Network, variables: Variables, shape: tuple[int, ...]) -> int:
    """The number of logits for images of ``shape`` (H, W, C); nothing is computed."""
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    logits = jax.eval_shape(lambda v, x: network.apply(v, x).logits, variables, x)
    return int(logits.shape[-1])


def check_examples(images: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    """Checks that an analysis can use the examples.

    Raises:
      ValueError: no example, images that are not float [N, H, W, C], a number of labels that differs from N,
        or a label outside the network's classes.
    """
    check_images(images)
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"{len(images)} images need labels of shape [{len(images)}], got {list(labels.shape)}"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels must lie in 0 … {num_classes - 1}, the classes of the network, got "
            f"{labels.min()} … {labels.max()}"
        )


def checked_examples(
    network: Network, variables: Variables, images: ArrayLike, labels: ArrayLike
) -> tuple[np.ndarray, np.ndarray, int]:
    """Images and labels as arrays after ``check_examples``, and the number of classes of the network."""
    images, labels = np.asarray(images), np.asarray(labels)
    check_images(images)
    num_classes = count_classes(network, variables, images.shape[1:])
    check_examples(images, labels, num_classes)
    return images, labels, num_classes


def total(parts: Iterable[Any]) -> Any:
    """The sum of equal pytrees, on the host and in float64."""
    summed: Any = None
    for part in parts:
        part = jax.tree.map(np.float64, jax.device_get(part))
        summed = part if summed is None else jax.tree.map(np.add, summed, part)
    return summed


def check_images(images: np.ndarray) -> None:
    """The checks of ``check_examples`` on images alone."""
    shape = list(images.shape)
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images must be float [N, H, W, C], standardized as in training "
            f"(resjax.data.standardize), got {images.dtype} {shape}"
        )
    if len(images) == 0:
        raise ValueError(f"there is no example: images have the shape {shape}")


def padded_batches(
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    progress: Progress | None = None,
    multiple: int = 1,
) -> Iterator[PaddedBatch]:
    """Batches of one size, at most ``batch_size``, as even as possible; the last is padded.

    The size is a multiple of ``multiple``, and equal to it if ``batch_size`` is smaller.

    Raises:
      ValueError: a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; allowed: 1 or more")
    most = max(batch_size // multiple, 1) * multiple
    count = -(-len(images) // most)
    size = -(-len(images) // (count * multiple)) * multiple
    for i in reported(range(count), progress):
        # Padding repeats a real example: zeros could be outside the range a network was trained on.
        rows = np.arange(i * size, (i + 1) * size)
        mask = rows < len(images)
        rows = np.where(mask, rows, 0)
        yield PaddedBatch(images[rows], labels[rows].astype(np.int32), mask)


@dataclasses.dataclass(frozen=True)
class WholeBatches:
    """Images and labels in batches of one size, because a gradient belongs to a batch."""

    pairs: list[tuple[np.ndarray, np.ndarray]]

    @property
    def size(self) -> int:
        return len(self.pairs[0][0])

    def __str__(self) -> str:
        return f"{len(self.pairs)} of {self.size} examples"

    def keyed(
        self, seed: int, progress: Progress | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, jax.Array]]:
        """Images, labels and a random key of each batch; reports progress."""
        for i, pair in enumerate(reported(self.pairs, progress)):
            yield *pair, jax.random.fold_in(jax.random.key(seed), i)


def whole_batches(
    network: Network, variables: Variables, images: ArrayLike, labels: ArrayLike, batch_size: int
) -> WholeBatches:
    """Drops examples beyond the last whole batch; fewer than ``batch_size`` examples make one batch.

    Raises:
      ValueError: no example, a wrong form, or a batch size below 1.
    """
    images, labels, _ = checked_examples(network, variables, images, labels)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; allowed: 1 or more")
    size = min(batch_size, len(images))
    starts = range(0, len(images) - size + 1, size)
    return WholeBatches([(images[i : i + size], labels[i : i + size].astype(np.int32)) for i in starts])


def per_example(
    run: Callable[..., Any],
    images: np.ndarray,
    labels: np.ndarray | None,
    batch_size: int,
    progress: Progress | None = None,
) -> Any:
    """What ``run(images)`` or, with labels, ``run(images, labels)`` returns for each batch, arrays [..., B],
    joined to [..., N] without the padding."""

    def real(batch: PaddedBatch) -> Any:
        out = run(batch.images) if labels is None else run(batch.images, batch.labels)
        return jax.tree.map(lambda v: v[..., batch.mask], jax.device_get(out))

    some = np.zeros(len(images), int) if labels is None else labels
    parts = [real(batch) for batch in padded_batches(images, some, batch_size, progress)]
    return jax.tree.map(lambda *v: np.concatenate(v, -1), *parts)
