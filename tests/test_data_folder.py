"""A user's folder of class folders."""

import os
import shutil
import subprocess

import numpy as np
import pytest
from data_helpers import images
from PIL import Image

from resjax import data
from resjax.data import folder, layout


def config(path, **changes):
    c = data.defaults()
    c.update({"name": str(path), "workers": 0, **changes})
    return c


def fill(root, part, names, count=3, size=(10, 12), mode="RGB"):
    channels = 3 if mode == "RGB" else 1
    for k, name in enumerate(names):
        (root / part / name).mkdir(parents=True, exist_ok=True)
        for i, pixels in enumerate(images(count, *size, channels, seed=k)):
            picture = Image.fromarray(pixels if mode == "RGB" else pixels[..., 0])
            picture.save(root / part / name / f"{i}.png")


@pytest.fixture
def root(tmp_path):
    fill(tmp_path, "train", ("bee", "ant"))
    fill(tmp_path, "test", ("ant", "bee"), count=2)
    return tmp_path


def test_small_equal_images_are_held_whole(root):
    set_ = data.load(config(root))
    assert isinstance(set_, data.Arrays)
    assert set_.info.class_names == ("ant", "bee") and set_.info.image_shape == (10, 12, 3)
    assert set_.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    # "bee" was written first, from seed 0.
    np.testing.assert_array_equal(set_.train_images[3:], images(3, 10, 12, 3, seed=0))
    assert set_.info.num_test == 4


def test_val_stands_for_test(tmp_path):
    fill(tmp_path, "train", ("a", "b"))
    fill(tmp_path, "val", ("a",), count=1)
    assert data.load(config(tmp_path)).info.num_test == 1


def test_grey_images_have_one_channel(tmp_path):
    fill(tmp_path, "train", ("a", "b"), mode="L")
    fill(tmp_path, "test", ("a", "b"), mode="L")
    assert data.load(config(tmp_path)).info.image_shape == (10, 12, 1)


def test_one_colour_image_makes_the_set_coloured(tmp_path):
    fill(tmp_path, "train", ("a", "b"), mode="L")
    fill(tmp_path, "test", ("a", "b"))
    assert data.load(config(tmp_path)).info.image_shape == (10, 12, 3)


def test_images_of_different_sizes_need_image_size(root):
    fill(root, "train", ("cat",), size=(20, 11))
    with pytest.raises(ValueError, match=r"different sizes .*data\.image_size"):
        data.load(config(root))
    set_ = data.load(config(root, image_size=16))
    assert set_.train_images.shape == (9, 16, 16, 3)


def test_pictures_of_a_folder_are_not_padded(root):
    with pytest.raises(ValueError, match="not for folders"):
        data.load(config(root, image_size=16, fit="pad"))


def test_larger_images_are_streamed(root):
    set_ = data.load(config(root, image_size=65))
    assert isinstance(set_, data.Stream) and set_.info.image_shape == (65, 65, 3)
    batch = next(set_.train_batches(0, 4))
    assert batch["image"].shape == (4, 65, 65, 3) and batch["label"].dtype == np.int32


def test_many_small_images_are_streamed(root, monkeypatch):
    monkeypatch.setattr(folder, "_WHOLE_BYTES", 10 * 16 * 16 * 3 - 1)
    assert isinstance(data.load(config(root, image_size=16)), data.Stream)


def test_large_images_need_image_size(tmp_path):
    fill(tmp_path, "train", ("a",), size=(70, 70))
    fill(tmp_path, "test", ("a",), size=(70, 70))
    with pytest.raises(ValueError, match=r"streamed: set data\.image_size"):
        data.load(config(tmp_path))


def test_large_images_are_refused_before_all_are_read(tmp_path):
    fill(tmp_path, "train", ("a",), size=(70, 70))
    fill(tmp_path, "test", ("a",), size=(70, 70))
    (tmp_path / "train" / "a" / "1.png").write_bytes(b"")  # would be the error if it were read
    with pytest.raises(ValueError, match="6 images of 70 x 70 pixels are streamed"):
        data.load(config(tmp_path))


