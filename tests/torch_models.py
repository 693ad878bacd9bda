"""The networks that layouts are proved against, as PyTorch, torchvision, timm and transformers build them.

Each entry gives a module, the side of its images, and the submodules whose outputs are those of our stem and
units, in order. The two CIFAR collections are no packages; their networks are built here of PyTorch's layers.
"""

import numpy as np
import torch
from network_helpers import draw as draw_variables
from network_helpers import logits_of
from pretrained_helpers import draw
from torch import nn

from resjax import models
from resjax.network.cut import cut_variables
from resjax.pretrained.export import export
from resjax.pretrained.layouts.torch_classes import building


class Block(nn.Module):
    """A basic post-activation unit; ``shortcut`` 'A' pads channels on both sides, else names a projection."""

    def __init__(self, before, channels, stride, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.option, self.added, self.changes = shortcut, channels - before, stride != 1
        if self.changes and shortcut != "A":
            projection = nn.Conv2d(before, channels, 1, stride, bias=False)
            setattr(self, shortcut, nn.Sequential(projection, nn.BatchNorm2d(channels)))

    def forward(self, x):
        branch = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if not self.changes:
            way = x
        elif self.option == "A":
            half = self.added // 2
            way = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half))
        else:
            way = getattr(self, self.option)(x)
        return torch.relu(branch + way)


