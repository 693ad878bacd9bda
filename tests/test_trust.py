"""Names in files that somebody else made never become code, unless they are allowed by name."""

import json
import shlex
import shutil
import sys

import pytest
from data_helpers import accept, write_mnist
from run_helpers import tiny_run
from script_helpers import run_each

from resjax import config as configs
from resjax import data
from resjax.analysis import load_run, load_runs
from resjax.analyze import analyze
from resjax.data import prepare
from resjax.training.loaded import config_file
from resjax.workdir.workdir import claim

MODULE = """
import pathlib

pathlib.Path(__file__).with_name("ran").touch()


def net(*, image_shape, num_classes, width=4):
    from resjax.models import resnet
    return resnet(image_shape=image_shape, num_classes=num_classes, depth=8, widths=(width,) * 3)
"""
NAME = "somebodys_module:net"


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Whether the module of somebody else, which can be imported, has run."""
    (tmp_path / "somebodys_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda: (tmp_path / "ran").exists() or "somebodys_module" in sys.modules
    sys.modules.pop("somebodys_module", None)


@pytest.fixture
def theirs(tmp_path, ran):
    """A workdir as it is shared."""
    home = claim(tmp_path / "their run", configs.default())
    stored = json.loads((home / "config.json").read_text())
    stored["model"] = {"name": NAME}
    (home / "config.json").write_text(json.dumps(stored))
    (home / "config.py").write_text(config_file("resnet"))
    return home


USES = {
    "configs.load": configs.load,
    "load_run": load_run,
    "load_runs": lambda home: load_runs([home]),
    "analyze": lambda home: analyze([home]),
    "its config.py": lambda home: configs.load_file(home / "config.py"),
    "another name is allowed": lambda home: load_run(home, allow_code=["somebodys_module:other", "net"]),
    "the module alone is allowed": lambda home: load_run(home, allow_code="somebodys_module"),
    "a longer name is allowed": lambda home: load_run(home, allow_code=f"{NAME}s"),
}


@pytest.mark.parametrize("use", USES)
def test_a_builder_of_somebody_else_is_not_imported(theirs, ran, use):
    with pytest.raises(ValueError) as refused:
        USES[use](theirs)
    said = str(refused.value)
    assert not ran() and "\n" not in said
    assert said.startswith(f"{theirs}/config.json names the builder {NAME}, which is none of resjax: ")
    assert "imports and runs the module somebodys_module" in said
    assert f"--allow_code={NAME}; in Python, allow_code='{NAME}'" in said


def test_another_training_there_is_told_of_the_run(theirs, ran):
    with pytest.raises(ValueError) as refused:
        claim(theirs, configs.default())
    assert str(refused.value) == (
        f"{theirs} belongs to a run of another network, which is none of resjax and not model.name='resnet'; "
        "use another --workdir, or the --config of that run"
    )
    assert not ran()


@pytest.mark.slow
def test_the_commands_do_not_import_it(theirs, ran, tmp_path):
    own = f"--workdir={theirs}"
    commands = [
        ("resjax.analyze", own),
        ("resjax.analyze", own, "--allow_code=somebodys_module:other"),
        ("resjax.pretrained.export", own, "--out=x.safetensors"),
        ("resjax.cut", own, "--out=x", "--count=1"),
        ("resjax.train", own, f"--config={theirs}/config.py"),
        ("resjax.describe", f"--config={theirs}/config.py"),
    ]
    (tmp_path / "said").mkdir()
    for command, done in zip(commands, run_each(commands, tmp_path / "said", cwd=tmp_path), strict=True):
        assert done.returncode in (1, 2) and f"--allow_code={NAME}" in done.stderr, command
        assert done.stderr.count("\n") == 1 and not ran(), command


def test_control_characters_of_a_name_are_not_printed(theirs):
    stored = json.loads((theirs / "config.json").read_text())
    stored["model"]["name"] = "a:\x1b[2J\nb"
    (theirs / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError) as refused:
        configs.load(theirs)
    assert str(refused.value).isprintable()


def test_a_builder_is_allowed_by_its_name(tmp_path, ran):
    """The configuration of a training names it, so a training goes on; whoever reads the workdir names it."""
    config = configs.default(NAME, width=2)
    home = claim(tmp_path / "own", config)
    claim(home, config)
    stored = json.loads((home / "config.json").read_text())
    del stored["model"]["width"], stored["sha256"]
    (home / "config.json").write_text(json.dumps(stored))
    for allowed in (NAME, [NAME], ("other:net", NAME)):
        assert configs.load(home, allowed).model.width == 4
    assert ran()


def test_the_configuration_of_a_cut_network_allows_its_builder(tmp_path, ran):
    home = claim(tmp_path / "own", configs.default(NAME, width=2))
    (home / "config.py").write_text(config_file(NAME))
    assert configs.load_file(home / "config.py").model.name == NAME and ran()


@pytest.mark.slow  # it trains
def test_an_own_network_is_cut_if_it_is_allowed_and_learns_from_the_intact_one(tmp_path, ran):
    tiny_run(tmp_path / "A", NAME, width=2)
    (tmp_path / "said").mkdir()
    cut = ("resjax.cut", "--workdir=A", "--out=B", "--units=stage1/unit1", "--noevaluate", "--norecalibrate")
    (done,) = run_each([(*cut, f"--allow_code={NAME}")], tmp_path / "said", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"resjax.analyze --workdir=B --allow_code={NAME}\n" in done.stdout
    own = ("resjax.train", "--config=B/config.py", "--workdir=B", "--config.train.duration=3 steps")
    (done,) = run_each([(*own, "--config.train.teacher=A")], tmp_path / "said", cwd=tmp_path)
    assert done.returncode == 0 and f"teacher: {NAME} of step" in done.stderr + done.stdout, done.stderr


@pytest.mark.slow
def test_an_own_builder_trains_on_and_is_analyzed_if_it_is_allowed(tmp_path, ran):
    """The configuration of a training names it; an analysis gets it by name, and so do the commands that its
    report gives. What the files of a run say is text in it."""
    home = tmp_path / "<img src=x>"
    run = tiny_run(home, NAME, width=2)
    assert ran() and run.network.num_units == 3
    claim(home, run.config)  # the same command once more
    starts = json.loads((home / "runs.json").read_text())
    for field in ("date", "command", "device", "machine", "commit", "python"):
        starts[0][field] = f"<script>{field}</script>"
    (home / "runs.json").write_text(json.dumps(starts))
    page = analyze([home], ["path_counts"], allow_code=[NAME]).read_text()
    command = f"python -m resjax.analyze --workdir={shlex.quote(str(home))} --studies=path_counts"
    assert f"{command} --allow_code={NAME}".replace("<", "&lt;").replace(">", "&gt;") in page.replace(
        "&#x27;", "'"
    )
    assert f"load_run(workdir, allow_code=[{NAME!r}])".replace("'", "&#x27;") in page
    assert "<script>" not in page and "<img src=x>" not in page


def image_of(name):
    """A change of features.json: the class of the pictures."""
    return lambda stored: stored["featuresDict"]["features"]["image"].update(pythonClassName=name)


def older_form(stored):
    image = {"type": "somebodys_module.Image", "content": {}}
    stored.clear()
    stored |= {
        "type": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "content": {"image": image},
    }


FORMS = {
    "present form": image_of("somebodys_module.Image"),
    "form before 2022": older_form,
    "a name that begins alike": image_of("tensorflow_datasets.core.features_.Image"),
    "another part of the library": image_of("tensorflow_datasets.scripts.cli.main.Image"),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared set."""
    with pytest.MonkeyPatch.context() as patch:
        write_mnist(source := tmp_path_factory.mktemp("source"))
        accept(patch, source)
        return prepare.prepare("mnist", str(tmp_path_factory.mktemp("sets")), str(source))


