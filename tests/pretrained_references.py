"""Networks as their collections define them, in plain numpy with PyTorch's definitions of the layers.

Each function runs one on images and returns the outputs of stem and units, and the logits. It draws a tensor
when a layer first asks for it, so it also tells the names and shapes of a file.
"""

import numpy as np
from pretrained_helpers import draw

WIDTHS = (4, 6, 8)


class Tensors(dict):
    """Layers on images [B, C, H, W] in float64, with tensors drawn by name."""

    def tensor(self, name, *shape):
        return self.setdefault(name, draw(name, shape)).astype(np.float64)

    def conv(self, x, name, out, k=3, stride=1, bias=False):
        weight = self.tensor(f"{name}.weight", out, x.shape[1], k, k)
        pad = (k - 1) // 2
        x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), (2, 3))[:, :, ::stride, ::stride]
        y = np.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)
        return y + self.tensor(f"{name}.bias", out)[:, None, None] if bias else y

    def bn(self, x, name):
        c = x.shape[1]
        scale, bias, mean, var = (
            self.tensor(f"{name}.{k}", c)[:, None, None]
            for k in ("weight", "bias", "running_mean", "running_var")
        )
        self.setdefault(f"{name}.num_batches_tracked", np.int64(7))
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    def linear(self, x, name, out, bias=True):
        y = x @ self.tensor(f"{name}.weight", out, x.shape[1]).T
        return y + self.tensor(f"{name}.bias", out) if bias else y


def relu(x):
    return np.maximum(x, 0)


def max_pool(x):
    """2×2, of stride 2."""
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).max((3, 5))


def post(t, x, *, sizes=(2, 1, 2), widths=WIDTHS, unit="layer{s}.{i}", layers="conv{j} bn{j}",
         stem="conv1 bn1", shortcut="downsample.0 downsample.1", head=(("fc", 5),), bias=False,
         bottleneck=False):  # fmt: skip
    """Post-activation units; ``shortcut`` "" is option A. ``layers`` are named from the count j of
    convolutions, from 1, and from j3 = 3·(j − 1) and the number after it."""
    conv, bn = stem.split()
    outputs = [x := relu(t.bn(t.conv(x, conv, widths[0], bias=bias), bn))]
    for s, (n, width) in enumerate(zip(sizes, widths, strict=True), 1):
        for i in range(n):
            stride = 2 if s > 1 and i == 0 else 1
            h, prefix = x, unit.format(s=s, s2=s + 1, i=i)
            form = ((1, width, 1), (3, width, stride), (1, 4 * width, 1))
            form = form if bottleneck else ((3, width, stride), (3, width, 1))
            for j, (k, out, step) in enumerate(form, 1):
                conv, bn = layers.format(j=j, j3=3 * j - 3, j31=3 * j - 2).split()
                h = t.bn(t.conv(h, f"{prefix}.{conv}", out, k, step, bias), f"{prefix}.{bn}")
                h = relu(h) if j < len(form) else h
            if x.shape != h.shape and shortcut:
                conv, bn = shortcut.split()
                x = t.bn(t.conv(x, f"{prefix}.{conv}", out, 1, stride, bias), f"{prefix}.{bn}")
            elif x.shape != h.shape:
                half = (out - x.shape[1]) // 2
                x = np.pad(x[:, :, ::stride, ::stride], ((0, 0), (half, half), (0, 0), (0, 0)))
            outputs.append(x := relu(x + h))
    return [*outputs, dense(t, x.mean((2, 3)), head)]


