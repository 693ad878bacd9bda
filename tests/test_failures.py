"""Every failure ends in one line with the path and the remedy; only a fault of a program has a traceback."""

import errno
import os
import shutil
import sys
import zipfile
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from absl import app, flags
from orbax.checkpoint import v1 as ocp
from PIL import Image

from resjax import command, train
from resjax import config as configs
from resjax.network.refusal import Refusal
from resjax.training.checkpoint import Checkpoints
from resjax.training.experiment import load_experiment
from resjax.training.safety import bytes_of, telling_what_is_safe
from resjax.workdir import atomic, failures
from resjax.workdir.failures import explained, naming
from resjax.workdir.stopping import Stopped
from resjax.workdir.workdir import add_start, claim, write_config
from resjax.workdir.writers import Writer

# What TensorStore, safetensors and JAX say.
STORE = (
    'RESOURCE_EXHAUSTED: Failed writing: "/disk/run/2.incomplete/d/e3": Failed to write 47 bytes to file 11: '
    "No space left on device [os_error_code='28']"
)
RUST = "Error while serializing: I/O error: No space left on device (os error 28)"
MEMORY = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes."


def system(number, name="/disk/file"):
    return OSError(number, os.strerror(number), name)


def raised_by(work):
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError


def raised_from(error, cause):
    error.__cause__ = cause
    return error


KINDS = {
    "permission": (system(errno.EACCES), "/disk/file: permission denied; change the permissions"),
    "not permitted": (system(errno.EPERM), "/disk/file: permission denied"),
    "read-only disk": (
        system(errno.EROFS),
        "/disk/file: this disk can only be read; name a folder on another",
    ),
    "full disk": (system(errno.ENOSPC), "/disk/file: the disk is full ("),
    "quota": (system(errno.EDQUOT), "/disk/file: your quota of this disk is used up; remove what"),
    "long name": (system(errno.ENAMETOOLONG), "/disk/file: the name is too long; name a shorter one"),
    "below a file": (system(errno.ENOTDIR), "/disk/file: a part of this path is a file and no folder"),
    "folder": (system(errno.EISDIR), "/disk/file: this is a folder, where a file is needed"),
    "circle": (system(errno.ELOOP), "/disk/file: links lead in a circle; remove the link"),
    "broken disk": (system(errno.EIO), "/disk/file: the disk reports an error"),
    "lost storage": (system(errno.ESTALE), "mount the storage again"),
    "many files": (system(errno.EMFILE), "ulimit -n"),
    "another number": (system(errno.EXDEV), f"/disk/file: {os.strerror(errno.EXDEV)}; check the path"),
    "bytes as a name": (system(errno.EACCES, b"/disk/file"), "/disk/file: permission denied"),
    "an open file": (
        OSError(errno.ENOSPC, "No space left on device"),
        "the disk is full; remove what you do not need on it",
    ),
    "TensorStore": (ValueError(STORE), "/disk/run/2.incomplete/d/e3: the disk is full"),
    "safetensors": (RuntimeError(RUST), "the disk is full; remove"),
    "group": (
        ExceptionGroup("threads", [TypeError("x"), system(errno.EROFS)]),
        "/disk/file: this disk can only",
    ),
    "cause": (raised_from(RuntimeError("worker"), system(errno.EACCES)), "/disk/file: permission denied"),
    "our text": (raised_from(ValueError("give --x"), system(errno.EACCES)), "give --x"),
    "archive": (
        zipfile.BadZipFile("Bad magic number"),
        "a file is damaged, or only a part of one: Bad magic",
    ),
    "bomb": (Image.DecompressionBombError("4 pixels"), "a picture can't be read: 4 pixels"),
    "no picture": (
        Image.UnidentifiedImageError("cannot identify"),
        "a picture can't be read: cannot identify",
    ),
    "memory": (
        MemoryError("Unable to allocate 9 GiB"),
        "the memory does not suffice (Unable to allocate 9 GiB); ",
    ),
    "device memory": (
        jax.errors.JaxRuntimeError(MEMORY),
        "the memory does not suffice (Out of memory while trying to allocate 17179869184 bytes); reduce --b=",
    ),
    "memory of a running program": (
        jax.errors.JaxRuntimeError(
            "INTERNAL: Error dispatching computation: Out of memory allocating 9 bytes."
        ),
        "the memory does not suffice (Out of memory allocating 9 bytes); reduce --b=",
    ),
    "an array that no machine holds": (
        NotImplementedError("random bits array of size exceeding 2 ** 64"),  # JAX's, for a layer too wide
        "the memory does not suffice (random bits array",
    ),
    "memory of arrays": (
        raised_by(lambda: jax.numpy.zeros(2**44, np.uint8)),
        "the memory does not suffice (Out",
    ),
    "memory of the system": (system(errno.ENOMEM), "the memory does not suffice (Cannot allocate memory)"),
}


@pytest.mark.parametrize("error, said", KINDS.values(), ids=KINDS)
def test_a_failure_of_the_system_is_one_line(error, said):
    line = explained(error, "--b=8")
    assert line.startswith(said) or said in line.partition("; ")[2]
    assert "\n" not in line and "Errno" not in line


