"""Damages real files at random and reads them: the result is right, or one error of a known kind.

::

    python tests/fuzz_files.py --mutations=1000 --seed=0 --kinds=zip,npz

Each file is read in a process of its own, with a limit on its memory and on its processor time. Mutation
``n`` of a kind is the same in every run with the same seed. ``test_fuzz.py`` runs some; what was found is in
``test_fuzz_found.py``.
"""

import argparse
import collections
import io
import json
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from PIL import Image
from torch_pickles import chain, tensor, torch_pickle, zip_file

from resjax import config as configs
from resjax.data.decode import center_crop, opened
from resjax.data.npz import KEYS, read_npz
from resjax.pretrained import read
from resjax.pretrained.reading.files import read_checkpoint
from resjax.workdir.records import Records
from resjax.workdir.workdir import read_starts

SECONDS, BYTES = 20, 1 << 29  # of the processor, and of memory above that of this program
REFUSED = (ValueError, FileNotFoundError)
DATA = Path(__file__).parent / "data"
SIZES = [0, 1, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]


class Kind(NamedTuple):
    """A kind of file."""

    name: str  # of the file, in an otherwise empty folder
    make: Callable[[Path], None]
    read: Callable[[Path], Any]  # the result, which must be right; raises AssertionError if it is not


def resnet() -> dict[str, np.ndarray]:
    """Tensors with the names of a small ResNet."""
    rng = np.random.default_rng(0)
    tensors = {}

    def conv(name: str, *shape: int) -> None:
        tensors[f"{name}.weight"] = rng.normal(size=shape).astype(np.float32)

    def norm(name: str, width: int) -> None:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{name}.{leaf}"] = rng.random(width, np.float32) + 1

    conv("conv1", 4, 3, 3, 3)
    norm("bn1", 4)
    for stage, width in ((1, 4), (2, 8)):
        for j in (1, 2):
            conv(f"layer{stage}.0.conv{j}", width, 4 if j == 1 else width, 3, 3)
            norm(f"layer{stage}.0.bn{j}", width)
    conv("linear", 10, 8)
    return tensors


def _tensors(path: Path) -> None:
    found = read_checkpoint(path)
    total = 0
    for name in found.tensors:
        assert len(name) <= 500 and name.isprintable()
        try:
            total += found.tensors[name].nbytes
        except ValueError as error:
            message(error)
    assert total <= 16 * path.stat().st_size + 2**26
    json.dumps(found.values)


def _zip(path: Path) -> None:
    """Members with checksums have the numbers that were saved."""
    _tensors(path)
    found = read_checkpoint(path).tensors
    with zipfile.ZipFile(path) as archive:
        checked = all(info.CRC for info in archive.infolist())
    for name in set(found) & {"w"} if checked else ():
        try:
            array = found[name]
        except ValueError:
            continue
        # The pickle of another tensor may have been packed anew, but not other numbers.
        assert np.isin(array, np.arange(60)).all()


def _safetensors(path: Path) -> None:
    found = read_checkpoint(path).tensors
    for name, array in safetensors.numpy.load_file(path).items():
        np.testing.assert_array_equal(found[name], array)


def _network(path: Path) -> None:
    source = read(path)
    assert source.layout.num_classes < 10_000 and source.prefix is not None


def _npz(path: Path) -> None:
    arrays, names = read_npz(str(path))
    with np.load(path) as whole:
        for key in KEYS:
            np.testing.assert_array_equal(arrays[key], whole[key])
    assert len(names) <= 100_000


def _picture(path: Path) -> None:
    with opened(path.read_bytes(), str(path)) as image:
        array = center_crop(image, 8)
    assert array.shape == (8, 8, 3) and array.dtype == np.uint8


def _records(path: Path) -> None:
    lines = path.read_bytes().split(b"\n")
    records = list(Records(path))
    whole = [json.loads(line) for line in lines if _is_record(line)]
    assert [record for record in records if record in whole] == whole
    for record in records:  # of a line with damaged norms, the rest
        assert record in whole or ("norms" not in record and "step" in record)


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and type(record.get("step")) is int


