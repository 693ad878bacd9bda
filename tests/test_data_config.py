"""The `data` section: paths, and values that no data set allows."""

import pathlib

import pytest

from resjax import data


def config(**changes):
    c = data.defaults()
    c.update(changes)
    return c


@pytest.mark.parametrize("field", data.defaults())
def test_none_is_no_value_of_any_field(field):
    with pytest.raises(ValueError, match=rf"^data\.{field}=None; needed: ") as refused:
        data.info(config(**{field: None}))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value", "needed"),
    [
        ("mean", 0.5, r"one number for each channel, such as \(0\.5, 0\.5, 0\.5\), or \(\)"),
        ("std", "0.5", "one number for each channel"),
        ("mean", ("a",), "one number for each channel"),
        ("mean", (True,), "one number for each channel"),
        ("mean", (float("nan"),), "one number for each channel"),
        ("std", ((0.5, 0.5),), "one number for each channel"),
        ("pad", "4", "a whole number, such as 0"),
        ("image_size", 32.5, "a whole number"),
        ("image_size", (32, 32), "a whole number"),
        ("holdout", True, "a whole number"),
        ("flip", "yes", "True or False"),
        ("flip", 1, "True or False"),
        ("name", 7, "text, such as 'digits'"),
        ("data_dir", 7, "text, such as '~/data'"),
    ],
)
def test_values_of_another_kind_are_refused(field, value, needed):
    c = data.defaults()
    with c.ignore_type():
        c[field] = value
    with pytest.raises(ValueError, match=rf"^data\.{field}=.*; needed: {needed}"):
        data.load(c)


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


@pytest.mark.parametrize(("name", "kind"), [("sub/mine.npz", "file"), ("sub/mine", "folder")])
def test_a_missing_path_is_named_with_the_folder_it_is_relative_to(tmp_path, monkeypatch, name, kind):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=rf"data\.name='{name}': no such {kind} \({tmp_path}/{name}\)"
    ):
        data.load(config(name=name))
    with pytest.raises(FileNotFoundError, match=rf"data\.name='{tmp_path}/{name}': no such {kind}[.;]"):
        data.load(config(name=f"{tmp_path}/{name}"))


def test_the_folder_of_prepared_sets_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert data.absolute(config(data_dir="sets")).data_dir == str(tmp_path / "sets")
    assert data.absolute(config()) == config()  # '' is the default folder, wherever that is


@pytest.mark.parametrize(
    ("field", "value"),
    [("randaugment", -1), ("randaugment_magnitude", 10.5), ("randaugment_probability", 1.1)],
)
def test_numbers_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"^data\.{field}={value}: must be"):
        data.load(config(**{field: value}))
