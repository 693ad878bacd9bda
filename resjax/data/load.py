"""From `config.data` to a data set."""

import dataclasses

import ml_collections
import numpy as np

from resjax.data import arrays, folder, tfds
from resjax.data.arrays import Arrays
from resjax.data.config import SMALL, STREAMED, check, constants, is_path
from resjax.data.info import IMAGENET_MEAN, IMAGENET_STD, TABLE, Info
from resjax.data.npz import read_npz
from resjax.data.order import split_indices
from resjax.data.stream import Source, Stream

# Side of the papers' crops in pixels, used where config.data.image_size is 0.
_STREAM_SIZE = 224


def info(config: ml_collections.ConfigDict) -> Info:
    """The `info` of the data set that `load` returns, with the same errors.

    For a known name, no data are read or needed.
    """
    check(config)
    if not _is_known(config.name):
        return load(config).info
    known = TABLE[config.name]
    height, width, channels = known.image_shape
    if config.image_size:
        height = width = config.image_size
    train, held_out = split_indices(known.num_train, config.train_examples, config.holdout, config.split_seed)
    return dataclasses.replace(
        known,
        image_shape=(height, width, channels),
        num_train=len(train),
        num_test=len(held_out) or known.num_test,
    )


def load(config: ml_collections.ConfigDict) -> Arrays | Stream:
    """Loads the data set of a `config.data` section.

    That is a `Stream` for `imagenet2012`, `imagenette` and folders with images of more than 64 pixels a side
    or 1 GiB in total, else `Arrays`.

    Raises:
      FileNotFoundError: the data are missing; the message says how to get them.
      ValueError: a name is unknown, a value is out of range, or the data are inconsistent.
    """
    check(config)
    dataset = _load(config)
    if dataset.info.num_classes < 2:
        only = "".join(f" ({name})" for name in dataset.info.class_names)
        raise ValueError(
            f"{config.name} has one class{only}: there is nothing to tell apart, and any network's error is "
            "0. Needed are two classes or more"
        )
    mean, std = constants(config)
    if not mean:
        return dataset
    channels = dataset.info.image_shape[-1]
    if len(mean) != channels:
        raise ValueError(
            f"data.mean={mean} is for images of {len(mean)} channels, and these have {channels}: give one "
            "number for each channel, or name other images by data.name"
        )
    return dataclasses.replace(dataset, info=dataclasses.replace(dataset.info, mean=mean, std=std))


def _load(config: ml_collections.ConfigDict) -> Arrays | Stream:
    name = config.name
    if not _is_known(name):
        if name.endswith(".npz"):
            return arrays.make(config, *read_npz(name))
        return _load_folder(config)
    if name == "digits":
        return arrays.make(config, arrays.read_digits(), TABLE[name].class_names)
    if name in SMALL:
        raw, prepared_names = tfds.read_arrays(name, config.data_dir)
        return arrays.make(config, raw, TABLE[name].class_names or prepared_names)
    train = tfds.Records(name, config.data_dir, "train")
    test = tfds.Records(name, config.data_dir, "test")
    return _stream(config, train, test, train.class_names())


def _is_known(name: str) -> bool:
    """Whether `name` is in the table; ValueError if it is not a path either."""
    if name in TABLE:
        return True
    if is_path(name):
        return False
    raise ValueError(
        f"data.name={name!r}: choose one of {', '.join((*SMALL, *STREAMED))}, or give the path of "
        "an .npz file or of a folder that holds train/CLASS/*.jpg and test/CLASS/*.jpg"
    )


def _load_folder(config: ml_collections.ConfigDict) -> Arrays | Stream:
    train, test, names = folder.scan(config.name, config.holdout)
    shape = folder.whole_shape(train, test, config.image_size)
    if shape is None:
        return _stream(config, train, test, names)
    resize = bool(config.image_size)
    if resize and config.fit == "pad":
        raise ValueError(
            "data.fit='pad' is not for folders: their images are resized by the shorter side and "
            "cropped. Use fit='resize', or store padded images"
        )
    raw: dict[str, np.ndarray] = {}
    for part, files in (("train", train), ("test", test)):
        again = part == "test" and test is train  # no test folder: the held-out part replaces it
        raw[f"{part}_images"] = (
            raw["train_images"] if again else folder.read_whole(files, shape, resize, config.background)
        )
        raw[f"{part}_labels"] = files.labels
    return arrays.make(config, raw, names)


def _stream(
    config: ml_collections.ConfigDict, train: Source, test: Source, class_names: tuple[str, ...]
) -> Stream:
    size = config.image_size or _STREAM_SIZE
    train_indices, held_out = split_indices(
        len(train), config.train_examples, config.holdout, config.split_seed
    )
    source, test_indices = test, np.arange(len(test), dtype=np.int32)
    if config.holdout:
        source, test_indices = train, held_out
    facts = Info(
        name=config.name,
        image_shape=(size, size, 3),
        num_classes=len(class_names),
        num_train=len(train_indices),
        num_test=len(test_indices),
        class_names=class_names,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    return Stream(
        facts, train, train_indices, source, test_indices, config.crop, config.workers, config.background
    )
