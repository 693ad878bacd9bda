"""What arrays of images and labels must be, and the line of numpy that makes them so."""

from collections.abc import Mapping, Sequence

import numpy as np


def images(given: np.ndarray, part: str) -> np.ndarray:
    """`given` as uint8 [N, H, W, C]; `part` is 'train' or 'test'.

    Raises:
      ValueError: another dtype, rank or number of channels, or no images.
    """
    name = f"{part}_images"
    if given.dtype != np.uint8:
        raise ValueError(f"{name} has dtype {given.dtype}; needed: uint8 in 0..255. {to_uint8(given, name)}")
    if given.ndim == 3:
        given = given[..., None]
    if given.ndim != 4:
        raise ValueError(f"{name} has shape {given.shape}; needed: [N, H, W, C] or [N, H, W]")
    if not given.size:
        raise ValueError(f"{name} is empty: shape {given.shape}")
    if given.shape[-1] not in (1, 3):
        hint = ""
        if given.shape[1] in (1, 3):
            hint = f" They look channel-first: {name}.transpose(0, 2, 3, 1)"
        elif given.shape[-2] in (1, 3):
            hint = f" The images look counted in the last place, as in MATLAB: {name}.transpose(3, 0, 1, 2)"
        elif given.shape[-1] == 4:
            hint = f" If the fourth is opacity, and all is opaque: {name}[..., :3]"
        raise ValueError(
            f"{name} has shape {given.shape}: {given.shape[-1]} channels; needed: 1 (grey) or "
            f"3 (red, green, blue) in the last place.{hint}"
        )
    return given


def to_uint8(given: np.ndarray, name: str) -> str:
    """A sentence: the range of images of another dtype, and the expression that makes them uint8."""
    kind = given.dtype.kind
    if kind == "b":
        return f"From true and false: 255 * {name}.astype(numpy.uint8)"
    if kind not in "iuf" or not given.size:
        return f"Numbers are needed, such as numpy.zeros((N, H, W, C), numpy.uint8), found {given.dtype}"
    low, high = given.min(), given.max()
    span = f"They are in {low:.6g} .. {high:.6g}"
    if not np.isfinite([low, high]).all():
        return f"{span}: images with nan or inf have no uint8 form; find and remove them"
    if kind == "f":
        for least, most, text in (
            (0, 1, f"255 * {name}"),
            (0, 255, name),
            (-1, 1, f"127.5 * ({name} + 1)"),
        ):
            if least <= low and high <= most:
                meant = f"if {least} is black and {most} is white"
                return f"{span}; {meant}: numpy.round({text}).astype(numpy.uint8)"
        return f"{span}, perhaps standardized: save the images as they were before that, in 0..255"
    if low < 0:
        return f"{span}: an image has no negative levels; undo the subtraction"
    if high <= 255:
        return f"{span}: {name}.astype(numpy.uint8)"
    # The cameras and scanners that are common have 10, 12, 14 or 16 bits.
    top = next((2**bits - 1 for bits in (10, 12, 14, 16) if high < 2**bits), int(high))
    scale = "/ 257" if top == 65535 else f"* (255 / {top})"
    return f"{span}: numpy.round({name} {scale}).astype(numpy.uint8), the same for both parts"


# Labels of any kind become 0, 1, … in both parts.
_ANEW = (
    "class_names, new = numpy.unique(numpy.r_[train_labels, test_labels], return_inverse=True); "
    "train_labels, test_labels = numpy.split(new, [len(train_labels)])"
)


def labels(given: np.ndarray, part: str, length: int) -> np.ndarray:
    """`given`, integers of any size, as [N]; a column [N, 1] is taken, too.

    Raises:
      ValueError: another shape, dtype or length.
    """
    name = f"{part}_labels"
    if given.ndim == 2 and given.shape[1] == 1:
        given = given[:, 0]
    if given.ndim != 1:
        raise ValueError(
            f"{name} has shape {given.shape}; needed: [N] or [N, 1], one label for each image. From one-hot "
            f"rows: {name}.argmax(-1). Several labels for one image cannot be learned here{_ones(given)}"
        )
    if given.dtype.kind not in "iu":  # durations are a kind of integer to NumPy
        raise ValueError(
            f"{name} has dtype {given.dtype}; needed: integers 0 .. classes - 1. From names or other "
            f"numbers: {_ANEW}"
        )
    if len(given) != length:
        raise ValueError(f"{name} has {len(given)} entries for {length} {part}_images")
    return given


def _ones(rows: np.ndarray) -> str:
    if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "biuf":
        return ""
    most = int((rows != 0).sum(1).max())
    return f": one row here has {most} that are not 0" if most > 1 else ""


def count_classes(labels: Mapping[str, np.ndarray], class_names: Sequence[str]) -> int:
    """The number of classes: of the names, else the largest training label + 1.

    Raises:
      ValueError: a label is outside 0 .. classes - 1; or there are no names, and a label below the largest
        has no training image.
    """
    present = np.unique(labels["train"])
    low, high, count = int(present[0]), int(present[-1]), len(present)
    number = len(class_names) or high + 1
    found = f"train_labels has {count:,} different labels in {low} .. {high}"
    if low < 0 or high >= number:
        too_few = class_names and count > number
        remedy = "Save a name for every class" if too_few else _counted_from_0(present)
        raise ValueError(f"{_outside(labels['train'], 'train', number, class_names)}; {found}. {remedy}")
    if not class_names and count < number:
        missing = next(label for label in range(number) if label >= count or present[label] != label)
        raise ValueError(
            f"{found}, so {number - count:,} of the classes 0 .. {high} have no training image, e.g. "
            f"{missing}. {_counted_from_0(present)}. If there are such classes, save class_names with "
            f"{number:,} names, too"
        )
    if labels["test"].min() < 0 or labels["test"].max() >= number:
        raise ValueError(
            f"{_outside(labels['test'], 'test', number, class_names)}; {found}. Remove these test images, or "
            "save class_names for all classes"
        )
    return number


def _outside(given: np.ndarray, part: str, number: int, class_names: Sequence[str]) -> str:
    bad = np.flatnonzero((given < 0) | (given >= number))
    why = "the number of class_names" if class_names else "the largest training label + 1"
    return (
        f"{part}_labels[{bad[0]}] is {given[bad[0]]}, one of {len(bad):,} outside 0..{number - 1}: there are "
        f"{number:,} classes ({why}), counted from 0"
    )


def _counted_from_0(present: np.ndarray) -> str:
    """How training labels that are the sorted numbers `present` become 0, 1, …"""
    numbers = [int(number) for number in present]
    if _consecutive(numbers) and numbers[0] != -1:
        shift = f"- {numbers[0]}" if numbers[0] > 0 else f"+ {-numbers[0]}"
        return f"Count from 0: train_labels = train_labels {shift}; test_labels = test_labels {shift}"
    # A number beside the others often stands for "no label".
    alone = -1 if numbers[0] == -1 else numbers[-1] if _consecutive(numbers[:-1]) else None
    if alone is None:
        return f"Number the classes anew: {_ANEW}"
    return (
        f"If {alone} marks images without a label, leave them out: kept = train_labels != {alone}; "
        "train_images, train_labels = train_images[kept], train_labels[kept]; and so for test. Else number "
        f"the classes anew: {_ANEW}"
    )


def _consecutive(numbers: Sequence[int]) -> bool:
    return bool(numbers) and numbers[-1] - numbers[0] + 1 == len(numbers)
