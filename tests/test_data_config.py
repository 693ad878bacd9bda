"""The `data` section: paths, and values that no data set allows."""

import pathlib

import pytest

from resjax import data


def config(**changes):
    c = data.defaults()
    c.update(changes)
    return c


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("mine.npz", "HERE/mine.npz"),
        ("./pictures/", "HERE/pictures"),
        ("pictures", "HERE/pictures"),  # a folder, without a slash
        ("../other/mine.npz", "ABOVE/other/mine.npz"),
        ("link/../mine.npz", "ABOVE/elsewhere/mine.npz"),  # above the folder that the link names
        ("link/mine.npz", "HERE/link/mine.npz"),
        ("~/mine.npz", "HOME/mine.npz"),
        ("/data/mine.npz", "/data/mine.npz"),
        ("digits", "digits"),  # although there is such a folder
        ("imagenette/320px-v2", "imagenette/320px-v2"),
        ("cifar-10", "cifar-10"),  # neither a name nor a path: `load` refuses it
    ],
)
def test_paths_become_absolute_and_names_stay(tmp_path, monkeypatch, given, expected):
    here = tmp_path / "here"
    for folder in (here / "pictures", here / "digits", tmp_path / "elsewhere" / "deep"):
        folder.mkdir(parents=True)
    (here / "link").symlink_to(tmp_path / "elsewhere" / "deep")
    monkeypatch.chdir(here)
    for word, path in (("HERE", here), ("ABOVE", tmp_path), ("HOME", pathlib.Path.home())):
        expected = expected.replace(word, str(path))
    before = config(name=given)
    assert data.absolute(before).name == expected
    assert before.name == given  # a copy
    assert data.absolute(data.absolute(before)) == data.absolute(before)


def test_the_folder_of_prepared_sets_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert data.absolute(config(data_dir="sets")).data_dir == str(tmp_path / "sets")
    assert data.absolute(config()) == config()  # '' is the default folder, wherever that is