def _chain() -> bytes:
    whole = chain(torch_pickle({"w": tensor("0", 60, 3, (4, 3), (3, 1)), "acc": 61.5}))
    end = pickle.dumps(["0"], 2) + (60).to_bytes(8, "little") + np.arange(60, dtype="<f4").tobytes()
    return whole.removesuffix(pickle.dumps([], 2)) + end


def _arrays(path: Path, save: Callable[..., None]) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (8, 5, 5, 3), np.uint8)
    labels = np.arange(8) % 2
    values = dict(zip(KEYS, (images, labels, images, labels), strict=True))
    save(path, **values, class_names=np.array(["cat", "dog"]))


def _image(path: Path) -> None:
    levels = np.arange(20 * 16 * 3, dtype=np.uint8).reshape(20, 16, 3)
    Image.fromarray(levels).save(path)


def _workdir_config(path: Path) -> None:
    path.write_text(configs.to_json(configs.load_file("digits")))


RECORD = {"loss": 0.5, "norms": {"a": {"b": 1.0}}}
START = {
    "date": "2026-01-01", "command": "train", "device": "cpu", "device_count": 1, "machine": "x",
    "commit": None,
}  # fmt: skip
KINDS = {
    "zip": Kind("x.pth", lambda p: zip_file(p, (3, (4, 3), (3, 1)), range(60), acc=61.5), _zip),
    "pytorch": Kind("x.pth", lambda p: p.write_bytes((DATA / "pretrained_zip.pth").read_bytes()), _tensors),
    "legacy": Kind("x.th", lambda p: p.write_bytes((DATA / "pretrained_legacy.th").read_bytes()), _tensors),
    "chain": Kind("x.th", lambda p: p.write_bytes(_chain()), _tensors),
    "pickle": Kind("x.pkl", lambda p: p.write_bytes(pickle.dumps(resnet())), _tensors),
    "safetensors": Kind("x.st", lambda p: safetensors.numpy.save_file(resnet(), p), _safetensors),
    "network": Kind("x.st", lambda p: safetensors.numpy.save_file(resnet(), p), _network),
    "arrays": Kind("x.npz", lambda p: np.savez(p, **resnet()), _tensors),
    "npz": Kind("x.npz", lambda p: _arrays(p, np.savez), _npz),
    "deflated": Kind("x.npz", lambda p: _arrays(p, np.savez_compressed), _npz),
    "png": Kind("x.png", _image, _picture),
    "gif": Kind("x.gif", _image, _picture),
    "jpg": Kind("x.jpg", _image, _picture),
    "tif": Kind("x.tif", _image, _picture),
    "webp": Kind("x.webp", _image, _picture),
    "config": Kind("config.json", _workdir_config, lambda p: configs.load(p.parent)),
    "runs": Kind("runs.json", lambda p: p.write_text(json.dumps([START])), lambda p: read_starts(p.parent)),
    "metrics": Kind(
        "metrics.jsonl",
        lambda p: p.write_text("".join(f"{json.dumps({'step': n} | RECORD)}\n" for n in range(9))),
        _records,
    ),
    "index": Kind(
        "x.index.json", lambda p: p.write_text('{"weight_map": {"a": "1.st", "b": "2.st"}}'), read_checkpoint
    ),
}  # fmt: skip


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """``content`` with one to four changes; in archives and tables, also with lengths and sums that fit."""
    if content[:2] == b"PK" and rng.random() < 0.5:
        return _packed_anew(content, rng)
    if content[8:9] == b"{" and rng.random() < 0.7:
        end = 8 + int.from_bytes(content[:8], "little")
        table = bytearray(content[8:end])
        _change(table, rng)
        return len(table).to_bytes(8, "little") + table + content[end:]
    data = bytearray(content)
    for _ in range(1 if rng.random() < 0.6 else rng.integers(2, 5)):
        _change(data, rng)
    return bytes(data)