@pytest.mark.parametrize(
    "error",
    [TypeError("x"), RuntimeError("x"), RecursionError("x"), ExceptionGroup("x", [KeyError("x")]),
     ValueError(), jax.errors.JaxRuntimeError("INTERNAL: x")],
)  # fmt: skip
def test_a_fault_of_a_program_is_not_explained(error):
    assert explained(error) is None


def test_what_is_safe_follows():
    error = system(errno.EIO)
    error.add_note("The checkpoint of step 4 is whole.")
    assert explained(error).endswith("another disk. The checkpoint of step 4 is whole.")
    error = ValueError("a text without a full stop")
    error.add_note("The checkpoint of step 4 is whole.")
    assert explained(error) == "a text without a full stop. The checkpoint of step 4 is whole."


def test_sizes_are_read_by_people():
    sizes = (0, 999, 1000, 2_150_000, 999_700_000, 7e9, 1e15)
    assert [failures.size(n) for n in sizes] == [
        "0 bytes",
        "999 bytes",
        "1 kB",
        "2.15 MB",
        "1 GB",
        "7 GB",
        "1.0 PB",
    ]


def ended(capsys, error):
    """(status, what is printed as an error) of a command that raises ``error``."""
    with pytest.raises(SystemExit) as left, command.in_one_line():
        raise error
    return left.value.code, capsys.readouterr().err


ENDS = {
    "system": (system(errno.EACCES), 1, "error: /disk/file: permission denied"),
    "value": (ValueError("x=3; allowed: 1"), 1, "error: x=3; allowed: 1\n"),
    "refusal": (Refusal("no units"), 1, "error: no units\n"),
    "misuse": (command.Misuse("--x"), 2, "error: --x\n"),
    "flag": (flags.Error("--x"), 2, "error: --x\n"),
    "usage": (app.UsageError("--x"), 2, "error: --x\n"),
    "stopped": (Stopped("SIGTERM: saved"), 143, "SIGTERM: saved\n"),
    "interrupted": (KeyboardInterrupt(), 143, "stopped by Ctrl-C\n"),
}


@pytest.mark.parametrize("error, status, said", ENDS.values(), ids=ENDS)
def test_the_end_of_a_command(capsys, error, status, said):
    code, line = ended(capsys, error)
    assert code == status and line.startswith(said) and line.count("\n") == 1


def test_a_fault_has_its_traceback_and_says_whose_it_is(capsys):
    code, text = ended(capsys, TypeError("of the user"))  # this file is no part of resjax
    assert code == 1 and "Traceback" in text and "TypeError: of the user" in text
    assert text.splitlines()[-1].startswith(f"error: the TypeError above comes from {__file__}, line ")


def test_a_fault_of_resjax_is_called_that(capsys):
    from resjax.command import start

    error = TypeError("x")
    try:
        failures.size("no number")
    except ValueError as raised:
        error.__traceback__ = raised.__traceback__.tb_next  # from the frame in resjax
    assert "the TypeError above is a fault of resjax" in start._fault(error)


def test_the_flags_that_reduce_memory_are_named(capsys, monkeypatch):
    known = flags.FlagValues()
    flags.DEFINE_integer("batch_size", 500, "", flag_values=known)
    monkeypatch.setattr(flags, "FLAGS", known)
    assert "reduce --batch_size=500, or use" in ended(capsys, MemoryError())[1]


def test_standard_output_that_is_full(monkeypatch, capsys):
    """One line; Python would try once more at its end, and print a traceback."""
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        print("x")
        with pytest.raises(SystemExit, match="1"), command.in_one_line():
            full.flush()
    assert capsys.readouterr().err.startswith("error: the disk is full; ")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_file_that_cannot_be_written_is_named_and_its_temporary_one_is_gone(tmp_path, monkeypatch, number):
    path = tmp_path / "runs.json"
    path.write_text("before")

    def fail(*_):
        raise OSError(number, os.strerror(number), "some other name")

    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError) as raised:
        atomic.write(path, "after")
    assert (raised.value.errno, raised.value.filename) == (number, str(path))
    assert os.listdir(tmp_path) == ["runs.json"] and path.read_text() == "before"


def test_errors_of_libraries_get_the_name_of_the_file(tmp_path):
    with pytest.raises(OSError, match="No space left") as raised, naming(tmp_path):
        raise RuntimeError(RUST)
    assert raised.value.filename == str(tmp_path)
    with pytest.raises(KeyError), naming(tmp_path):
        raise KeyError("no error of the system")


def test_a_full_log_is_named(tmp_path):
    """When a record is written, and when what could not be written is tried again at the end."""
    path = tmp_path / "metrics.jsonl"
    writer = Writer(tmp_path, 0, 4)
    writer._file.close()
    writer._file = open("/dev/full", "a")  # noqa: SIM115
    with pytest.raises(OSError) as writing:
        writer.write({"step": 1, "epoch": 0.0})
    with pytest.raises(OSError) as closing, writer:
        pass
    assert writing.value.filename == closing.value.filename == str(path)
    assert explained(writing.value).startswith(f"{path}: the disk is full")