def pre(t, x, *, sizes=(2, 1, 2), widths=WIDTHS, stem=4, unit="layer{s}.{i}", shortcut="shortcut.0",
        raw=False, stem_bn="", head_bn="bn", head=(("linear", 5),), bias=False,
        bottleneck=False):  # fmt: skip
    """Pre-activation units. Projections read the unit's input if ``raw``, else that of its first convolution.
    With ``stem_bn``, BatchNorm and ReLU are in the stem, and the first unit starts with its convolution.
    With ``bias``, every convolution whose output goes to a BatchNorm of its unit has one."""
    x = t.conv(x, "conv1", stem, bias=bias and bool(stem_bn))
    outputs = [x := relu(t.bn(x, stem_bn)) if stem_bn else x]
    for s, (n, width) in enumerate(zip(sizes, widths, strict=True), 1):
        for i in range(n):
            stride = 2 if s > 1 and i == 0 else 1
            h, prefix, activated = x, unit.format(s=s, i=i), None
            form = ((1, width, 1), (3, width, stride), (1, 4 * width, 1))
            form = form if bottleneck else ((3, width, stride), (3, width, 1))
            for j, (k, out, step) in enumerate(form, 1):
                if not (stem_bn and s == j == 1 and i == 0):
                    h = relu(t.bn(h, f"{prefix}.bn{j}"))
                activated = h if j == 1 else activated
                h = t.conv(h, f"{prefix}.conv{j}", out, k, step, bias and j < len(form))
            if x.shape != h.shape:
                x = t.conv(x if raw else activated, f"{prefix}.{shortcut}", out, 1, stride)
            outputs.append(x := x + h)
    x = relu(t.bn(x, head_bn)) if head_bn else x
    return [*outputs, dense(t, x.mean((2, 3)), head)]


def vgg11(t, x, *, norm=True, bias=True, head=(("classifier", 5),)):
    """VGG-11, whose last pooling leaves one pixel of images of 32×32."""
    outputs, number = [], 0
    for place in (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"):
        if place == "M":
            x, number = max_pool(x), number + 1
            if number < 5:  # our stem takes its pooling along
                outputs[0] = x
            continue
        x = t.conv(x, f"features.{number}", place, bias=bias)
        x = relu(t.bn(x, f"features.{number + 1}") if norm else x)
        number += 3 if norm else 2
        outputs.append(x)
    *hidden, _ = head
    for layer in hidden:
        outputs.append(x := dense(t, x.reshape(len(x), -1), (layer,), last=relu))
    return [*outputs, dense(t, x.reshape(len(x), -1), head[-1:])]


def dense(t, x, layers, last=lambda x: x):
    """Fully connected layers (name, outputs) with ReLU between them."""
    *hidden, final = layers
    for layer in hidden:
        x = relu(t.linear(x, *layer))
    return last(t.linear(x, *final))


PREACT = "resjax.pretrained.networks:preact_resnet"
_VGG = (("classifier.1", 9), ("classifier.4", 5))
# name → (function, its arguments, channels and side of its images, layout's name, model's name)
FORMS = {
    "names_of_several_collections": (
        post,
        {"stem": "conv bn", "shortcut": "shortcut.0 shortcut.1", "bias": True},
        (1, 8), "mixed names", "resnet",
    ),
    "option_a_and_a_head_behind_dropout": (
        post,
        {"shortcut": "", "head": (("fc.1", 5),)},
        (3, 8), "chenyaofo", "resnet",
    ),
    "hidden_layers": (
        post,
        {"head": (("classifier.0", 6), ("classifier.3", 7), ("classifier.6", 5))},
        (3, 8), "mixed names", "resnet",
    ),
    "weiaicunzai": (
        post,
        {"unit": "conv{s2}_x.{i}", "layers": "residual_function.{j3} residual_function.{j31}",
         "stem": "conv1.0 conv1.1", "shortcut": "shortcut.0 shortcut.1", "bottleneck": True},
        (3, 8), "weiaicunzai", "resnet",
    ),
    "kuangliu_preact": (pre, {"head_bn": ""}, (3, 8), "kuangliu", PREACT),
    "preact_bottleneck_with_biases": (pre, {"bottleneck": True, "bias": True}, (3, 8), "kuangliu", PREACT),
    "bearpaw_preact": (
        pre,
        {"shortcut": "downsample.0", "raw": True, "head": (("fc", 5),)},
        (3, 8), "bearpaw", PREACT,
    ),
    "xternalz_wide": (
        pre,
        {"stem": 2, "widths": (4, 8, 16), "unit": "block{s}.layer.{i}", "shortcut": "convShortcut",
         "head_bn": "bn1", "head": (("fc", 5),)},
        (3, 8), "xternalz", PREACT,
    ),
    "preact_with_normalized_stem": (pre, {"stem_bn": "bn1", "bias": True}, (3, 8), "kuangliu", "resnet"),
    "kuangliu_vgg": (vgg11, {}, (3, 32), "kuangliu", "vgg"),
    "vgg_without_biases": (vgg11, {"bias": False, "head": _VGG}, (3, 32), "mixed names", "vgg"),
}  # fmt: skip
