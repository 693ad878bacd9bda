"""PyTorch's side of ``depthwise.py``, in an interpreter that has torch: one thread, channels_last.

Reads lines, each the JSON of [batch, size, channels, window, operation], and answers each with the
milliseconds of processor time of one call. It imports nothing of resjax.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

BACKWARD = {"input gradient": [True, False, False], "kernel gradient": [False, True, False]}


@functools.lru_cache(1)
def arrays(batch: int, size: int, channels: int, window: int) -> list[torch.Tensor]:
    x, dy = (torch.randn(batch, channels, size, size) for _ in range(2))
    kernel = torch.randn(channels, 1, window, window)
    return [a.contiguous(memory_format=torch.channels_last) for a in (x, dy, kernel)]


def call(*shape: int, operation: str) -> Callable[[], object]:
    x, dy, kernel = arrays(*shape)
    channels, p = x.shape[1], kernel.shape[2] // 2
    if operation == "forward":
        return lambda: F.conv2d(x, kernel, None, 1, p, 1, channels)
    which = BACKWARD[operation]
    how = ([1, 1], [p, p], [1, 1], False, [0, 0], channels)  # strides, padding, dilation, not transposed, …
    return lambda: torch.ops.aten.convolution_backward(dy, x, kernel, None, *how, which)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        *shape, operation = json.loads(line)
        run = call(*shape, operation=operation)
        run()  # as the other contenders: the memory is then as this call leaves it
        start = time.process_time()
        run()
        print(1e3 * (time.process_time() - start), flush=True)
