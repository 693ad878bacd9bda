"""Preparing the originals of each set, and reading the result with and without our own reader."""

import contextlib
import gzip
import io
import re
import shlex

import numpy as np
import pytest
from data_helpers import (
    accept,
    cifar_rows,
    encoded,
    facts_of,
    images,
    ramp,
    sorted_rows,
    tar_bytes,
    write_idx,
    write_mnist,
    write_tar,
)
from PIL import Image
from scipy.io import savemat

from resjax import data
from resjax.data import originals, prepare, tfds
from resjax.data.arrays import KEYS


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "prepared"


@contextlib.contextmanager
def told(match):
    """A command that ends with this line."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit, match="1"):
        yield
    assert said.getvalue().startswith("error: ") and re.search(match, said.getvalue())


def run(name, root, source):
    prepare.main([name, f"--data_dir={root}", f"--source={source}"])


def load(name, root, **changes):
    config = data.defaults()
    config.update({"name": name, "data_dir": str(root), "workers": 0, **changes})
    return data.load(config)


def stock(name, root, split):
    """The examples as the stock TFDS reader gives them, without anything of ours."""
    builder = tfds.library().builder(name, data_dir=root)
    return list(builder.as_data_source(split))


def assert_reads_back(name, root, raw):
    """Both readers give back exactly the pictures and labels of `raw`."""
    ours = load(name, root)
    for part in ("train", "test"):
        wanted = sorted_rows(raw[f"{part}_images"], raw[f"{part}_labels"])
        examples = stock(name, root, part)
        pictures = np.stack([example["image"] for example in examples])
        labels = np.array([example["label"] for example in examples])
        assert sorted_rows(pictures, labels) == wanted
        # Ours is in the same order as the stock one.
        np.testing.assert_array_equal(getattr(ours, f"{part}_images"), pictures)
        np.testing.assert_array_equal(getattr(ours, f"{part}_labels"), labels)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist(name, source, root, monkeypatch, capsys):
    raw = write_mnist(source)
    accept(monkeypatch, source)
    run(name, root, source)
    assert f"{name} is prepared in {root}" in capsys.readouterr().out
    assert_reads_back(name, root, raw)


def test_what_a_killed_preparation_left_is_named(source, root, monkeypatch, capsys):
    write_mnist(source)
    accept(monkeypatch, source)
    rest = root / "mnist/incomplete.ABC123_3.0.1"
    rest.mkdir(parents=True)
    for _ in range(2):  # now, and when the set is prepared already
        run("mnist", root, source)
        assert f"remove it: rm -r {shlex.quote(str(rest))}\n" in capsys.readouterr().out


def cifar_raw(classes):
    return {
        "train_images": images(10, 32, 32, 3, seed=1),
        "train_labels": np.arange(10) % classes,
        "test_images": images(4, 32, 32, 3, seed=2),
        "test_labels": np.arange(4),
    }


def cifar10_members(raw):
    rows = cifar_rows(raw["train_images"], raw["train_labels"][:, None])
    members = {f"data_batch_{i + 1}.bin": rows[i * 6146 : (i + 1) * 6146] for i in range(5)}
    members["test_batch.bin"] = cifar_rows(raw["test_images"], raw["test_labels"][:, None])
    return members


def test_cifar10_from_its_archive(source, root, monkeypatch):
    raw = cifar_raw(10)
    members = {f"cifar-10-batches-bin/{k}": v for k, v in cifar10_members(raw).items()}
    write_tar(source / "cifar-10-binary.tar.gz", members, "w:gz")
    accept(monkeypatch, source)
    run("cifar10", root, source)
    assert_reads_back("cifar10", root, raw)
    ids = {np.asarray(example["id"]).item().decode() for example in stock("cifar10", root, "test")}
    assert ids == {f"test_{i:05d}" for i in range(4)}
    names = tfds.library().builder("cifar10", data_dir=root).info.features["label"].names
    assert tuple(names) == load("cifar10", root).info.class_names


def test_cifar10_from_its_unpacked_batches(source, root, monkeypatch):
    raw = cifar_raw(10)
    for file, content in cifar10_members(raw).items():
        (source / file).write_bytes(content)
    monkeypatch.setattr(prepare, "_CIFAR10_UNPACKED", facts_of(source))
    run("cifar10", root, source)
    assert_reads_back("cifar10", root, raw)


def test_cifar100(source, root, monkeypatch):
    raw = cifar_raw(100)
    members = {
        f"cifar-100-binary/{part}.bin": cifar_rows(
            raw[f"{part}_images"], np.stack([raw[f"{part}_labels"] // 5, raw[f"{part}_labels"]], 1)
        )
        for part in ("train", "test")
    }
    for kind, count in (("fine", 100), ("coarse", 20)):
        names = "".join(f"{kind}{i}\n" for i in range(count))
        members[f"cifar-100-binary/{kind}_label_names.txt"] = names.encode()
    write_tar(source / "cifar-100-binary.tar.gz", members, "w:gz")
    accept(monkeypatch, source)
    run("cifar100", root, source)
    assert_reads_back("cifar100", root, raw)
    assert load("cifar100", root).info.class_names[:2] == ("fine0", "fine1")
    coarse = {int(e["label"]): int(e["coarse_label"]) for e in stock("cifar100", root, "train")}
    assert coarse == {label: label // 5 for label in range(10)}


def test_svhn_with_its_digit_ten(source, root, monkeypatch):
    raw = {}
    for seed, part in enumerate(("train", "test", "extra")):
        raw[f"{part}_images"] = images(10, 32, 32, 3, seed)
        raw[f"{part}_labels"] = np.arange(1, 11) % 10
        pixels = np.moveaxis(raw[f"{part}_images"], 0, -1)
        savemat(source / f"{part}_32x32.mat", {"X": pixels, "y": np.arange(1, 11, dtype="u1")[:, None]})
    accept(monkeypatch, source)
    run("svhn_cropped", root, source)
    assert_reads_back("svhn_cropped", root, raw)
    assert len(stock("svhn_cropped", root, "extra")) == 10


def jpeg(seed):
    return encoded(Image.fromarray(images(1, 80, 90, 3, seed)[0]), "JPEG")


def test_imagenette(source, root, monkeypatch):
    pictures = {
        f"imagenette2-160/{part}/{label}/{label}_{i}.JPEG": jpeg(i)
        for part, count in (("train", 3), ("val", 2))
        for label in ("n01440764", "n03888257")
        for i in range(count)
    }
    extra = {"imagenette2-160/noisy.csv": b"a,b\n", "imagenette2-160/.DS_Store": b""}
    write_tar(source / "imagenette2-160.tgz", {**extra, **pictures}, "w:gz")
    accept(monkeypatch, source)
    run("imagenette/160px-v2", root, source)
    set_ = load("imagenette/160px-v2", root, image_size=65)
    assert (set_.info.num_train, set_.info.num_test, set_.info.num_classes) == (6, 4, 10)
    stored = sorted(set_.train[i] for i in range(6))
    assert stored == sorted((jpeg(i), label) for label in (0, 9) for i in range(3))
    assert next(set_.train_batches(0, 6))["image"].shape == (6, 65, 65, 3)


def test_imagenet_from_its_two_archives(source, root, monkeypatch):
    cmyk = encoded(ramp(60, 60).convert("CMYK"), "JPEG")
    png = encoded(ramp(60, 60), "PNG")
    classes = {
        "n01440764": {"n01440764_1.JPEG": jpeg(1), "n01440764_2.JPEG": cmyk},
        "n15075141": {"n15075141_1.JPEG": png},
    }
    write_tar(
        source / "ILSVRC2012_img_train.tar",
        {f"{label}.tar": tar_bytes(members) for label, members in classes.items()},
    )
    # The archive's order is not that of the names, by which the labels go.
    validation = {f"ILSVRC2012_val_0000000{i}.JPEG": jpeg(i) for i in (2, 1, 3)}
    write_tar(source / "ILSVRC2012_img_val.tar", validation)
    listed = ["n01440764", "n15075141", "n01440764"]
    monkeypatch.setattr(originals, "validation_labels", lambda: listed)
    accept(monkeypatch, source)
    run("imagenet2012", root, source)
    set_ = load("imagenet2012", root)
    assert (set_.info.num_train, set_.info.num_test, set_.info.num_classes) == (3, 3, 1000)
    assert sorted(set_.test[i] for i in range(3)) == sorted([(jpeg(1), 0), (jpeg(2), 999), (jpeg(3), 0)])
    decoded = {
        np.asarray(example["file_name"]).item().decode(): example["image"]
        for example in stock("imagenet2012", root, "train")
    }
    ours = [set_.train[i] for i in range(3)]
    assert (jpeg(1), 0) in ours
    for kept, _ in ours:
        with Image.open(io.BytesIO(kept)) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
    assert np.abs(decoded["n15075141_1.JPEG"].astype(int) - np.asarray(ramp(60, 60)).astype(int)).mean() < 3


def test_without_source_tfds_downloads_what_it_registers(source, root, monkeypatch):
    raw = write_mnist(source)
    asked = {}

    def download(self, urls):
        asked.update(urls)
        return {file: source / file for file in urls}

    monkeypatch.setattr(tfds.library().download.DownloadManager, "download", download)
    prepare.main(["mnist", f"--data_dir={root}"])
    assert set(asked) == set(facts_of(source))
    assert all(url.endswith(f"/mnist/{file}") for file, url in asked.items())
    assert_reads_back("mnist", root, raw)


def test_a_failed_download_says_what_to_fetch(root, monkeypatch):
    def download(self, urls):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tfds.library().download.DownloadManager, "download", download)
    with told(r"no route to host.*--source=FOLDER: https://.*\.gz"):
        prepare.main(["mnist", f"--data_dir={root}"])
    assert not list(root.glob("mnist/*"))


def test_a_second_time_nothing_is_done(source, root, monkeypatch):
    write_mnist(source)
    accept(monkeypatch, source)
    run("mnist", root, source)
    monkeypatch.setitem(originals.SPLITS, "mnist", lambda paths: pytest.fail("prepared again"))
    run("mnist", root, source)


def test_the_registered_facts_are_tfdss():
    builder = tfds.library().builder("mnist")
    facts = prepare.registered(builder, "mnist")
    labels = facts["t10k-labels-idx1-ubyte.gz"]
    assert len(facts) == 4 and labels.size == 4542
    assert labels.sha256 == "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    assert labels.url.endswith("/t10k-labels-idx1-ubyte.gz")
    for name, file in (
        ("imagenette", "imagenette2.tgz"),
        ("imagenette/320px-v2", "imagenette2-320.tgz"),
        ("cifar100", "cifar-100-binary.tar.gz"),
    ):
        builder = tfds.library().builder(tfds.tfds_name(name))
        assert list(prepare.registered(builder, name)) == [file]


def test_every_name_can_be_prepared():
    assert {name.split("/")[0] for name in prepare.NAMES} == set(originals.SPLITS)


def test_files_that_are_not_tfdss_are_refused(source, root):
    write_mnist(source)
    registered = "1,648,877 bytes with SHA-256 8d422c7b0a1c1c79"
    with told(rf"t10k-images.*not the original: .*expected {registered}"):
        run("mnist", root, source)
    assert not list(root.glob("mnist/*"))


def test_a_changed_file_is_refused_with_both_hashes(source, root, monkeypatch):
    write_mnist(source)
    accept(monkeypatch, source)
    changed = source / "train-labels-idx1-ubyte.gz"
    before = facts_of(source)[changed.name].sha256
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(bytes(content))
    after = facts_of(source)[changed.name].sha256
    with told(f"SHA-256 {after}, expected .* {before}"):
        run("mnist", root, source)
    assert not list(root.glob("mnist/*"))


def test_missing_files_are_named(source, root):
    (source / "notes.txt").write_text("")
    with told(r"lacks .*t10k-labels-idx1-ubyte\.gz.*holds notes\.txt"):
        run("mnist", root, source)
    with told("no such folder"):
        run("mnist", root, source / "absent")
    with told(r"image-net\.org.*ILSVRC2012_img_train\.tar.*--source"):
        prepare.main(["imagenet2012", f"--data_dir={root}"])
    with pytest.raises(ValueError, match=r"choose one of mnist.*Did you mean mnist\?"):
        prepare.prepare("MNIST")


def test_an_interrupted_preparation_is_no_preparation(source, root, monkeypatch):
    raw = write_mnist(source)
    accept(monkeypatch, source)
    whole = originals.mnist

    def interrupted(paths):
        def examples(iterator):
            yield next(iterator)
            raise KeyboardInterrupt

        return {split: examples(iterator) for split, iterator in whole(paths).items()}

    monkeypatch.setitem(originals.SPLITS, "mnist", interrupted)
    with pytest.raises(SystemExit, match="130"):
        run("mnist", root, source)
    with pytest.raises(FileNotFoundError, match="not prepared"):
        load("mnist", root)
    monkeypatch.setitem(originals.SPLITS, "mnist", whole)
    run("mnist", root, source)
    assert_reads_back("mnist", root, raw)


def test_what_a_killed_preparation_leaves_is_not_read(source, root, monkeypatch):
    write_mnist(source)
    accept(monkeypatch, source)
    run("mnist", root, source)
    # TFDS writes here and renames at the end; a killed process leaves it.
    (root / "mnist" / "3.0.1").rename(root / "mnist" / "incomplete.ABCDEF_3.0.1")
    with pytest.raises(FileNotFoundError, match="not prepared"):
        load("mnist", root)


def test_nothing_prepared_gives_the_command(root):
    with pytest.raises(FileNotFoundError) as caught:
        load("cifar10", root)
    command = f"python -m resjax.data.prepare cifar10 --data_dir={root}"
    assert command in str(caught.value) and "data.data_dir" in str(caught.value)


def test_data_dir_defaults_to_tfdss(root, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    assert tfds.data_root("") == root
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert tfds.data_root("").name == "tensorflow_datasets"


def test_tfrecord_only_gives_the_conversion(source, root, monkeypatch):
    write_mnist(source)
    accept(monkeypatch, source)
    run("mnist", root, source)
    version = root / "mnist" / "3.0.1"
    for file in version.glob("*.array_record*"):
        file.rename(version / file.name.replace("array_record", "tfrecord"))
    facts = version / "dataset_info.json"
    facts.write_text(facts.read_text().replace("array_record", "tfrecord"))
    command = (
        "$V/bin/python -m tensorflow_datasets.scripts.convert_format "
        f"--dataset_version_dir={version} --out_file_format=array_record"
    )
    with pytest.raises(FileNotFoundError) as caught:
        load("mnist", root)
    assert command in str(caught.value)
    with told("convert_format"):
        run("mnist", root, source)


def test_a_folder_copied_in_part_is_refused(source, root, monkeypatch):
    write_mnist(source)
    accept(monkeypatch, source)
    run("mnist", root, source)
    next((root / "mnist" / "3.0.1").glob("mnist-test.array_record*")).unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks mnist-test\.array_record.*prepare it again"):
        load("mnist", root)


def test_images_of_another_shape_are_refused(source, root, monkeypatch):
    write_mnist(source)
    write_idx(source / "t10k-images-idx3-ubyte.gz", images(5, 27, 28, 1)[..., 0])
    accept(monkeypatch, source)
    run("mnist", root, source)
    with pytest.raises(ValueError, match=r"\(27, 28\), not \(28, 28, 1\)"):
        load("mnist", root)


def test_an_environment_that_lacks_something_gives_the_isolated_command(source, root, monkeypatch):
    write_mnist(source)
    accept(monkeypatch, source)

    def lacking(paths):
        raise ImportError("No module named 'tensorflow'")

    monkeypatch.setitem(originals.SPLITS, "mnist", lacking)
    with pytest.raises(ValueError) as caught:
        prepare.prepare("mnist", str(root), str(source))
    message = str(caught.value)
    assert "python3 -m venv $V" in message and "pip install tensorflow" in message
    code = shlex.split(message[message.index("-c ") :])[1]
    compile(code, "command", "exec")
    assert f"data_dir={str(root)!r}" in code and f"manual_dir={str(source)!r}" in code
    assert "file_format='array_record'" in code


@pytest.mark.parametrize("content", [b"", b"\0\0\x0d\x01\0\0\0\x01\0", b"\0\0\x08\x01\0\0\0\x05ab"])
def test_an_idx_file_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match="not a gzipped idx file"):
        originals.idx(tmp_path / "a.gz")


def test_all_keys_are_there(source, root, monkeypatch):
    write_mnist(source)
    accept(monkeypatch, source)
    run("mnist", root, source)
    raw, names = tfds.read_arrays("mnist", str(root))
    assert tuple(raw) == KEYS and names == tuple("0123456789")