def test_a_held_out_part_of_a_stream_comes_from_its_training_files(root):
    set_ = data.load(config(root, image_size=65, holdout=2))
    assert set_.info.num_train == 4 and set_.info.num_test == 2
    assert set_.test is set_.train
    assert not set(set_.train_indices) & set(set_.test_indices)


@pytest.mark.parametrize("parts", [(), ("train",), ("test",), ("training", "test")])
def test_a_wrong_layout_is_explained(tmp_path, parts):
    for part in parts:
        fill(tmp_path, part, ("a",))
    with pytest.raises(FileNotFoundError, match=r"needed: train/CLASS/\*\.jpg"):
        data.load(config(tmp_path))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        data.load(config(tmp_path / "absent"))


def test_classes_without_pictures_are_explained(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "test" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match="no pictures"):
        data.load(config(tmp_path))


def tree(root, *files):
    """Writes files, and folders whose names end in '/'. A picture has 4 × 4 pixels that tell its place."""
    for number, name in enumerate(files):
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in layout.SUFFIXES:
            Image.new("L", (4, 4), number).save(path)
        elif not name.endswith("/"):
            path.write_bytes(b"text")


CLASSES = ("train/ant/1.png", "train/bee/1.png", "test/ant/1.png", "test/bee/1.png")


@pytest.mark.parametrize(
    "litter",
    [
        "train/__MACOSX/ant/._1.png",
        "train/.ipynb_checkpoints/",
        "train/.ipynb_checkpoints/1.png",
        "train/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg",
        "train/ant/@eaDir/1.jpg",
        "train/ant/.1.png",
        "train/ant/._1.png",
        "train/ant/Thumbs.db",
        "train/desktop.ini",
        "train/.DS_Store",
        "train/lost+found/",
        "test/.ipynb_checkpoints/",
        "test/__MACOSX/",
        "__MACOSX/train/ant/._1.png",
    ],
)
def test_litter_is_no_class_and_no_picture(tmp_path, litter):
    tree(tmp_path, *CLASSES, litter)
    set_ = data.load(config(tmp_path))
    assert set_.info.class_names == ("ant", "bee")
    assert set_.train_images[:, 0, 0, 0].tolist() == [0, 1] and set_.train_labels.tolist() == [0, 1]
    assert set_.test_images[:, 0, 0, 0].tolist() == [2, 3]


@pytest.mark.parametrize("suffix", sorted({*layout.SUFFIXES, ".TIF", ".JPEG"}))
def test_pictures_of_every_known_suffix_are_read(tmp_path, suffix):
    tree(tmp_path, *(name.replace(".png", suffix) for name in CLASSES))
    assert data.load(config(tmp_path)).train_labels.tolist() == [0, 1]


def test_pictures_may_be_one_folder_deeper(tmp_path):
    """As in Tiny ImageNet's train/."""
    tree(tmp_path, *(f"train/{name}/images/1.JPEG" for name in "ab"), "train/a/a_boxes.txt", "val/b/1.JPEG")
    set_ = data.load(config(tmp_path))
    assert set_.info.class_names == ("a", "b") and set_.train_labels.tolist() == [0, 1]
    assert set_.test_labels.tolist() == [1]  # class a has no test pictures


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("train/cat/",), r"train/cat would be a class, but holds no pictures .*it holds nothing.*: rm -r '"),
        (("train/cat/1.txt",), r"train/cat would be a class.*it holds 1 \.txt\..*: mv '"),
        (("train/cat/1.heic", "train/cat/2.heic"), r"cat holds files .* left out: 2 \(1\.heic, 2\.heic\)"),
        (("train/ant/2.heic",), r"train/ant holds files .* left out: 1 \("),
        (("train/cat/a/1.png", "train/cat/b/1.png"), r"cat is one class, but holds 2 folders \(a, b\)"),
        (("train/cat/a/b/1.png",), r"cat is one class, but holds 1 folder \(a\)"),
        (("train/ant/a/1.png",), r"ant holds 1 folder \(a\), 1 \.png, with pictures in a, too"),
        (("train/x/a/1.png", "train/y/b/1.png"), r"folders of different names \(x/a, y/b\)"),
        (("train/1.png", "train/2.png"), r"pictures beside its class folders: 2 \(1\.png, 2\.png\)"),
        (("test/1.png",), r"test holds pictures beside its class folders: 1 \("),
        (("test/wasp/1.png",), r"test has classes that .*train lacks: wasp; there are ant, bee"),
    ],
)
def test_what_would_change_the_classes_is_refused(tmp_path, files, message):
    root = tmp_path / "my pictures"
    tree(root, *CLASSES, *files)
    with pytest.raises(ValueError, match=message):
        data.load(config(root))


