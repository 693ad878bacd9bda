"""Prepares a data set with tensorflow-datasets (TFDS), without TensorFlow.

    python -m resjax.data.prepare cifar10 [--data_dir=DIR] [--source=FOLDER]

Without --source the original files are downloaded from the addresses registered in TFDS; with it they are
read from FOLDER by name. In both cases their size and SHA-256 must be those registered in TFDS. The result
has TFDS's layout in array_record files, which the stock `tfds.builder(NAME, data_dir=DIR).as_data_source()`
reads too. It is written to a temporary folder and renamed at the end, so an interrupted preparation is never
mistaken for a prepared set.

The sets are mnist, fashion_mnist, cifar10, cifar100, svhn_cropped (with its "extra" split, as in TFDS),
imagenette (also /320px-v2 and /160px-v2) and imagenet2012, whose two archives must be downloaded manually
from image-net.org and passed with --source. For cifar10, FOLDER may also hold the six unpacked .bin files.
"""

import argparse
import hashlib
import os
import pathlib
import shlex
from typing import Any, NamedTuple, NoReturn

import rich.progress

from resjax.command import Misuse, in_one_line
from resjax.data import originals, tfds
from resjax.data.config import SMALL, STREAMED
from resjax.data.files import open_regular
from resjax.spelling import nearest

NAMES = (*(name for name in SMALL if name != "digits"), *STREAMED)


class FileFacts(NamedTuple):
    """An original file; `url` is '' where it cannot be downloaded."""

    url: str
    size: int
    sha256: str


# The members of cifar-10-binary.tar.gz that hold images; 30,730,000 bytes each.
_CIFAR10_UNPACKED = {
    f"{name}.bin": FileFacts("", 30_730_000, sha256)
    for name, sha256 in {
        "data_batch_1": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    }.items()
}


def prepare(name: str, data_dir: str = "", source: str = "") -> pathlib.Path:
    """Prepares a set of NAMES, unless it is prepared already; returns the folder of the prepared version.

    `data_dir` is as `config.data.data_dir`, `source` the folder of the original files; '' = download them.

    Raises:
      ValueError: an unknown name, a file that is not the original, a failed download, or an environment that
        lacks packages that TFDS needs; the message of the last has a command for another environment.
      FileNotFoundError: an original file is missing, or the set exists as TFRecord only.
    """
    if name not in NAMES:
        near = nearest(name, NAMES)
        hint = f". Did you mean {near}?" if near else ""
        raise Misuse(f"name={name!r}: choose one of {', '.join(NAMES)} (digits needs nothing){hint}")
    root = tfds.data_root(data_dir)
    try:
        builder = tfds.library().builder(tfds.tfds_name(name), data_dir=root)
        if pathlib.Path(builder.data_path).exists():
            return tfds.prepared(name, str(root))
        paths = _found(builder, name, source) if source or name == "imagenet2012" else None
        _override(builder, name, paths)
        download = tfds.library().download
        builder.download_and_prepare(
            file_format="array_record",
            download_config=download.DownloadConfig(try_download_gcs=False),
        )
    except ImportError as error:
        raise ValueError(
            f"{name} cannot be prepared in this environment ({error}). With TensorFlow, in "
            f"a separate environment:\n  {isolated_prepare(name, root, source)}"
        ) from error
    return tfds.prepared(name, str(root))


def isolated_prepare(name: str, root: pathlib.Path, source: str) -> str:
    """The shell command that prepares a set with TensorFlow in another environment."""
    manual = f", manual_dir={str(pathlib.Path(source).absolute())!r}" if source else ""
    code = (
        "import tensorflow_datasets as tfds; "
        f"tfds.builder({tfds.tfds_name(name)!r}, data_dir={str(root)!r}).download_and_prepare("
        "file_format='array_record', download_config=tfds.download.DownloadConfig("
        f"try_download_gcs=False{manual}))"
    )
    return f"{tfds.isolated_environment()} && $V/bin/python -c {shlex.quote(code)}"


def registered(builder: Any, name: str) -> dict[str, FileFacts]:
    """The original files of a set, {name: facts}, as registered in TFDS."""
    facts = {
        info.filename or url.rsplit("/", 1)[-1]: FileFacts(url, int(info.size), info.checksum)
        for url, info in builder.url_infos.items()
    }
    if name.startswith("imagenette"):
        archive = f"{builder.builder_config.dirname}.tgz"
        return {archive: facts[archive]}
    return facts


