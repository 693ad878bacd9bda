"""Whose training script wrote a file, and so with which constants its images were standardized."""

from collections.abc import Collection

from resjax.pretrained.constants import CIFAR, IMAGENET, Constants
from resjax.pretrained.layouts.layout import Layout

_META = {"model", "teacher", "student"}


def standardized(
    layout: Layout, prefix: str, beside: Collection[str], stored: Constants | None = None
) -> Layout:
    """``layout`` with the most likely constants.

    Those that the file itself stores come first. Then come kuangliu's scripts for CIFAR, from which most
    others are copied: they save ``{"net": …, "acc": …, "epoch": …}``, and their ResNets for small images have
    four stages, while the layout's own collection has three. Meta's scripts (DeiT, MAE, DINO) save ViTs with
    timm's names as ``{"model": …}`` or ``{"teacher": …}``, and use ImageNet's constants. Images of another
    number of channels than three have the constants of the training set.

    Args:
      layout: the recognized network.
      prefix: of its tensors in the file.
      beside: the full names of what else the file holds.
      stored: those that the file holds.
    """
    if stored:
        return layout._replace(**stored._asdict(), constants_of="the file")
    if layout.channels != 3:
        return layout._replace(mean=(), std=(), constants_of="the training set")
    scripted = prefix.partition(".")[0] == "net" and "acc" in beside
    stages = len(layout.model.get("widths", ()))
    if layout.name == "timm" and layout.model.name == "vit" and prefix.partition(".")[0] in _META:
        return layout._replace(**IMAGENET._asdict(), constants_of="ImageNet")
    if layout.image_size == 32 and layout.num_classes in CIFAR and (scripted or stages == 4):
        return layout.for_small_images()
    return layout
