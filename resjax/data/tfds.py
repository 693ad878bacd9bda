"""Reading sets prepared by tensorflow-datasets (TFDS), without TensorFlow.

TFDS stores a prepared set in `data_dir/name[/variant]/version` as a few array_record files, with its features
and splits in JSON. Examples are read by number, in any order. Nothing here downloads; `python -m
resjax.data.prepare` does.
"""

import os
import pathlib
import re
import shlex
import threading
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import numpy as np

from resjax.data.decode import opened
from resjax.data.files import check_regular, read_json
from resjax.data.info import TABLE
from resjax.data.pixels import is_grey, shown

# TFDS's names where ours omit the variant.
_VARIANTS = {"imagenette": "imagenette/full-size-v2"}
# The split used for evaluation, where it is not "test". (ImageNet's test split has no labels.)
_TEST_SPLITS = {"imagenet2012": "validation", "imagenette": "validation"}
_FEATURES = "tensorflow_datasets.core.features."  # the package of TFDS's own classes of features
_CHUNK = 1000  # records read at once
# A worker reads with several threads, and two that import TFDS concurrently can deadlock: its lazy imports
# hold a second lock besides Python's.
_OPENING = threading.Lock()


def library() -> Any:
    """The tensorflow_datasets module, imported when first needed (0.6 s)."""
    import tensorflow_datasets

    return tensorflow_datasets


def tfds_name(name: str) -> str:
    """TFDS's name of `config.data.name`."""
    return _VARIANTS.get(name, name)


