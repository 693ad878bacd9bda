"""The order of training examples as a stateless function of (seed, step).

Position p = step * batch_size + j of the endless training stream is place p % n of epoch p // n, and each
epoch is a permutation drawn from (seed, epoch). So every example is seen exactly once per epoch, none is
dropped, a batch may straddle two epochs, and a run can resume at any step. All data sets use this rule.
"""

import functools

import numpy as np


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    # Four suffice: the two epochs that a batch may straddle, for the training order and one other order.
    order = np.random.default_rng((seed, epoch)).permutation(num_examples).astype(np.int32)
    order.setflags(write=False)
    return order


def batch_indices(seed: int, step: int, num_examples: int, batch_size: int) -> np.ndarray:
    """The examples of training step `step`: int32 [batch_size] in 0 .. num_examples - 1.

    `batch_size` is the global batch size; it may exceed `num_examples`. ValueError if a number is out of
    range.
    """
    if seed < 0 or step < 0:
        raise ValueError(f"seed={seed}, step={step}: both must be 0 or more")
    if not 1 <= num_examples < 2**31 or batch_size < 1:
        raise ValueError(
            f"num_examples={num_examples}, batch_size={batch_size}: both must be 1 or more, "
            "and num_examples below 2**31"
        )
    epochs, places = np.divmod(int(step) * batch_size + np.arange(batch_size, dtype=np.int64), num_examples)
    parts = [
        _permutation(seed, int(epoch), num_examples)[places[epochs == epoch]]
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
    ]
    return np.concatenate(parts)


def split_indices(
    num_examples: int, train_examples: int, holdout: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The examples to train on, and those to hold out, as int32.

    From one permutation of the training set, drawn from `seed`, the first `train_examples` (0 = all that are
    not held out) are trained on and the last `holdout` are held out. So smaller training sets are subsets of
    larger ones, and all share one held-out set. If both are 0, the order is that of the stored examples.

    Raises:
      ValueError: `train_examples` + `holdout` exceeds the training set, or nothing is left to train on.
    """
    if train_examples + holdout > num_examples or holdout >= num_examples:
        raise ValueError(
            f"data.train_examples={train_examples} and data.holdout={holdout} need "
            f"{max(train_examples, 1) + holdout} training examples; there are {num_examples}"
        )
    if not train_examples and not holdout:
        return np.arange(num_examples, dtype=np.int32), np.empty(0, np.int32)
    order = np.random.default_rng(seed).permutation(num_examples).astype(np.int32)
    kept = num_examples - holdout
    return order[: train_examples or kept], order[kept:]