def _packed_anew(content: bytes, rng: np.random.Generator) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        infos = old.infolist()
        changed = rng.integers(len(infos))
        for i, info in enumerate(infos):
            member = bytearray(old.read(info))
            if i == changed and not info.filename.endswith("data/0"):
                _change(member, rng)
            kind = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else info.compress_type
            new.writestr(info.filename, bytes(member), kind)
    return made.getvalue()


def _change(data: bytearray, rng: np.random.Generator) -> None:
    place = (
        int(rng.integers(len(data) + 1)) if rng.random() < 0.5 else int(min(rng.geometric(0.01), len(data)))
    )
    length = int(2 ** rng.integers(0, 9))
    size = SIZES[rng.integers(len(SIZES))]
    match rng.integers(9):
        case 0:
            data[place : place + 1] = bytes([rng.integers(256)])
        case 1:
            for i in range(place, min(place + 1, len(data))):
                data[i] ^= 1 << rng.integers(8)
        case 2:
            width = int(rng.choice([1, 2, 4, 8]))
            order = "little" if rng.random() < 0.8 else "big"
            data[place : place + width] = (size % 256**width).to_bytes(width, order)
        case 3:
            del data[place : place + length]
        case 4:
            data[place:place] = data[place : place + length] * int(rng.integers(1, 5))
        case 5:
            data[place:place] = rng.bytes(length)
        case 6:
            del data[place:]
        case 7:
            other = int(rng.integers(len(data) + 1))
            data[place : place + length] = data[other : other + length]
        case _:  # a number in a text
            digits = [i for i in range(len(data)) if 48 <= data[i] < 58]
            if digits:
                i = digits[rng.integers(len(digits))]
                data[i : i + 1] = str(size if rng.random() < 0.7 else -1).encode()


def message(error: Exception) -> None:
    """Raises AssertionError if an error is no message for a user."""
    text = str(error)
    assert text and len(text) < 12_000, f"a message of {len(text)} characters"
    assert "\x1b" not in text and "Traceback" not in text, text


def outcome(kind: Kind, path: Path) -> str:
    """ "whole", "refused", or what is wrong."""
    try:
        kind.read(path)
        return "whole"
    except REFUSED as error:
        try:
            message(error)
        except AssertionError as wrong:
            return f"message: {wrong}"
        return "refused"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:500]


def limited(kind: Kind, path: Path) -> str:
    """``outcome`` in a process of its own."""
    receiving, sending = os.pipe()
    if not (child := os.fork()):
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + BYTES, now + BYTES))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        os.write(sending, outcome(kind, path).encode("utf-8", "replace"))
        os._exit(0)
    os.close(sending)
    with open(receiving, "rb") as file:
        text = file.read().decode("utf-8", "replace")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}: SIGPROF is the end of {SECONDS} s"
    return text


def run(names: list[str], mutations: int, seed: int, keep: Path) -> dict[str, collections.Counter[str]]:
    """Reads ``mutations`` files of each kind; files of wrong outcomes are kept."""
    counts: dict[str, collections.Counter[str]] = {}
    for name in names:
        kind, counts[name] = KINDS[name], collections.Counter()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / kind.name
            kind.make(path)
            content = path.read_bytes()
            assert (found := outcome(kind, path)) == "whole" or name == "index", found
            for n in range(mutations):
                rng = np.random.default_rng([seed, list(KINDS).index(name), n])
                path.write_bytes(mutated(content, rng))
                found = limited(kind, path)
                counts[name][found if found in ("whole", "refused") else "wrong"] += 1
                if found not in ("whole", "refused"):
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{name}-{seed}-{n}-{kind.name}").write_bytes(path.read_bytes())
                    print(f"{name} {seed} {n}: {found}", flush=True)
        print(name, dict(counts[name]), flush=True)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help="separated by commas")
    parser.add_argument("--keep", default="fuzz_found", help="folder for the files with wrong outcomes")
    given = parser.parse_args()
    start = time.monotonic()
    counts = run(given.kinds.split(","), given.mutations, given.seed, Path(given.keep))
    total = sum(sum(count.values()) for count in counts.values())
    wrong = sum(count["wrong"] for count in counts.values())
    print(f"{total:,} mutations, {wrong} wrong, {time.monotonic() - start:.0f} s")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
