"""VGG and AlexNet of torchvision, timm and collections for CIFAR, by names and shapes."""

import functools

from resjax import models
from resjax.models.vgg import CONFIGURATIONS
from resjax.pretrained import naming
from resjax.pretrained.files import Tensors
from resjax.pretrained.layout import Layout, need


def chain(tensors: Tensors) -> Layout:
    """VGG and AlexNet: convolutions ``features.N``; N also counts ReLUs, BatchNorms and poolings."""
    numbers = sorted(
        int(key.split(".")[1])
        for key, tensor in tensors.items()
        if key.startswith("features.") and key.endswith(".weight") and tensor.ndim == 4
    )
    kernels = [tensors[f"features.{n}.weight"].shape[-1] for n in numbers]
    if kernels[0] == 11:
        need(tensors, ("classifier.1.weight", "classifier.6.weight"), "torchvision")
        model = models.defaults("alexnet", form="one_column")
        named = functools.partial(naming.chain, dense=naming.ALEXNET_DENSE)
        return Layout("torchvision", model, named, tensors["classifier.6.weight"].shape[0], 224)
    timm = "pre_logits.fc1.weight" in tensors
    whose, dense = ("timm", naming.TIMM_DENSE) if timm else ("torchvision", naming.VGG_DENSE)
    need(tensors, [f"{name}.weight" for name in dense], whose)
    norm = "features.1.running_mean" in tensors
    stages: list[list[int]] = []
    for n, kernel, before in zip(numbers, kernels, [None, *numbers], strict=False):
        if before is None or n - before > (3 if norm else 2):
            stages.append([])
        stages[-1].append(kernel)
    form = tuple(map(tuple, stages))
    found = [name for name, wanted in CONFIGURATIONS.items() if wanted == form]
    if not found:
        raise ValueError(
            f"a chain of convolutions that is not a VGG: kernels {form} between poolings; known: "
            f"{', '.join(f'{k}: {v}' for k, v in CONFIGURATIONS.items())}"
        )
    fc6 = tensors[f"{dense[0]}.weight"]
    model = models.defaults("vgg", configuration=found[0], norm=norm, fc_width=fc6.shape[0])
    named = functools.partial(naming.chain, dense=dense)
    layout = Layout(whose, model, named, tensors[f"{dense[2]}.weight"].shape[0], 224)
    # fc6 reads maps of one pixel, so the images are 32×32.
    return layout.for_small_images() if fc6.size == 512 * fc6.shape[0] else layout