# Training.


@pytest.fixture(scope="module")
def tiny():
    c = configs.default("resnet", stage_sizes=(1,), widths=(4,))
    c.data.train_examples, c.train.batch_size = 32, 16
    c.train.duration, c.checkpoint.every, c.log.every = "4 steps", "2 steps", "1 steps"
    return c


@pytest.fixture(scope="module")
def needed(tiny):
    return bytes_of(load_experiment(tiny).state_shapes)


def test_a_save_on_a_full_disk_leaves_the_one_before(tiny, needed, tmp_path, monkeypatch):
    """Orbax's own error, from its threads; nothing else is left, and the same command continues."""
    save = ocp.save

    def full(path, state, **more):
        if int(state.step) < 4:
            return save(path, state, **more)
        (path.parent / "4.incomplete.orbax-checkpoint-tmp").mkdir()
        raise ValueError(STORE)

    monkeypatch.setattr("resjax.training.checkpoint.ocp.save", full)
    with pytest.raises(OSError) as raised:
        train.train_and_evaluate(tiny, tmp_path / "run")
    line = explained(raised.value)
    assert line.startswith(f"{tmp_path}/run/checkpoints/4: the disk is full (")
    assert (
        f"A checkpoint takes about {failures.size(needed)}. The checkpoint of step 2 is whole; the same"
        in line
    )
    assert os.listdir(tmp_path / "run/checkpoints") == ["2"]
    monkeypatch.undo()
    assert int(train.train_and_evaluate(tiny, tmp_path / "run").step) == 4


@pytest.mark.parametrize("saves", [False, True])
def test_only_after_a_save_an_error_of_values_says_that_the_command_continues(tmp_path, saves):
    """Before, it may be about the checkpoint itself: the same command would fail again."""
    checkpoints, error = Checkpoints(tmp_path), ValueError("another seed")
    (tmp_path / "checkpoints/2").mkdir(parents=True)
    with pytest.raises(ValueError), telling_what_is_safe(checkpoints, None):
        if saves:
            (tmp_path / "checkpoints/4").mkdir()
        raise error
    note = ". The checkpoint of step 4 is whole; the same command continues there." if saves else ""
    assert explained(error) == f"another seed{note}"


@pytest.mark.parametrize("part, fits", [(0.4, False), (1.5, True)])
def test_the_space_is_checked_before_the_training(tiny, needed, tmp_path, monkeypatch, capsys, part, fits):
    left = int(part * needed)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=left))

    def begin(*_):
        raise Stopped("begun")

    monkeypatch.setattr("resjax.training.loop.run", begin)
    with pytest.raises(Stopped if fits else ValueError) as raised:
        train.train_and_evaluate(tiny, tmp_path / "run")
    shown, takes = capsys.readouterr().err, failures.size(needed)
    if fits:
        assert "the disk may become full" in shown and failures.size(2 * needed) in shown
    else:
        said = f"{tmp_path}/run/checkpoints: a checkpoint takes about {takes}, and {failures.size(left)} are"
        assert explained(raised.value).startswith(said)


def test_the_workdir_is_checked_before_the_data_are_read(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "load_experiment", lambda config: pytest.fail("the data were read"))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is within the file"):
        train.train_and_evaluate(tiny, tmp_path / "file/run")


def test_a_folder_of_checkpoints_that_cannot_be_read_is_not_empty(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(NotADirectoryError):
        _ = Checkpoints(tmp_path).newest


# {what made it: (the entry of runs.json, what the refusal says)}
GIVEN = {
    "import": (
        {"imported": {"file": "net.pth", "sha256": "0", "layout": "torchvision"}},
        "was imported from net.pth, and its checkpoints are gone. Copy one to .*pretrained FILE --workdir=OT",
    ),
    "cut": (
        {"cut": {"from": "my runs/a", "step": 2, "units": ["stage1/unit2", "stage2/unit1"], "by": "last"}},
        "was cut from the run in my runs/a, and its checkpoints are gone. Copy one to .*resjax.cut "
        "--workdir='my runs/a' --out=OTHER --units=stage1/unit2,stage2/unit1$",
    ),
}


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("start, said", GIVEN.values(), ids=GIVEN)
def test_a_given_network_without_its_checkpoints_is_not_trained_anew(tiny, tmp_path, start, said, trained):
    add_start(tmp_path, **start)
    write_config(tmp_path, tiny)
    (tmp_path / "checkpoints/1").mkdir(parents=True)
    claim(tmp_path, tiny)
    if not trained:
        (tmp_path / "runs.json").unlink()
        add_start(tmp_path, **start)
    (tmp_path / "checkpoints/1").rmdir()
    before = (tmp_path / "runs.json").read_text()
    with pytest.raises(ValueError, match=said):
        claim(tmp_path, tiny)
    assert (tmp_path / "runs.json").read_text() == before
