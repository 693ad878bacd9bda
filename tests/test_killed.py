"""A process that is killed leaves files that are whole, and folders that are whole or refused with a remedy.

Files take their places by being renamed. The folder is copied before and after each renaming, and after each
save of a checkpoint: these are the states in which a killed process can leave it.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from absl import flags
from ml_collections.config_flags import DEFINE_config_file
from network_helpers import draw
from report_helpers import curve, report_of_two
from safetensors.numpy import save_file

from resjax import config as configs
from resjax import models
from resjax.command.parsing import parse
from resjax.pretrained import read
from resjax.pretrained.convert import to_tensors
from resjax.pretrained.export import export
from resjax.pretrained.layouts import naming
from resjax.pretrained.workdirs import default_config, make_workdir
from resjax.report import kept
from resjax.report import write as reports
from resjax.report.figures import save as save_figures
from resjax.studies import style
from resjax.studies.catalogue import CLAIMS
from resjax.studies.options import ClaimOptions
from resjax.studies.run import load_run
from resjax.training.checkpoint import Checkpoints
from resjax.training.experiment import load_experiment
from resjax.training.loaded import config_file, evaluate, need_free
from resjax.workdir import atomic
from resjax.workdir.atomic import is_temporary, replacing, write
from resjax.workdir.workdir import claim, read_starts
from resjax.workdir.writers import read_records, set_aside


class States:
    """Copies of ``folder``, in the order of ``paths``, and the files that took their places."""

    def __init__(self, folder, copies):
        self.folder, self.copies = folder, copies
        self.paths = []
        self.renamed = set()

    def copy(self):
        to = self.copies / str(len(self.paths))
        if self.folder.exists():
            shutil.copytree(self.folder, to)
        else:
            to.mkdir(parents=True)
        self.paths.append(to)

    def files(self, path):
        """{name: content} without temporary files and what orbax writes."""
        found = [f for f in path.rglob("*") if f.is_file() and not is_temporary(f)]
        names = {f.relative_to(path).as_posix(): f for f in found}
        return {name: f.read_bytes() for name, f in names.items() if not name.startswith("checkpoints")}


@pytest.fixture
def states(tmp_path, monkeypatch):
    """A function: the states of a folder while a context runs."""
    replace, save = Path.replace, Checkpoints.save

    @contextlib.contextmanager
    def of(folder):
        found = States(folder, tmp_path / "copies")

        def replacing(self, target):
            found.copy()
            done = replace(self, target)
            found.renamed.add(Path(target).relative_to(folder).as_posix())
            found.copy()
            return done

        def saving(self, *arguments):
            save(self, *arguments)
            found.copy()

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", replacing)
            patched.setattr(Checkpoints, "save", saving)
            yield found

    return of


def assert_whole(states, before=None):
    """Every file came by renaming, and every state has old or new files only."""
    old, new = before or {}, states.files(states.folder)
    assert {name for name in new if new[name] != old.get(name)} <= states.renamed
    for path in states.paths:
        for name, content in states.files(path).items():
            assert content in (old.get(name), new.get(name)), name


@pytest.mark.slow
def test_an_import_is_whole_or_refused(tmp_path, states):
    shape, model = (8, 8, 1), models.defaults("resnet", depth=8, widths=(2, 4, 8), placement="post")
    network = models.build(model, image_shape=shape, num_classes=10)
    names = naming.residual(network, naming.TORCHVISION)
    save_file(to_tensors(draw(network, shape), network, shape, names), tmp_path / "net.safetensors")
    source = read(tmp_path / "net.safetensors")
    config = default_config(source.layout)
    config.data.name, config.data.train_examples, config.train.batch_size = "digits", 64, 16
    config.data.mean = config.data.std = ()
    experiment = load_experiment(config)
    with states(tmp_path / "run") as found:
        state = make_workdir(source, tmp_path / "run", experiment)
        evaluate(experiment, state, tmp_path / "run")
    assert_whole(found)
    whole = 0
    for path in found.paths:
        if (path / "config.json").exists():
            whole += 1
            assert "imported" in read_starts(path)[0] and (path / "checkpoints/1").is_dir()
            claim(path, configs.load(path))  # a training goes on
        elif found.files(path):
            remedy = f"a cut was interrupted: rm -r {path}, and repeat it"
            for use in (load_run, need_free, lambda path: claim(path, config)):
                with pytest.raises((ValueError, FileNotFoundError), match=remedy):
                    use(path)
        else:
            need_free(path)
            claim(path, config)
    run = load_run(tmp_path / "run")
    assert (not run.from_scratch, run.step, whole, len(found.paths)) == (True, 1, 3, 9)
    assert (len(read_records(found.paths[-1])), len(read_records(found.paths[-2]))) == (1, 0)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_the_configuration_of_an_interrupted_import_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "config.py").write_text(config_file("resnet"))
    (tmp_path / "runs.json").write_text("[]")
    argv = ["train", f"--config={tmp_path}/config.py"]
    known = flags.FlagValues()
    DEFINE_config_file("config", flag_values=known, sys_argv=argv)
    with pytest.raises(SystemExit, match="2"):
        parse(argv, known)
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and f"rm -r {tmp_path}, and" in said


def test_a_claimed_workdir_can_be_claimed_again(tmp_path, states):
    config = configs.default()
    with states(tmp_path / "run") as found:
        claim(tmp_path / "run", config)
        claim(tmp_path / "run", config)
    for path, starts in zip(found.paths, (0, 0, 0, 1, 1, 1, 1, 2), strict=True):
        assert len(read_starts(path)) == starts
        assert len(read_starts(claim(path, config))) == starts + 1
        assert not any(is_temporary(file) for file in tmp_path.glob("run/*"))


def test_no_record_is_lost_while_lines_are_set_aside(tmp_path, states):
    lines = [json.dumps({"step": step}) + "\n" for step in range(4)] + ["garbage\n"]
    log = tmp_path / "run/metrics.jsonl"
    log.parent.mkdir()
    log.write_text("".join(lines))
    with states(log.parent) as found:
        set_aside(log, 1)
    assert len(found.paths) == 4
    for path in found.paths:
        for _ in range(2):  # the same start again
            text = "".join(file.read_text() for file in path.glob("metrics.jsonl*"))
            assert set(text.splitlines(keepends=True)) == set(lines)
            set_aside(path / "metrics.jsonl", 1)
        assert (path / "metrics.jsonl").read_text() == "".join(lines[:2])


def test_every_file_of_a_report_is_whole(tmp_path, monkeypatch, states):
    monkeypatch.setattr(
        reports, "picture", lambda draw, alt, table, labels: ""
    )  # of the page itself; takes long
    report = dataclasses.replace(report_of_two(), results=report_of_two().results[:1])
    with states(tmp_path / "out") as found:
        reports.write(report, tmp_path / "out")
    assert_whole(found)
    assert {"report.html", "curves.json", "figures/curves.png", "figures/curves.pdf"} == found.renamed


def figures(out):
    def draw_figure():
        fig, _ = style.panels(1)
        return fig

    save_figures(draw_figure, out, "net")


def safetensors(out):
    model = models.defaults("resnet", depth=8, widths=(2, 4, 8), placement="post")
    network = models.build(model, image_shape=(8, 8, 1), num_classes=10)
    export(network, draw(network, (8, 8, 1)), (8, 8, 1), out / "net.safetensors")


def kept_result(out):
    kept.save_claim(out.parent, CLAIMS["skip_length"], ClaimOptions(), {"a": curve(0.1, 0.2)})


OUTPUTS = {
    figures: {"net.png", "net.pdf"},
    safetensors: {"net.safetensors"},
    kept_result: {"skip_length.json"},
}


@pytest.mark.parametrize("make", OUTPUTS)
def test_other_outputs_are_whole(tmp_path, states, make):
    out = tmp_path / "kept"
    out.mkdir()
    for name in OUTPUTS[make]:
        (out / name).write_bytes(b"old")
    with states(out) as found:
        make(out)
    assert_whole(found, dict.fromkeys(OUTPUTS[make], b"old"))
    assert found.renamed == OUTPUTS[make]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    write(path, "old ü")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_bytes() == "old ü".encode() and list(tmp_path.iterdir()) == [path]
    write(path, b"new")
    assert path.read_bytes() == b"new"


def test_what_a_killed_process_left_does_not_stay(tmp_path):
    path = tmp_path / "runs.json"
    ago = time.time() - 2 * atomic._ABANDONED
    names = {".runs.json.7": ago, ".runs.json.8": time.time(), ".other.json.7": ago, ".runs.json.bak": ago}
    for name, changed in names.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (changed, changed))
    write(path, "[]")
    assert {file.name for file in tmp_path.iterdir()} == {*names, "runs.json"} - {".runs.json.7"}