@pytest.mark.parametrize("place", ["train/cat", "train/ant/2.png", "train/ant/labels", "val", "test/wasp"])
@pytest.mark.parametrize("kind", ["a link to gone, which is missing", "a pipe"])
def test_what_is_there_but_no_file_is_refused(tmp_path, place, kind):
    root = tmp_path / "my pictures"
    tree(root, *CLASSES)
    if "link" in kind:
        (root / place).symlink_to("gone")
    else:
        os.mkfifo(root / place)
    with pytest.raises(ValueError, match=f"{place} is {kind}.*: rm '{root}/{place}'"):
        data.load(config(root))


def test_an_accent_that_is_stored_differently_is_told(tmp_path):
    tree(tmp_path, "train/b\u00e9/1.png", "train/a/1.png", "test/be\u0301/1.png")
    command = f"mv '{tmp_path}/test/be\u0301' '{tmp_path}/test/b\u00e9'"
    with pytest.raises(ValueError, match=f"how accents are stored.*: {command}"):
        data.load(config(tmp_path))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("train/1.png", "train/a.csv", "test/a/1.png"), r"no class folders, but 1 \.png, 1 \.csv"),
        (("train/", "test/"), "no class folders, but nothing"),
        (
            ("train/a/1.png", "val/1.png"),
            r"val has no class folders, but 1 \.png.*: mv .*unlabelled_val, then",
        ),
        (("train/a/1.png", "test/a/"), r"test has class folders \(a\), but no pictures"),
        (("train/a/1.png", "test/b/"), "lacks: b"),
    ],
)
def test_parts_without_classes_or_pictures_are_explained(tmp_path, files, message):
    tree(tmp_path, *files)
    with pytest.raises(ValueError, match=message):
        data.load(config(tmp_path))


def shell(message, start, end="\n"):
    """Runs the command that a message prints between two texts."""
    command = message.split(start, 1)[1].split(end, 1)[0]
    subprocess.run(["bash", "-ec", command], check=True)


@pytest.mark.parametrize(
    ("files", "start", "end"),
    [
        (("training/a/1.png", "training/b/1.png", "test/a/1.png"), "Rename it: ", "\n"),
        (("Train set/a/1.png", "Train set/b/1.png", "Test set/a/1.png"), "Rename it: ", "\n"),
        (("train/a/1.png", "train/b/1.png", "testing/a/1.png"), "rename testing/: ", "\n"),
        (("train/x/a/1.png", "train/x/b/1.png", "test/a/1.png"), "move them up: ", "\n"),
        (("train/x/a/1.png", "train/y/b/1.png", "test/a/1.png"), "move them up: ", "\n"),
        ((*CLASSES, "train/.hidden/", "train/cat/"), "remove it: ", "\n"),
        ((*CLASSES, "train/cat/1.txt"), "remove it: ", "\n"),
        (
            ("train/a/images/1.png", "train/b/images/1.png", "val/images/1.png", "val/images/2.png",
             "val/val_annotations.txt"),
            "class folders: ", "\n",
        ),
        (
            ("train/a/1.png", "train/b/1.png", "test/images/1.png", "val/a/1.png"),
            "Rename the folder: ", "\n",
        ),
    ],
)  # fmt: skip
def test_the_printed_command_mends_the_folder(tmp_path, files, start, end):
    root = tmp_path / "it's mine"
    tree(root, *files)
    if (table := root / "val" / "val_annotations.txt").exists():
        table.write_text("1.png\tb\t0\t0\t62\t57\n2.png\ta\t1\t2\t3\t4\n")
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        data.load(config(root))
    shell(str(refused.value), start, end)
    set_ = data.load(config(root))
    assert set_.info.num_classes == 2 and set_.train_labels.tolist() == [0, 1]
    if table.exists():
        assert set_.test_images[:, 0, 0, 0].tolist() == [3, 2]  # pictures 2 (class a) and 1 (b)


