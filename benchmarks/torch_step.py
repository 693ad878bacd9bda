"""PyTorch's side of ``train_step.py``: the same networks, the same step, in an interpreter that has torch.

Serves one contender: ``python torch_step.py FORM NETWORK BATCH DTYPE STEPS-A-ROUND``. FORM is eager; compile,
which is ``torch.compile`` of the forward pass and the loss, and so of their gradients; or graphs, the same
with CUDA graphs. channels_last throughout, the fast layout of PyTorch on CPU and GPU; bfloat16 is autocast.
``vit`` and ``convmixer`` need timm. It imports nothing of resjax.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from serving import serve
from torch import nn


def conv(i: int, o: int, window: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(i, o, window, stride, window // 2, bias=False)


class PreActivation(nn.Module):
    """BN ReLU conv BN ReLU conv beside a shortcut: every other pixel, channels padded with zeros."""

    def __init__(self, i: int, o: int, stride: int, normalize: bool) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(i) if normalize else None
        self.conv1, self.norm2, self.conv2 = conv(i, o, 3, stride), nn.BatchNorm2d(o), conv(o, o, 3)
        self.stride, self.added = stride, o - i

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x if self.norm1 is None else F.relu(self.norm1(x))
        h = self.conv2(F.relu(self.norm2(self.conv1(h))))
        if self.added or self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return x + h


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 with BatchNorm after each, a projection where the shape changes (v1.5)."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(conv(i, o, 1), nn.BatchNorm2d(o), nn.ReLU()),
            *(conv(o, o, 3, stride), nn.BatchNorm2d(o), nn.ReLU()),
            *(conv(o, 4 * o, 1), nn.BatchNorm2d(4 * o)),
        )
        changes = stride > 1 or i != 4 * o
        self.shortcut = nn.Sequential(conv(i, 4 * o, 1, stride), nn.BatchNorm2d(4 * o))
        if not changes:
            self.shortcut = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.shortcut(x) + self.branch(x))


def small(depth: int) -> nn.Module:
    """The pre-activation network of depth 6n + 2 for 32×32 images."""
    units, i = [], 16
    for stage, o in enumerate((16, 32, 64)):
        for place in range((depth - 2) // 6):
            stride = 2 if stage and not place else 1
            units.append(PreActivation(i, o, stride, normalize=bool(stage or place)))
            i = o
    stem = (conv(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(*stem, *units, nn.BatchNorm2d(64), nn.ReLU(), *head(64, 10))


def resnet50() -> nn.Module:
    units, i = [], 64
    for stage, n in enumerate((3, 4, 6, 3)):
        for place in range(n):
            o = 64 * 2**stage
            units.append(Bottleneck(i, o, 2 if stage and not place else 1))
            i = 4 * o
    stem = (conv(3, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*stem, *units, *head(2048, 1000))


def vit() -> nn.Module:
    """timm's, of resjax's size 'cifar'."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(32, 4, num_classes=10, embed_dim=256, depth=7, num_heads=4, mlp_ratio=2)


def convmixer() -> nn.Module:
    """timm's, ConvMixer-256/8 with windows of 5×5 and patches of 2×2."""
    from timm.models.convmixer import ConvMixer

    return ConvMixer(256, 8, kernel_size=5, patch_size=2, num_classes=10)


NAMED = {"resnet50": resnet50, "vit": vit, "convmixer": convmixer}


def head(width: int, classes: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)


def contender(
    form: str, network: str, batch: int, dtype: str, steps: int
) -> tuple[float, Callable[[], None], int]:
    """Seconds of the first step (it compiles, or chooses kernels), a round of steps, number of parameters."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = NAMED[network]() if network in NAMED else small(int(network))
    size, classes = (224, 1000) if network == "resnet50" else (32, 10)
    model = model.to(device, memory_format=torch.channels_last)
    x = torch.randn(batch, 3, size, size, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, classes, (batch,), device=device)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            return F.cross_entropy(model(x), y)

    modes = {"compile": "default", "graphs": "reduce-overhead"}
    forward = torch.compile(loss, mode=modes[form]) if form in modes else loss

    def run(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            forward(x, y).backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    start = time.perf_counter()
    run(1)
    parameters = sum(p.numel() for p in model.parameters())
    return time.perf_counter() - start, lambda: run(steps), parameters


if __name__ == "__main__":
    form, network, batch, dtype, steps = sys.argv[1:]
    seconds, run_round, parameters = contender(form, network, int(batch), dtype, int(steps))
    serve(seconds, run_round, int(steps), parameters=parameters)
