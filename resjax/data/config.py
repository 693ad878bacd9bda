"""The `data` section of a configuration: the data set, and its preprocessing."""

import math
import numbers
import pathlib

import ml_collections

from resjax.data.info import TABLE
from resjax.data.randaugment import STRONGEST

# Values of `config.name` besides paths: the built-in set and sets of TFDS.
SMALL = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn_cropped")
STREAMED = ("imagenet2012", "imagenette", "imagenette/320px-v2", "imagenette/160px-v2")

CHOICES = {
    "fit": ("resize", "pad"),
    "standardize": ("channel", "pixel", "unit", "lenet"),
    "crop": ("resize", "inception"),
    "pad_with": ("mean", "black"),
    "background": ("white", "black"),
}


def defaults() -> ml_collections.ConfigDict:
    """Every field of `config.data`, with its default."""
    c = ml_collections.ConfigDict()
    # A known name (SMALL, STREAMED), a path that ends in .npz, or a folder of class folders.
    c.name = "digits"
    # Folder of prepared TFDS sets; '' = $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    c.data_dir = ""

    # Side of the square images in pixels; 0 = their own size (224 for streamed sets).
    c.image_size = 0
    # How small images are fitted to image_size: 'resize' (bilinear; images of a folder by the shorter side,
    # then a central crop) or 'pad' (with zeros on all sides, as LeCun 1998 puts 28 x 28 digits on a 32 x 32
    # field).
    c.fit = "resize"

    # What transparent pixels of picture files show: 'white' or 'black'.
    c.background = "white"

    # Random crop in training: pixels added on each side first (He 2015 §4.2: 4); 0 = none.
    c.pad = 0
    # Their value: 'mean', that is 0 after standardizing (He 2015: zeros around the mean-subtracted image), or
    # 'black', 0 before it, as in most PyTorch code. With 'unit' and 'lenet' both are black.
    c.pad_with = "mean"
    # Mirror training images left to right with probability 1/2 (not for digits and letters).
    c.flip = False
    # RandAugment: number of random operations on each training image (Cubuk 2020), 0 = none; their magnitude,
    # 0 .. 10, and the probability with which each is done.
    c.randaugment = 0
    c.randaugment_magnitude = 9.0
    c.randaugment_probability = 1.0
    # Standardization. 'channel': mean and standard deviation of each channel of the training set; 'pixel':
    # mean image, and standard deviation of all pixels; 'unit': x/255; 'lenet': 0 -> -0.1 and 255 -> 1.175
    # (LeCun 1998 §II-B).
    c.standardize = "channel"
    # Constants of 'channel' for pixels in 0 .. 1, for a network that was trained with them elsewhere; () =
    # those of the training set.
    c.mean = ()
    c.std = ()
    # Crops of streamed training images: 'resize' (shorter side random in 256..480 for a crop of 224, in
    # proportion for other sizes, then a random crop: He 2015 §3.4) or 'inception' (8-100 % of the area with
    # aspect ratio 3/4..4/3, resized: Szegedy 2015).
    c.crop = "resize"
    # Processes per host that decode streamed images; 0 = threads of this process.
    c.workers = 2

    # Train on the first n of a seeded permutation, for sample-size studies; 0 = all.
    c.train_examples = 0
    # Evaluate on the last n of that permutation instead of the test set, and never train on them; 0 =
    # evaluate on the test set.
    c.holdout = 0
    # Seed of that permutation; it is independent of the seed of the run.
    c.split_seed = 0
    return c


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for a value that is invalid for every data set; the message names allowed ones."""
    for field, default in defaults().items():
        _check_kind(field, config[field], default)
    for field, allowed in CHOICES.items():
        if config[field] not in allowed:
            raise ValueError(f"data.{field}={config[field]!r}: choose one of {', '.join(allowed)}")
    for field in ("image_size", "pad", "workers", "train_examples", "holdout", "split_seed",
                  "randaugment"):  # fmt: skip
        if config[field] < 0:
            raise ValueError(f"data.{field}={config[field]}: must be 0 or more")
    for field, most in (("randaugment_magnitude", STRONGEST), ("randaugment_probability", 1)):
        if not 0 <= config[field] <= most:
            raise ValueError(f"data.{field}={config[field]}: must be from 0 to {most:g}")
    if config.pad_with == "black" and config.standardize == "pixel":
        raise ValueError(
            "data.pad_with='black' requires data.standardize='channel', 'unit' or 'lenet': a mean image ends "
            "at the border"
        )
    mean, std = constants(config)
    if len(mean) != len(std) or min(std, default=1.0) <= 0:
        raise ValueError(
            f"data.mean={mean}, data.std={std}: give one number per channel in both, standard "
            "deviations above 0, or leave both ()"
        )
    if mean and config.standardize != "channel":
        raise ValueError(f"data.mean={mean} requires data.standardize='channel', not {config.standardize!r}")


def _check_kind(field: str, value: object, default: object) -> None:
    """Raises ValueError for a value that is not of the kind of the default."""
    match default:
        case bool():
            right, needed = isinstance(value, bool), "True or False"
        case int():
            right = isinstance(value, numbers.Integral) and not isinstance(value, bool)
            needed = f"a whole number, such as {default}"
        case float():
            right, needed = _is_number(value), f"a number, such as {default:g}"
        case str():
            right, needed = isinstance(value, str), f"text, such as {default or '~/data'!r}"
        case _:
            right = isinstance(value, (tuple, list)) and all(map(_is_number, value))
            needed = (
                "one number for each channel, such as (0.5, 0.5, 0.5), or () for those of the training set"
            )
    if not right:
        raise ValueError(f"data.{field}={value!r}; needed: {needed}")


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def constants(config: ml_collections.ConfigDict) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and standard deviation given in `config`, or () and ()."""
    return tuple(config.mean), tuple(config.std)


def is_path(name: str) -> bool:
    """Whether `name`, a value of `config.name`, is a path: not a known name, and of the form of one."""
    looks_like_one = name.endswith(".npz") or "/" in name
    return name not in TABLE and name != "" and (looks_like_one or pathlib.Path(name).is_dir())


def absolute(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of a `data` section whose paths are absolute, so that it means the same in every folder.

    '~' is the home folder. Known names and '' stay, and so does a value that `check` refuses.
    """
    copied = config.copy_and_resolve_references()
    if isinstance(config.name, str) and is_path(config.name):
        copied.name = _absolute(config.name)
    if isinstance(config.data_dir, str) and config.data_dir:
        copied.data_dir = _absolute(config.data_dir)
    return copied


def no_such(name: str, kind: str) -> str:
    """The start of the message that there is no `kind` at the path `name`, and where it was sought."""
    where = _absolute(name)
    return f"data.name={name!r}: no such {kind}{'' if where == name else f' ({where})'}"


def _absolute(path: str) -> str:
    whole = pathlib.Path(path).expanduser().absolute()
    # Symbolic links stay, unless the folder above one is meant.
    return str(whole.resolve() if ".." in whole.parts else whole)
