"""Files and folders: what is no checkpoint is named, and the one checkpoint of a folder is taken."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_pickles import archive, chain, tensor, torch_pickle, zip_file

from resjax.pretrained.reading.files import read_checkpoint, sha256, size

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 102530333\n"
PAGE = b"\n<!DOCTYPE html><html><head><title>resnet.pth at main</title></head></html>"


def zipped(*names):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as opened:
        for name in names:
            opened.writestr(name, b"")
    return made.getvalue()


def tarred():
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as opened:
        opened.addfile(tarfile.TarInfo("a"))
    return made.getvalue()


def npz():
    made = io.BytesIO()
    np.savez(made, a=np.array([{}]))
    return made.getvalue()


JAX = r".*python -m resjax\.analyze --network=MODULE:FUNCTION"
DOWNLOAD = ".*download it again"


KERAS = zipped("metadata.json", "config.json", "model.weights.h5")
SCRIPT = zipped("x/data.pkl", "x/constants.pkl", "x/code/a.py")
DENIED = b"<?xml version='1.0'?><Error><Message>Access Denied</Message></Error>"
INDEX = b"\0\0\x06" + bytes.fromhex("57fb808b247547db")


GZIPPED = gzip.compress(b"a", mtime=0)  # without the time, which would be in the names of cases


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.pth", b"", rf"is empty \(0 bytes\): {DOWNLOAD[2:]}"),
        ("x.pth", LFS, r"is a Git LFS pointer, .* of 102,530,333 bytes .*cd .* && git lfs pull"),
        ("x.pth", PAGE, r"is a web page \('resnet\.pth at main'\).*raw file"),
        ("x.pth", DENIED, "'Access Denied'"),
        ("x.json", b'{"error": "Repository not found"}', r"is JSON \(error\)"),
        ("x.pth", b"404: Not Found", "is a text file that begins with '404: Not Found'"),
        ("x.pth", "wie groß\n".encode(), "is a text file that begins with 'wie groß'"),
        ("x.pth", "text".encode("utf-16"), "is a text file that begins with 'text'"),
        ("x.h5", b"\x89HDF\r\n\x1a\n" + bytes(9), rf"is HDF5, as Keras .*{JAX}"),
        ("x.keras", KERAS, rf"is a Keras model{JAX}"),
        ("x.msgpack", b"\x81\xa6params\x81\xa1w\xc4\x01a", rf"is msgpack, as Flax .*{JAX}"),
        ("x.msgpack", b"\xde\x00\x10\xa6params\x81\xa1w\xc4\x01a", "is msgpack"),
        ("x.onnx", b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\x01a", r"is an ONNX model.*the state_dict\(\)"),
        ("x.tflite", b"\x1c\0\0\0TFL3\x14\0", rf"is a TensorFlow Lite model{JAX}"),
        ("saved_model.pb", b"\x08\x01\x12\x9c", rf"is a TensorFlow model{JAX}"),
        ("frozen.pb", b"\n\x10\n\x05input", rf"is a TensorFlow model{JAX}"),
        ("model.ckpt-1.index", INDEX, f"a TensorFlow checkpoint{JAX}"),
        ("m.ckpt.data-00000-of-00001", b"\x99\xfe\x01" * 9, rf"is a part of a TensorFlow checkpoint{JAX}"),
        ("x.caffemodel", b"\n\x09ResNet-50", rf"is a Caffe model{JAX}"),
        ("x.params", struct.pack("<QQ", 0x112, 0), rf"is a file of MXNet{JAX}"),
        ("x.gguf", b"GGUF\3\0\0\0", "is GGUF"),
        ("x.npy", b"\x93NUMPY\x01\0", "is a single NumPy array"),
        ("x.npz", npz(), "a has dtype object, and Python objects are not read; save arrays of numbers"),
        ("x.mat", b"MATLAB 5.0 MAT-file", "is a file of MATLAB"),
        ("x.pth.gz", GZIPPED, r"is compressed \(gzip\): .*: gunzip -k .*x\.pth\.gz$"),
        ("a b.tar.gz", GZIPPED, r"a compressed tar archive: .*: tar -xf '.*a b\.tar\.gz'$"),
        ("x.tar", tarred(), r"is a tar archive: unpack it .*: tar -xf .*x\.tar$"),
        ("__0_0.distcp", torch_pickle({"w": 1}), "is a part of a distributed checkpoint.*\n.*dcp_to_torch"),
        ("x.7z", b"7z\xbc\xaf\x27\x1c\0", "is a 7z archive: unpack it"),
        ("x.zip", zipped("models/resnet.pth", "a.txt"), r"models/resnet\.pth: unpack it .*: unzip .*x\.zip$"),
        ("x.zip", zipped("a.txt"), r"is a zip archive, no PyTorch checkpoint, of a\.txt"),
        ("x.png", b"\x89PNG\r\n\x1a\n", "is a picture"),
        ("x.pth.part", b"PK\x03\x04aaaa", r"a download that has not finished \(8 bytes"),
        ("x.pth.crdownload", b"PK\x03\x04aaaa", "a download that has not finished"),
        ("x.pth", bytes(5000), r"a download that has not finished \(5,000 bytes"),
        ("x.pth", b"PK\x03\x04" + b"aaaa" * 9, r"is cut short at 40 bytes: download or save it again"),
        ("x.bin", b"\xfe\xdc\xba\x98" * 4, "of an unknown format .*fe dc ba 98"),
        ("x.pt", SCRIPT, r"is TorchScript.*state_dict\(\).*\n.*jit\.load"),
        ("x.safetensors", struct.pack("<Q", 20) + b"{" + b"x" * 30, rf"damaged safetensors{DOWNLOAD}"),
        ("x.safetensors", struct.pack("<Q", 4000) + b'{"a":', rf"cut short at 13 bytes{DOWNLOAD}"),
        ("x.pth", chain({"a": 1})[:-40], r"cut short at \d+ bytes; download"),
        ("x.pkl", pickle.dumps([1, 2]), "holds no tensors, so no network; it holds: a list"),
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s){message}") as refused:
        read_checkpoint(path)
    assert str(refused.value).startswith(f"{path}") and str(refused.value).count("\n") <= 1


def test_a_file_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zip_file(tmp_path / "resnet20.pth", (0, (2,), (1,)), [1, 2])
    (tmp_path / "link.pth").symlink_to("blobs/gone")
    for given, message in (
        ("resnet20.pht", r"resnet20\.pht: there is no such file; similar names in .*: resnet20\.pth"),
        ("link.pth", r"it is a link to blobs/gone, which is missing"),
        ("https://host/x.pth", "It is an address: download"),
        ("other", rf"there is no such file \({tmp_path}/other\)"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            read_checkpoint(given)


@pytest.mark.parametrize("given", ["x.pth", ""])
def test_a_pipe_is_refused_before_it_is_opened(tmp_path, given):
    os.mkfifo(tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth is a pipe, not a file: save what comes"):
        read_checkpoint(tmp_path / given)


# --- folders ---

W = {"w": np.arange(3, dtype=np.float32)}


def safe(path, tensors=W):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["only.safetensors"], "only.safetensors"),
        (["only.pth"], "only.pth"),
        (["version_0/checkpoints/epoch=9.ckpt"], "version_0/checkpoints/epoch=9.ckpt"),
        (["model.safetensors", "pytorch_model.bin", "checkpoint-5/model.safetensors"], "model.safetensors"),
        (["pytorch_model.bin", "optimizer.pt"], "pytorch_model.bin"),
        (["snapshots/1f3a/model.safetensors"], "snapshots/1f3a/model.safetensors"),
    ],
)
def test_the_one_checkpoint_of_a_folder_is_taken(tmp_path, names, taken):
    for name in names:
        path = tmp_path / name
        safe(path)
        if not name.endswith(".safetensors"):
            zip_file(path, (0, (3,), (1,)), range(3))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "training_args.pt").write_bytes(LFS)
    found = read_checkpoint(tmp_path)
    assert found.path == tmp_path / taken
    np.testing.assert_array_equal(found.tensors["w"], W["w"])


def test_several_checkpoints_of_a_folder_are_listed(tmp_path):
    safe(tmp_path / "run/best.safetensors")
    zip_file(tmp_path / "run/last.pth", (0, (3,), (1,)), range(3))
    with pytest.raises(ValueError) as refused:
        read_checkpoint(tmp_path / "run")
    lines = str(refused.value).splitlines()
    assert lines[0] == f"{tmp_path}/run holds 2 checkpoints; give one of them as FILE:"
    assert lines[1].startswith(f"  {tmp_path}/run/best.safetensors  (") and lines[1].endswith(" bytes)")
    assert lines[2].startswith(f"  {tmp_path}/run/last.pth  (")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no checkpoint of safetensors or torch.save. It holds: nothing"),
        ({"a.txt": "", "b/c.txt": ""}, r"It holds: a\.txt, b/\. Give the file itself"),
        ({"resnet.pth": LFS}, r"resnet\.pth is a Git LFS pointer.*git lfs pull"),
        ({"config.json": "", "runs.json": "", "checkpoints/1": ""}, "a workdir of resjax already.*analyze"),
        ({"saved_model.pb": "", "variables/variables.index": ""}, f"holds a TensorFlow model{JAX}"),
        ({"checkpoint": "", "model.ckpt-1.index": ""}, f"holds a TensorFlow model{JAX}"),
        ({"_METADATA": "", "manifest.ocdbt": ""}, f"is a checkpoint of Orbax.*{JAX}"),
        ({".metadata": "", "__0_0.distcp": ""}, "distributed checkpoint.*dcp_to_torch '.*' weights"),
        ({"zero_to_fp32.py": "", "latest": ""}, r"checkpoint of DeepSpeed.*\n.*python zero_to_fp32\.py"),
        ({"data.pkl": "", "data/0": "", "version": ""}, r"unpacked PyTorch file.*zip -0 -r 'a b'\.pth 'a b'"),
    ],
)  # fmt: skip
def test_a_folder_without_a_checkpoint_says_what_it_is(tmp_path, files, message):
    folder = tmp_path / "a b"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"(?s){message}"):
        read_checkpoint(folder)


# --- shards ---


@pytest.fixture
def sharded(tmp_path):
    """A folder of two shards with its index, as Hugging Face saves large networks."""
    safe(tmp_path / "model-00001-of-00002.safetensors", W)
    safe(tmp_path / "model-00002-of-00002.safetensors", {"b": W["w"] + 5})
    places = {"w": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return tmp_path


@pytest.mark.parametrize("given", ["", "model.safetensors.index.json"])
def test_shards_are_read_as_one(sharded, given):
    found = read_checkpoint(sharded / given)
    assert list(found.tensors) == ["w", "b"]
    np.testing.assert_array_equal(found.tensors["w"], [0, 1, 2])
    np.testing.assert_array_equal(found.tensors["b"], [5, 6, 7])


def test_the_checksum_and_size_of_shards_are_those_of_their_bytes(sharded):
    index, whole = sharded / "model.safetensors.index.json", sharded / "whole"
    whole.write_bytes(b"".join(path.read_bytes() for path in sorted(sharded.glob("*.safetensors"))))
    assert sha256(index) == sha256(whole) and size(index) == size(whole)


def test_shards_of_torch_save(tmp_path):
    places = {}
    for n, name in enumerate("ab"):
        raw = torch_pickle({name: tensor("0", 2, 0, (2,), (1,))})
        places[name] = archive(tmp_path / f"pytorch_model-{n}.bin", raw, {"0": [n, n]}).name
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    tensors = read_checkpoint(tmp_path).tensors
    np.testing.assert_array_equal(tensors["a"], [0, 0])
    np.testing.assert_array_equal(tensors["b"], [1, 1])


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('{"weight_map": {"w": "gone.safetensors"}}', FileNotFoundError, r"1 are missing: gone\.safetensors"),
        (
            '{"weight_map": {"x": "model-00001-of-00002.safetensors"}}',
            ValueError,
            "holds 'x', and it does not",
        ),
        ('{"weight_map": {"w": "../other.safetensors"}}', ValueError, "not a file beside it"),
        ('{"weight_map": {"w": "/etc/passwd"}}', ValueError, "not a file beside it"),
        ('{"weight_map": {"w": 3}}', ValueError, "names no files"),
        ('{"weight_map": {}}', ValueError, "names no files"),
        ('{"weight_map": 3}', ValueError, "is no index of shards"),
        ("{}", ValueError, "is no index of shards"),
        ("{", ValueError, "is no index of shards"),
        (LFS.decode(), ValueError, "is a Git LFS pointer"),
    ],
)
def test_an_index_that_is_wrong_is_refused(sharded, text, error, message):
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(error, match=message):
        read_checkpoint(sharded)