def _override(builder: Any, name: str, paths: originals.Paths | None) -> None:
    """Replaces the steps of a TFDS builder that need TensorFlow.

    They are replaced on the object, because a second builder class of the same name cannot be registered.
    """
    base = name.split("/")[0]

    def split_generators(dl_manager: Any) -> originals.Splits:
        files = _downloaded(builder, name, dl_manager) if paths is None else paths
        for feature, names in originals.label_names(base, files).items():
            builder.info.features[feature].names = names
        return originals.SPLITS[base](files)

    builder._split_generators = split_generators


def _downloaded(builder: Any, name: str, dl_manager: Any) -> dict[str, pathlib.Path]:
    """The original files, downloaded and checked by TFDS."""
    urls = {file: facts.url for file, facts in registered(builder, name).items()}
    download = tfds.library().download
    failures = (OSError, download.DownloadError, download.download_manager.NonMatchingChecksumError)
    try:
        return {file: pathlib.Path(path) for file, path in dl_manager.download(urls).items()}
    except failures as error:
        raise ValueError(
            f"the original files of {name} could not be downloaded ({error}). Fetch them in another "
            f"way and give their folder with --source=FOLDER: {', '.join(urls.values())}"
        ) from error


def _found(builder: Any, name: str, source: str) -> dict[str, pathlib.Path]:
    """The original files in a folder, each checked against the registered size and SHA-256."""
    needed = registered(builder, name)
    if not source:
        raise FileNotFoundError(
            f"{name} cannot be downloaded by a program. Register at https://image-net.org, fetch "
            f"{' and '.join(needed)}, and give their folder: --source=FOLDER"
        )
    folder = pathlib.Path(source).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"--source={source}: no such folder")
    unpacked = any((folder / file).exists() for file in _CIFAR10_UNPACKED)
    if name == "cifar10" and unpacked and not (folder / "cifar-10-binary.tar.gz").exists():
        needed = _CIFAR10_UNPACKED
    missing = [file for file in needed if not (folder / file).exists()]
    if missing:
        present = ", ".join(sorted(child.name for child in folder.iterdir())[:20]) or "nothing"
        raise FileNotFoundError(
            f"--source={source} lacks {', '.join(missing)} (it holds {present}). Without --source "
            "the files are downloaded"
        )
    paths = {file: folder / file for file in needed}
    for file, path in paths.items():
        digest = hashlib.sha256()
        with open_regular(path) as opened:
            size = os.fstat(opened.fileno()).st_size
            with rich.progress.wrap_file(opened, size, description=f"Checking {file}") as shown:
                while block := shown.read(2**20):
                    digest.update(block)
        sha256, facts = digest.hexdigest(), needed[file]
        if (size, sha256) != (facts.size, facts.sha256):
            raise ValueError(
                f"{path} is not the original: {size:,} bytes with SHA-256 {sha256}, expected "
                f"{facts.size:,} bytes with SHA-256 {facts.sha256}. Fetch it again"
            )
    return paths


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Ends with one line."""
        self.exit(2, f"error: {message}\n")


def main(arguments: list[str] | None = None) -> None:
    """The command line; an error ends it as ``resjax.command.in_one_line`` says."""
    parser = _Parser(
        prog="python -m resjax.data.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help=", ".join(NAMES))
    parser.add_argument("--data_dir", default="", help="default: $TFDS_DATA_DIR, else ~/tensorflow_datasets")
    parser.add_argument("--source", default="", help="folder of the original files")
    flags, unknown = parser.parse_known_args(arguments)
    for argument in unknown:
        near = nearest(argument.partition("=")[0], ("--data_dir", "--source"))
        hint = f" Did you mean {near}?" if near else ""
        parser.error(f"{argument}: there is no such argument.{hint} See --help")
    with in_one_line(f"{flags.name} was prepared"):
        path = prepare(flags.name, flags.data_dir, flags.source)
    print(f"{flags.name} is prepared in {path}")
    for rest in sorted(path.parent.glob("incomplete.*")):  # TFDS's name for its temporary folder
        print(
            f"{rest} is left of a preparation that was killed, unless another one is running; "
            f"remove it: rm -r {shlex.quote(str(rest))}"
        )


if __name__ == "__main__":
    main()