@pytest.fixture
def mnist(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "sets/mnist/3.0.1")


def load(version):
    c = data.defaults()
    c.update({"name": "mnist", "data_dir": str(version.parents[1])})
    return data.load(c)


def change(file, how):
    stored = json.loads(file.read_text())
    how(stored)
    file.write_text(json.dumps(stored))


@pytest.mark.parametrize("form", FORMS)
def test_a_prepared_set_names_no_class_outside_of_tfds(mnist, ran, form):
    """TFDS imports the classes of a set's features by their names."""
    assert load(mnist).info.num_train == 12
    change(mnist / "features.json", FORMS[form])
    with pytest.raises(ValueError, match=r"features\.json names the class .*Image, which is none of TFDS"):
        load(mnist)
    assert not ran()


def test_a_prepared_set_without_its_features(mnist):
    (mnist / "features.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"features\.json does not exist: was the set copied in part"):
        load(mnist)


def test_a_folder_beside_the_files_of_a_prepared_set_does_no_harm(mnist):
    (mnist / "notes").mkdir()
    assert load(mnist).info.num_train == 12


def test_a_prepared_set_may_name_the_module_that_made_it(mnist, ran):
    change(mnist / "dataset_info.json", lambda stored: stored.update(moduleName="somebodys_module"))
    assert load(mnist).info.num_train == 12 and not ran()