def test_classes_without_a_division_become_training_pictures(tmp_path):
    root = tmp_path / "my pictures"
    tree(root, *(f"{name}/{i}.png" for name in ("ant", "bee") for i in range(3)))
    with pytest.raises(FileNotFoundError, match=r"2 folders \(ant, bee\).*which are for training") as refused:
        data.load(config(root))
    shell(str(refused.value), "training pictures:\n  ")
    with pytest.raises(FileNotFoundError, match=r"--config\.data\.holdout=N"):
        data.load(config(root))
    set_ = data.load(config(root, holdout=2))
    assert set_.info.class_names == ("ant", "bee")
    pixels = np.concatenate([set_.train_images, set_.test_images])[:, 0, 0, 0]
    assert len(set_.test_images) == 2 and sorted(pixels) == list(range(6))
    assert ((pixels >= 3) == np.concatenate([set_.train_labels, set_.test_labels])).all()


def test_the_pictures_of_a_test_set_alone_can_be_held_out(tmp_path):
    """As for a network trained elsewhere, of whose data only the validation part is here."""
    tree(tmp_path, *(f"val/{name}/{i}.png" for name in ("ant", "bee") for i in range(3)))
    with pytest.raises(FileNotFoundError, match=r"evaluate on N of those in val/: ") as refused:
        data.load(config(tmp_path))
    shell(str(refused.value), "in val/: ", ", then")
    assert data.load(config(tmp_path, holdout=5)).info.num_test == 5


def test_a_stream_without_test_pictures_holds_some_out(root):
    shutil.rmtree(root / "test")
    set_ = data.load(config(root, image_size=65, holdout=2))
    assert isinstance(set_, data.Stream) and set_.info.num_train == 4 and set_.info.num_test == 2


def test_a_single_class_is_refused(tmp_path):
    tree(tmp_path, "train/ant/1.png", "test/ant/1.png")
    with pytest.raises(ValueError, match=r"has one class \(ant\): there is nothing to tell apart"):
        data.load(config(tmp_path))


def test_pictures_that_are_held_out_count_once(tmp_path, monkeypatch):
    tree(tmp_path, "train/ant/1.png", "train/bee/1.png")
    monkeypatch.setattr(folder, "_WHOLE_BYTES", 2 * 4 * 4)
    assert isinstance(data.load(config(tmp_path, image_size=4, holdout=1)), data.Arrays)


def test_a_folder_around_the_data_is_named(tmp_path):
    tree(tmp_path / "all", *CLASSES)
    with pytest.raises(FileNotFoundError, match=rf"--config\.data\.name={tmp_path}/all$"):
        data.load(config(tmp_path))


@pytest.mark.parametrize(
    ("file", "name"), [("data_batch_1.bin", "cifar10"), ("train-images-idx3-ubyte.gz", "mnist")]
)
def test_original_files_are_prepared_first(tmp_path, file, name):
    tree(tmp_path, file)
    command = rf"python -m resjax\.data\.prepare {name} --source={tmp_path}$"
    with pytest.raises(FileNotFoundError, match=command):
        data.load(config(tmp_path))


def test_class_folders_that_sound_like_a_part_are_classes(tmp_path):
    tree(tmp_path, "trains/1.png", "buses/1.png", "contests/1.png")
    with pytest.raises(FileNotFoundError, match="which are for training"):
        data.load(config(tmp_path))


def test_an_archive_is_no_folder(tmp_path):
    tree(tmp_path, "pictures.zip")
    with pytest.raises(FileNotFoundError, match=r"is a file, neither.*Unpack"):
        data.load(config(tmp_path / "pictures.zip"))


@pytest.mark.parametrize("kept", [0, 60])
def test_an_unreadable_file_is_named(root, kept):
    bad = root / "train" / "bee" / "1.png"
    bad.write_bytes(bad.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"bee/1\.png is not a readable image"):
        data.load(config(root))