def data_root(data_dir: str) -> pathlib.Path:
    """The folder of prepared sets: `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(chosen).expanduser().absolute()


def prepared(name: str, data_dir: str) -> pathlib.Path:
    """The folder of the newest prepared version of a set; `VERSION.incomplete...` is not a version.

    Raises:
      FileNotFoundError: there is none, or only TFRecord files, which cannot be read without TensorFlow;
        the message contains the command that prepares or converts the set.
    """
    root = data_root(data_dir)
    home = root / tfds_name(name)
    versions = [
        info.parent
        for info in home.glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
    ]
    versions.sort(key=lambda version: tuple(map(int, version.name.split("."))))
    command = f"python -m resjax.data.prepare {name} --data_dir={shlex.quote(str(root))}"
    if not versions:
        raise FileNotFoundError(
            f"{name} is not prepared in {root} (looked for {home}/VERSION/dataset_info.json). "
            f"Prepare it with\n  {command}\n"
            "(with --source=FOLDER if you have the original files), or set data.data_dir to the "
            "folder that has it"
        )
    readable = [version for version in versions if any(version.glob("*.array_record*"))]
    if not readable:
        raise FileNotFoundError(
            f"{versions[-1]} holds no array_record files; TFDS's other formats need TensorFlow. "
            "Convert it in place, with TensorFlow in a separate environment:\n"
            f"  {isolated_convert(versions[-1])}\n"
            f"or prepare it again in another folder:\n  {command}-array_record"
        )
    return readable[-1]


def isolated_environment(*more: str) -> str:
    """Shell commands that create a temporary environment with TensorFlow; its path is in $V."""
    packages = " ".join(("tensorflow", "tensorflow-datasets", "importlib_resources", *more))
    return f"V=$(mktemp -d) && python3 -m venv $V && $V/bin/pip install {packages}"


def isolated_convert(version: pathlib.Path) -> str:
    """The shell command that adds array_record files to a TFRecord version, in another environment."""
    return (
        f"{isolated_environment('apache_beam')} && "
        "$V/bin/python -m tensorflow_datasets.scripts.convert_format "
        f"--dataset_version_dir={shlex.quote(str(version))} --out_file_format=array_record"
    )


class Records:
    """The examples of one split by number: (encoded image, label).

    Files are opened at the first read. Records can be pickled before and after it, for worker processes.
    """

    def __init__(self, name: str, data_dir: str, part: str):
        """`part` is 'train' or 'test', for TFDS's corresponding split.

        Raises:
          FileNotFoundError: the set is not prepared, or some of its files are missing.
        """
        self.path = prepared(name, data_dir)
        self.split = _TEST_SPLITS.get(name.split("/")[0], "test") if part == "test" else "train"
        self._source: Any = None
        splits = self.builder().info.splits
        if self.split not in splits:
            raise FileNotFoundError(
                f"{self.path} has no split {self.split!r}, only {', '.join(splits)}: it was "
                "prepared in part. Delete the folder and prepare it again"
            )
        split = splits[self.split]
        self._length = int(split.num_examples)
        files = [self.path / pathlib.Path(file).name for file in split.filenames]
        gone = [file.name for file in files if "array_record" in file.name and not file.exists()]
        if gone:
            raise FileNotFoundError(
                f"{self.path} lacks {', '.join(gone)}: copied in part? Delete the folder and prepare it again"
            )

    def builder(self) -> Any:
        """TFDS's read-only builder of the prepared folder.

        Raises:
          ValueError: one of its files is a pipe or device, or its features are of classes outside of TFDS,
            which it would import.
        """
        for file in sorted(self.path.iterdir()):
            if not file.is_dir():
                check_regular(file)
        _refuse_code(self.path / "features.json")
        return library().builder_from_directory(self.path)

    def class_names(self) -> tuple[str, ...]:
        """The label names stored with the prepared data."""
        return tuple(self.builder().info.features["label"].names)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: SupportsIndex) -> tuple[bytes, int]:
        return self.read([index.__index__()])[0]

    def read(self, indices: Sequence[int]) -> list[tuple[bytes, int]]:
        """Several examples in one call, which is faster for small examples."""
        if self._source is None:
            with _OPENING:
                if self._source is None:
                    self._source = self._open()
        return [_parse(record) for record in self._source.__getitems__(list(indices))]

    def where(self, index: int) -> str:
        """The record of an example, for messages."""
        return f"{self.path}, {self.split} record {index}"

    def _open(self) -> Any:
        return self.builder().as_data_source(
            self.split,
            # TFDS's own parsing takes twenty times as long as _parse.
            deserialize_method=library().decode.DeserializeMethod.RAW_BYTES,
            file_format="array_record",
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_source": None}


def _refuse_code(features: pathlib.Path) -> None:
    """Raises ValueError if features.json names a class outside of TFDS, FileNotFoundError without it."""
    remedy = "Prepare the set again in another folder"
    try:
        names = set(_classes(read_json(features, dict, remedy)))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{features} does not exist: was the set copied in part? {remedy}") from error
    if outside := sorted(name for name in names if not name.startswith(_FEATURES)):
        raise ValueError(
            f"{features} names the class {ascii(outside[0])[1:-1]}, which is none of TFDS: reading the set "
            f"would import and run its module. {remedy}"
        )


def _classes(feature: Any) -> Iterator[str]:
    """The names of classes in the value of features.json: of the present form, and of that before 2022."""
    if isinstance(feature, list):
        for part in feature:
            yield from _classes(part)
    elif isinstance(feature, dict):
        for key, value in feature.items():
            if key in ("pythonClassName", "python_class_name", "type") and isinstance(value, str):
                yield value
            else:
                yield from _classes(value)


def _parse(record: bytes) -> tuple[bytes, int]:
    """The encoded image and the label of one record, which is a serialized tf.train.Example."""
    from tensorflow_datasets.proto import tf_example_pb2

    feature = tf_example_pb2.Example.FromString(record).features.feature
    return feature["image"].bytes_list.value[0], feature["label"].int64_list.value[0]


def read_arrays(name: str, data_dir: str) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """A whole small set: the arrays named in `npz.KEYS`, and the class names.

    Raises:
      FileNotFoundError: see `prepared`.
      ValueError: a record is not an image of the set's shape.
    """
    shape = TABLE[name].image_shape
    raw: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        records = Records(name, data_dir, part)
        images = np.empty((len(records), *shape), np.uint8)
        labels = np.empty(len(records), np.int32)
        for start in range(0, len(records), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(records)))
            for i, (encoded, label) in zip(chunk, records.read(chunk), strict=True):
                with opened(encoded, records.where(i)) as image:
                    pixels = np.asarray(shown(image, 1 if is_grey(image) else 3))
                if pixels.reshape(*pixels.shape[:2], -1).shape != shape:
                    raise ValueError(
                        f"{records.where(i)}: an image of shape {pixels.shape}, not {shape}; "
                        "prepare the set again"
                    )
                images[i], labels[i] = pixels.reshape(shape), label
        raw[f"{part}_images"], raw[f"{part}_labels"] = images, labels
    return raw, records.class_names()