class CifarResNet(nn.Module):
    """ResNet 6n + 2 for 32×32 images, with the classifier's name that a collection gives it."""

    def __init__(self, n, shortcut, head, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        before = 16
        for stage, channels in enumerate((16, 32, 64), 1):
            blocks = []
            for i in range(n):
                blocks.append(Block(before, channels, 2 if stage > 1 and i == 0 else 1, shortcut))
                before = channels
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        setattr(self, head, nn.Linear(64, classes))
        self.head = head

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return getattr(self, self.head)(x.mean((2, 3)))


def _torch_blocks(sizes):
    return [f"layer{s}.{i}" for s, n in enumerate(sizes, 1) for i in range(n)]


def _torchvision_resnet(block, sizes):
    from torchvision.models import resnet

    model = resnet.ResNet(getattr(resnet, block), list(sizes), num_classes=7)
    return model, ["maxpool", *_torch_blocks(sizes)]


def _relus(features):
    """The ReLU of each convolution; behind the first, the pooling that our stem takes along."""
    found = [i for i, m in enumerate(features) if isinstance(m, nn.ReLU)]
    pooled = [i + 1 if isinstance(features[i + 1], nn.MaxPool2d) else i for i in found[:1]]
    return [f"features.{i}" for i in (*pooled, *found[1:])]


def _torchvision_vgg(name, width=16):
    from torchvision import models

    model = models.get_model(name, num_classes=7)
    if width != 4096:
        linear = (nn.Linear(512 * 49, width), nn.Linear(width, width), nn.Linear(width, 7))
        for i, layer in zip((0, 3, 6), linear, strict=True):
            model.classifier[i] = layer
    return model, [*_relus(model.features), "classifier.1", "classifier.4"]


def _torchvision_alexnet():
    from torchvision import models

    model = models.get_model("alexnet", num_classes=7)
    return model, [*_relus(model.features), "classifier.2", "classifier.5"]


def _chenyaofo_vgg():
    from torchvision.models.vgg import cfgs, make_layers

    layers = (
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Dropout(),
    )
    model = nn.Sequential()
    model.features = make_layers(cfgs["A"], batch_norm=True)
    model.flatten = nn.Flatten()
    model.classifier = nn.Sequential(*layers, nn.Linear(512, 10))
    return model, [*_relus(model.features), "classifier.1", "classifier.4"]


def _timm_resnet(name, sizes):
    import timm

    model = timm.create_model(name, num_classes=7, layers=list(sizes))
    return model, ["maxpool", *_torch_blocks(sizes)]


def _timm_v2(name, sizes):
    import timm

    blocks = [f"stages.{s}.blocks.{i}" for s, n in enumerate(sizes) for i in range(n)]
    return timm.create_model(name, num_classes=7, layers=list(sizes)), ["stem", *blocks]


def _timm_vgg(name, width=16):
    import timm
    from timm.models.vgg import ConvMlp

    model = timm.create_model(name, num_classes=7)
    if width != 4096:
        model.pre_logits = ConvMlp(512, width, 7)
        model.head.fc = nn.Linear(width, 7)
    return model, [*_relus(model.features), "pre_logits.act1", "pre_logits.act2"]


def _hugging_face(kind, sizes):
    from transformers import ResNetConfig, ResNetForImageClassification

    widths = [64, 128, 256, 512] if kind == "basic" else [256, 512, 1024, 2048]
    config = ResNetConfig(layer_type=kind, depths=list(sizes), hidden_sizes=widths, num_labels=7)
    blocks = [f"resnet.encoder.stages.{s}.layers.{i}" for s, n in enumerate(sizes) for i in range(n)]
    return ResNetForImageClassification(config), ["resnet.embedder.pooler", *blocks]


def _cifar(n, shortcut, head):
    return CifarResNet(n, shortcut, head), ["relu", *_torch_blocks((n, n, n))]


_1, _18, _50, _101, _152 = (1, 2, 1, 1), (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)
# name → (function, its arguments, side of the images): the small ones, with committed references.
SMALL = {
    "akamaster_resnet20": (_cifar, (3, "A", "linear"), 32),
    "akamaster_option_b": (_cifar, (2, "shortcut", "linear"), 32),
    "chenyaofo_resnet20": (_cifar, (3, "downsample", "fc"), 32),
    "chenyaofo_vgg11_bn": (_chenyaofo_vgg, (), 32),
    "torchvision_basic": (_torchvision_resnet, ("BasicBlock", _1), 64),
    "torchvision_bottleneck": (_torchvision_resnet, ("Bottleneck", _1), 64),
    "torchvision_alexnet": (_torchvision_alexnet, (), 96),
    "torchvision_vgg11": (_torchvision_vgg, ("vgg11",), 224),
    "timm_bottleneck": (_timm_resnet, ("resnet50", _1), 64),
    "timm_v2_basic": (_timm_v2, ("resnetv2_18", _1), 64),
    "timm_v2_bottleneck": (_timm_v2, ("resnetv2_50", _1), 64),
    "timm_vgg11_bn": (_timm_vgg, ("vgg11_bn",), 224),
    "huggingface_basic": (_hugging_face, ("basic", _1), 64),
    "huggingface_bottleneck": (_hugging_face, ("bottleneck", _1), 64),
}
LARGE = {
    "torchvision_resnet18": (_torchvision_resnet, ("BasicBlock", _18), 224),
    "torchvision_resnet34": (_torchvision_resnet, ("BasicBlock", _50), 97),
    "torchvision_resnet50": (_torchvision_resnet, ("Bottleneck", _50), 224),
    "torchvision_resnet101": (_torchvision_resnet, ("Bottleneck", _101), 129),
    "torchvision_resnet152": (_torchvision_resnet, ("Bottleneck", _152), 96),
    "torchvision_alexnet_224": (_torchvision_alexnet, (), 224),
    "torchvision_alexnet_256": (_torchvision_alexnet, (), 256),
    "torchvision_vgg13_bn": (_torchvision_vgg, ("vgg13_bn",), 224),
    "torchvision_vgg16": (_torchvision_vgg, ("vgg16", 4096), 224),
    "torchvision_vgg19_bn": (_torchvision_vgg, ("vgg19_bn",), 240),
    "timm_resnet26": (_timm_resnet, ("resnet26", _18), 96),
    "timm_resnetv2_34": (_timm_v2, ("resnetv2_34", _50), 97),
    "timm_resnetv2_50": (_timm_v2, ("resnetv2_50", _50), 224),
    "timm_vgg16": (_timm_vgg, ("vgg16", 4096), 224),
    "huggingface_resnet34": (_hugging_face, ("basic", _50), 97),
    "huggingface_resnet50": (_hugging_face, ("bottleneck", _50), 224),
    "akamaster_resnet110": (_cifar, (18, "A", "linear"), 32),
}


def build(name):
    """A module with drawn weights, in inference mode, the modules to look at, and its images' side."""
    function, arguments, size = {**SMALL, **LARGE}[name]
    model, looked_at = function(*arguments)
    return drawn(model), looked_at, size


def drawn(model):
    """``model`` with drawn weights, in inference mode."""
    state = {k: torch.from_numpy(np.asarray(draw(k, tuple(v.shape)))) for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    return model.eval()


def activations(model, looked_at, x):
    """Outputs of the modules looked at and the logits, channels last; x is numpy [B, H, W, C].

    Of a module called ``NAME:in``, the input.
    """
    found = {}

    def hook(name):
        def keep(module, inputs, output):
            one = inputs[0] if name.endswith(":in") else output
            found[name] = one.detach().clone()

        return keep

    handles = [
        model.get_submodule(name.removesuffix(":in")).register_forward_hook(hook(name)) for name in looked_at
    ]
    with torch.no_grad():
        logits = model(torch.from_numpy(x).permute(0, 3, 1, 2))
    for handle in handles:
        handle.remove()
    outputs = [found[name] for name in looked_at]
    last = logits if isinstance(logits, torch.Tensor) else logits.logits
    return [t.permute(0, 2, 3, 1).numpy() if t.ndim == 4 else t.numpy() for t in (*outputs, last)]


def check_alike(ours, wanted, units):
    """Compares the activations of stem, units and logits with PyTorch's, element by element."""
    assert len(wanted) == len(ours) == units + 2
    for a, b in zip(ours, wanted, strict=True):
        assert a.shape == b.shape
        assert np.max(np.abs(a - b)) <= 2e-5 * (np.sqrt(np.mean(b**2)) + np.max(np.abs(b)))


def built_as_printed(name, fields, gone, x, folder):
    """PyTorch's network, from the lines that are printed for an exported one without the units ``gone``; its
    logits of images ``x`` are ours."""
    shape = x.shape[1:]
    whole, network = (
        models.build(models.defaults(name, **fields, **more), image_shape=shape, num_classes=7)
        for more in ({}, {"cut": gone})
    )
    variables = cut_variables(whole, draw_variables(whole, shape), gone, shape)
    file = str(folder / "it's cut.safetensors")
    export(network, variables, shape, file)
    scope: dict = {}
    exec(building(network, shape, file), scope)  # as pasted
    with torch.no_grad():
        wanted = scope["model"](torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    ours = logits_of(network, variables, x)
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=2e-5 * float(np.max(np.abs(wanted))))
    return scope["model"]
