"""Networks of twelve units that the scripts on layers of transformers share: a module, not a command.

Five architectures on the same images with the same recipe: a pre-activation ResNet, a vision transformer and
a Mixer (six layers of two units), a ConvMixer and a ConvNeXt (twelve layers of one unit). The recipe,
AdamW with a warm-up and a cosine, was fixed before the first training and not tuned. CIFAR-10 is reduced to
16×16 pixels and 10,000 training images, and stems and patches halve the sides once more than on digits, so
units have the shapes that they have there. Its trainings had 8 epochs at first. The first ViT then had 65 %
error on the training images, too many to decide anything, so all got the 20 epochs of digits, before a
deletion of a ViT was looked at. A seed draws the initial weights and the order of the batches.
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from resjax import config as configs

SEEDS = (0, 1, 2)
PARTS = ("digits", "cifar10")


class Member(NamedTuple):
    """A network: how figures call it, its builder, and the builder's fields for each data set."""

    title: str
    builder: str
    fields: dict[str, Any]
    digits: dict[str, Any]
    cifar10: dict[str, Any]


# ConvNeXt has no layer scale: with 1e-6 its branches would hardly have begun after so few steps.
NETWORKS = {
    "resnet": Member(
        "ResNet",
        "resnet",
        {"stage_sizes": (4, 4, 4), "widths": (8, 16, 32), "placement": "pre"},
        {},
        {"stem": "small_pool"},
    ),
    "vit": Member(
        "ViT",
        "vit",
        {"depth": 6, "width": 48, "heads": 4, "mlp_width": 96},
        {"patch": 2},
        {"patch": 4},
    ),
    "convmixer": Member(
        "ConvMixer",
        "convmixer",
        {"depth": 12, "width": 48, "kernel": 3},
        {"patch": 2},
        {"patch": 4},
    ),
    "mixer": Member(
        "Mixer",
        "mixer",
        {"depth": 6, "width": 48, "token_width": 24, "mlp_width": 96},
        {"patch": 2},
        {"patch": 4},
    ),
    "convnext": Member(
        "ConvNeXt",
        "convnext",
        {"stage_sizes": (6, 6), "widths": (16, 32), "layer_scale": 0.0},
        {"patch": 1},
        {"patch": 2},
    ),
}
# The ResNet with other numbers of units, for what should depend on depth.
DEPTHS = {"resnet6": (2, 2, 2), "resnet24": (8, 8, 8)}
# The ViT, trained with its layers in another random order in each step.
SHUFFLED = "vit_shuffled"


def config_of(part: str, network: str, seed: int, data: str = "") -> ConfigDict:
    """One run's configuration.

    Args:
      part: one of ``PARTS``.
      network: one of ``NETWORKS`` or ``DEPTHS``, or ``SHUFFLED``.
      seed: of weights and batches.
      data: for CIFAR-10, an .npz file of it, or '' for the prepared one.
    """
    base = "resnet" if network in DEPTHS else "vit" if network == SHUFFLED else network
    member = NETWORKS[base]
    fields = member.fields | getattr(member, part)
    if network in DEPTHS:
        fields["stage_sizes"] = DEPTHS[network]
    c = configs.default(member.builder, **fields)
    c.seed = seed
    c.data.name = "digits" if part == "digits" else data or "cifar10"
    c.train.batch_size, c.train.duration = 64, "20 epochs"
    c.optimizer.name, c.optimizer.learning_rate = "adamw", 0.002
    c.optimizer.weight_decay, c.optimizer.decay = 0.05, "kernels"
    c.optimizer.clip_norm = 1.0
    c.optimizer.schedule, c.optimizer.warmup = "cosine", "3 epochs"
    if part == "cifar10":
        c.data.image_size, c.data.pad, c.data.flip = 16, 2, True
        c.data.train_examples = 10_000
    if network == SHUFFLED:
        c.train.shuffle = "layers"
    c.log.every = "1 epochs"
    c.eval.every = c.checkpoint.every = c.train.duration
    c.checkpoint.keep = 1
    return c
