"""Checkpoints: what was saved loads, and nothing else does."""

import gc
import logging
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from resjax.training import checkpoint, manifest
from resjax.training.checkpoint import Checkpoints, Damaged
from resjax.training.step import TrainState

LAST = 10


def state(step):
    values = jnp.arange(6, dtype=jnp.float32) + step
    return TrainState(
        step=jnp.int32(step),
        params={"kernel": values},
        batch_stats={"mean": -values},
        opt_state=(),
        key=jax.random.key(step),
    )


LIKE = state(0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with checkpoints of steps 4 and 8."""
    path = tmp_path_factory.mktemp("saved")
    for step in (4, 8):
        Checkpoints(path).save(state(step))
    return path


@pytest.fixture
def run(saved, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(saved, tmp_path / "run")


@pytest.fixture
def older(tmp_path):
    """The same, as versions without checksums saved it."""
    with ocp.training.Checkpointer(tmp_path / "older/checkpoints") as saver:
        for step in (4, 8):
            saver.save(step, state(step), force=True)
    return tmp_path / "older"


@pytest.fixture
def refused_by_orbax():
    """It leaves coroutines that nobody awaits."""
    yield
    gc.collect()


IGNORED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def files(folder):
    """All files of a checkpoint that hold something, by name."""
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: path for name, path in found.items() if path.stat().st_size}


def flip(path, where):
    content = bytearray(path.read_bytes())
    content[where(len(content))] ^= 1 << 5
    path.write_bytes(content)


def truncate(path, where):
    os.truncate(path, where(path.stat().st_size))


def delete(path, _):
    path.unlink()


DAMAGE = {
    "first byte": (flip, lambda n: 0),
    "second byte": (flip, lambda n: min(1, n - 1)),
    "a byte in the middle": (flip, lambda n: n // 2),
    "last byte": (flip, lambda n: n - 1),
    "last byte missing": (truncate, lambda n: n - 1),
    "half": (truncate, lambda n: n // 2),
    "empty": (truncate, lambda n: 0),
    "deleted": (delete, None),
}


def assert_loads(checkpoints, step):
    loaded = checkpoints.restore(LIKE, step)
    assert int(loaded.step) == step
    np.testing.assert_array_equal(loaded.params["kernel"], state(step).params["kernel"])


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_of_any_file_is_named_and_the_checkpoint_before_it_is_taken(run, saved, what):
    damage, where = DAMAGE[what]
    folder, checkpoints = run / "checkpoints/8", Checkpoints(run)
    names = files(folder)
    assert len(names) > 5
    for name, path in names.items():
        damage(path, where)
        step, damaged = checkpoints.intact(LIKE, LAST)
        assert (step, list(damaged)) == (4, [8])
        assert damaged[8].startswith(f"the checkpoint of step 8 is damaged: {folder}/")
        # A changed list of checksums can't be told from a changed file that it lists.
        assert name in damaged[8] or name == manifest.FILE
        with pytest.raises(Damaged, match=re.escape(damaged[8])):
            checkpoints.restore(LIKE, 8)
        path.write_bytes((saved / "checkpoints/8" / name).read_bytes())
    assert checkpoints.intact(LIKE, LAST) == (8, {})
    assert_loads(checkpoints, 8)


def test_bytes_all_over_the_files_count(run):
    """One of a hundred, in every file."""
    folder = run / "checkpoints/8"
    for name, path in files(folder).items():
        content = path.read_bytes()
        for place in range(0, len(content), 97):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            assert manifest.damage(folder), (name, place)
        path.write_bytes(content)
    assert manifest.damage(folder) is None


def test_files_that_a_file_manager_adds_do_no_harm(run):
    (run / "checkpoints/8/state/.DS_Store").write_text("x")
    assert Checkpoints(run).intact(LIKE, LAST) == (8, {})


def test_a_link_to_nothing_or_a_pipe_is_no_file(run):
    path = run / "checkpoints/8/state/_METADATA"
    for make in (lambda: path.symlink_to("nothing"), lambda: os.mkfifo(path)):
        path.unlink()
        make()
        assert manifest.damage(run / "checkpoints/8") == "state/_METADATA is missing"


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="sha256sum is not installed")
def test_the_checksums_are_those_of_sha256sum(saved):
    subprocess.run(
        ["sha256sum", "--strict", "--quiet", "-c", "8/SHA256SUMS"], cwd=saved / "checkpoints", check=True
    )


def test_where_all_are_damaged_one_line_names_them(run):
    for step in (4, 8):
        flip(run / f"checkpoints/{step}/state/_METADATA", lambda n: 0)
    with pytest.raises(Damaged) as refused:
        Checkpoints(run).intact(LIKE, LAST)
    text = str(refused.value)
    assert text.index("step 8 is damaged") < text.index("step 4 is damaged")
    assert "another --workdir" in text and "\n" not in text
    assert Checkpoints(run).steps == [4, 8]


def test_a_line_names_few_of_many(run):
    for step in (5, 6, 7):
        Checkpoints(run).save(state(step))
    for folder in (run / "checkpoints").iterdir():
        delete(folder / "SHA256SUMS", None)
    with pytest.raises(Damaged, match=r"step 8 .*step 7 .*step 6 .* …") as refused:
        Checkpoints(run).intact(LIKE, LAST)
    assert "step 5" not in str(refused.value)


def test_a_folder_without_checkpoints_holds_none(tmp_path):
    assert Checkpoints(tmp_path, tidy=True).intact(LIKE, LAST) == (None, {})
    assert not list(tmp_path.iterdir())


def test_damaged_checkpoints_keep_their_files_under_another_name(run):
    checkpoints = Checkpoints(run)
    assert checkpoints.set_aside(8).name == "8.damaged"
    checkpoints.save(state(8))
    assert checkpoints.set_aside(8).name == "8.damaged-2"
    assert Checkpoints(run, tidy=True).steps == [4]
    assert len(list((run / "checkpoints").glob("8.damaged*/state"))) == 2


def test_a_step_after_the_end_is_no_finished_run(run):
    with pytest.raises(
        ValueError,
        match=r"checkpoints/8 is after the last step .*, 6: .*mv .*8\.other; .*step 4 is the newest",
    ):
        Checkpoints(run).intact(LIKE, 6)
    with pytest.raises(ValueError, match=r"checkpoints/8 .* 2: .*then there is none left"):
        Checkpoints(run).intact(LIKE, 2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda home: (home / "999").mkdir(), "step 999 is damaged or"),
        (lambda home: shutil.copytree(home / "4", home / "999"), "999/SHA256SUMS is that of step 4"),
    ],
    ids=["empty", "a copy"],
)
def test_a_folder_that_is_no_checkpoint_of_its_step(run, make, said):
    make(run / "checkpoints")
    step, damaged = Checkpoints(run).intact(LIKE, LAST)
    assert step == 8 and said in damaged[999]


@IGNORED
def test_a_checkpoint_of_another_network_is_not_called_damaged(run, refused_by_orbax):
    with pytest.raises(ValueError, match="checkpoints/8 is intact, but that of another network") as refused:
        Checkpoints(run).restore(LIKE.replace(params={"bias": LIKE.params["kernel"]}))
    assert not isinstance(refused.value, Damaged) and "\n" not in str(refused.value)


def test_a_checkpoint_without_checksums_loads_as_before(older):
    checkpoints = Checkpoints(older)
    assert checkpoints.intact(LIKE, LAST) == (8, {})
    assert_loads(checkpoints, 8)
    assert_loads(checkpoints, 4)


@IGNORED
# Where an array can't be read, orbax leaves threads that still read the others; these are all of the index.
@pytest.mark.parametrize("what", ["empty", "deleted"])
@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt"])
def test_without_checksums_files_that_cannot_be_read_are_damaged(older, name, what, refused_by_orbax):
    damage, where = DAMAGE[what]
    damage(older / "checkpoints/8/state" / name, where)
    step, damaged = Checkpoints(older).intact(LIKE, LAST)
    assert step == 4 and "step 8 is damaged or that of another network" in damaged[8]
    assert "\n" not in damaged[8]


def test_without_checksums_the_step_is_that_of_the_folder(older):
    (older / "checkpoints/8").rename(older / "checkpoints/9")
    assert "holds step 8" in Checkpoints(older).intact(LIKE, LAST)[1][9]


class Killed(BaseException):
    pass


def kill(*_, **__):
    raise Killed


@pytest.mark.parametrize("place", ["ocp.save", "manifest.write", "Path.rename", "shutil.rmtree"])
def test_a_save_that_is_killed_at_any_moment_leaves_whole_checkpoints(run, monkeypatch, place):
    owner, name = place.split(".")
    with monkeypatch.context() as patch:
        patch.setattr(getattr(checkpoint, owner), name, kill)
        with pytest.raises(Killed):
            Checkpoints(run, keep=2).save(state(9))
    steps = Checkpoints(run).steps
    assert steps == ([8, 9] if place == "shutil.rmtree" else [4, 8])
    for step in steps:
        assert manifest.damage(run / f"checkpoints/{step}") is None
    checkpoints = Checkpoints(run, keep=2, tidy=True)
    checkpoints.save(state(9))
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["8", "9"]
    assert_loads(checkpoints, 9)


def test_a_full_disk_leaves_the_checkpoints_that_were_there(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "write", full)
    with pytest.raises(OSError, match="No space left"):
        Checkpoints(run).save(state(9))
    assert Checkpoints(run).intact(LIKE, LAST) == (8, {})


def test_a_step_that_has_a_checkpoint_is_not_saved_again(run):
    before = (run / "checkpoints/8/SHA256SUMS").read_text()
    Checkpoints(run).save(state(8))
    assert (run / "checkpoints/8/SHA256SUMS").read_text() == before


def test_threads_of_a_failed_save_log_nothing(tmp_path, monkeypatch, caplog):
    """Some of orbax's threads fail after the save has raised the error of the first one."""
    logger = logging.getLogger("absl")

    def fail(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device [os_error_code='28']")

    monkeypatch.setattr(ocp, "save", fail)
    with pytest.raises(OSError):
        Checkpoints(tmp_path).save(state(3))
    for text, file, error in (
        ("of a thread", "future.py", ValueError("full")),
        ("of another", "x.py", ValueError("full")),
        ("plain", "future.py", None),
    ):
        cause = (type(error), error, None) if error else None
        logger.handle(logging.LogRecord("absl", logging.ERROR, f"/orbax/{file}", 1, text, (), cause))
    assert [record.message for record in caplog.records] == ["of another", "plain"]


def test_threads_that_find_a_failed_save_ended_print_nothing(tmp_path, monkeypatch):
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: printed.append(str(found.exc_value)))
    for step in (3, 4):  # the second save changes nothing more
        Checkpoints(tmp_path).save(state(step))
        hook = sys.unraisablehook
    assert hook is checkpoint._hook
    for error in (RuntimeError("Event loop is closed"), RuntimeError("another"), OSError("full")):
        sys.unraisablehook(SimpleNamespace(exc_value=error))
    assert printed == ["another", "full"]
