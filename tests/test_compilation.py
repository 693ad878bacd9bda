"""Compiled programs that are kept: where, for whom, and that they change nothing but the time."""

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from resjax.cpu.compilation import DAYS, cache_folder, check_owner, compiling_anew
from resjax.train import load_experiment
from resjax.training.checkpoint import Checkpoints

REPOSITORY = Path(__file__).parent.parent
PROGRAM = """
from resjax.cpu.compilation import keep_compiled
keep_compiled()
import jax
hits = []
def listen(name, **_):
    if name.endswith("cache_hits"):
        hits.append(name)
jax.monitoring.register_event_listener(listen)
f = jax.jit(lambda x: jax.lax.fori_loop(0, 9, lambda i, y: jax.numpy.tanh(y @ x), x).sum())
print(float(f(jax.random.normal(jax.random.key(0), (40, 40)))).hex(), bool(hits))
"""


def environment(**changes):
    own = {k: v for k, v in os.environ.items() if not k.startswith("RESJAX_")}
    # Programs of a test compile in no time.
    fixed = {"XLA_FLAGS": "", "PYTHONPATH": str(REPOSITORY),
             "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # fmt: skip
    return {**own, **fixed, **changes}


def start(**changes):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(**changes):
    """What the program says on stdout, [value, whether anything was in the cache], and on stderr."""
    process = start(**changes)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out.split(), err


def test_where_programs_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    own = cache_folder({})
    assert own.is_relative_to(tmp_path / ".cache/resjax/compiled")
    assert cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/resjax/compiled") / own.name
    assert cache_folder({"XDG_CACHE_HOME": "relative"}) == own
    assert cache_folder({"RESJAX_CACHE_DIR": "/y"}) == Path("/y/compiled") / own.name
    assert cache_folder({"RESJAX_CACHE_DIR": "/y", "XDG_CACHE_HOME": "/x"}).parts[1] == "y"
    assert cache_folder({"RESJAX_CACHE_DIR": "off"}) is None
    with pytest.raises(ValueError, match="RESJAX_CACHE_DIR=here: allowed are an absolute path"):
        cache_folder({"RESJAX_CACHE_DIR": "here"})


def test_a_second_start_reads_what_the_first_compiled_and_says_nothing(tmp_path):
    (value, hit), err = run(XDG_CACHE_HOME=str(tmp_path))
    assert (hit, err) == ("False", "")
    kept = sorted(tmp_path.rglob("*-cache"))
    assert kept
    assert kept[0].parent.stat().st_mode & 0o077 == 0
    assert run(XDG_CACHE_HOME=str(tmp_path)) == ([value, "True"], "")
    assert sorted(tmp_path.rglob("*-cache")) == kept


def test_no_place_is_said_and_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    (_, hit), err = run(RESJAX_CACHE_DIR=str(tmp_path / "file/folder"))
    assert hit == "False"
    assert err.startswith("compiled programs are not cached")
    assert "RESJAX_CACHE_DIR" in err
    assert err.count("\n") == 1


def test_programs_that_others_could_have_put_there_are_not_run(tmp_path, monkeypatch):
    folder = cache_folder({"RESJAX_CACHE_DIR": str(tmp_path)})
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    check_owner(folder)
    for mode in (0o775, 0o757, 0o1777):
        folder.chmod(mode)
        with pytest.raises(PermissionError, match=f"other users may write in {folder}: chmod go-w {folder}"):
            check_owner(folder)
    (_, hit), err = run(RESJAX_CACHE_DIR=str(tmp_path))
    assert hit == "False" and list(folder.iterdir()) == []
    assert "can't be used (other users may write in " in err and err.count("\n") == 1
    folder.chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: os.stat(folder).st_uid + 1)
    with pytest.raises(PermissionError, match="belongs to another user"):
        check_owner(folder)


@pytest.mark.slow
def test_jax_own_variables_win(tmp_path):
    places = {"RESJAX_CACHE_DIR": str(tmp_path / "ours")}
    run(**places, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "jax"))
    assert list((tmp_path / "jax").glob("*-cache"))
    run(**places, JAX_ENABLE_COMPILATION_CACHE="0")
    assert not (tmp_path / "ours").exists()


@pytest.mark.slow
def test_many_processes_may_start_at_once(tmp_path):
    started = [start(XDG_CACHE_HOME=str(tmp_path)) for _ in range(4)]
    values = {process.communicate()[0].split()[0] for process in started}
    assert [process.returncode for process in started] == [0] * 4
    assert len(values) == 1
    assert run(XDG_CACHE_HOME=str(tmp_path))[0] == [values.pop(), "True"]


def test_a_broken_program_is_compiled_again(tmp_path):
    (value, _), _ = run(XDG_CACHE_HOME=str(tmp_path))
    for program in tmp_path.rglob("*-cache"):
        program.write_bytes(program.read_bytes()[:100])
    assert run(XDG_CACHE_HOME=str(tmp_path))[0] == [value, "False"]


def test_programs_that_nobody_used_are_removed(tmp_path):
    folder = cache_folder({"RESJAX_CACHE_DIR": str(tmp_path)})
    folder.mkdir(parents=True)
    now, long_ago = time.time(), time.time() - (DAYS + 1) * 24 * 3600
    old, used, other = (folder / name for name in ("a-cache", "b-cache", "notes.txt"))
    for path, read in ((old, long_ago), (used, now), (other, long_ago)):
        path.write_text("")
        os.utime(path, (read, long_ago))
    run(RESJAX_CACHE_DIR=str(tmp_path))
    assert not old.exists() and used.exists() and other.exists()


@pytest.mark.slow
def test_a_run_resumed_with_kept_programs_has_the_same_bits(tmp_path):
    """Twelve steps in one go without a cache; and six, then six more by programs from the cache."""
    from test_train import assert_equal

    config_path = tmp_path / "experiment.py"
    config_path.write_text(
        "from resjax import config as configs\n"
        "def get_config(arg=''):\n"
        "    c = configs.default('resnet', depth=6, widths=(4, 8))\n"
        "    c.data.pad = 1\n"
        "    c.train.batch_size = 16\n"
        "    c.train.duration = '12 steps'\n"
        "    c.checkpoint.every = '6 steps'\n"
        "    return c\n"
    )
    cache = {"RESJAX_CACHE_DIR": str(tmp_path / "cache")}
    for name, place in (("off", {"RESJAX_CACHE_DIR": "off"}), ("cold", cache), ("warm", cache)):
        command = [sys.executable, "-m", "resjax.train", f"--config={config_path}",
                   f"--workdir={tmp_path / name}"]  # fmt: skip
        if name == "warm":  # from the checkpoint in the middle, as after a kill
            (tmp_path / "warm/checkpoints").mkdir(parents=True)
            for path in ("config.json", "checkpoints/6"):
                (tmp_path / "cold" / path).rename(tmp_path / "warm" / path)
            programs = sorted((tmp_path / "cache").rglob("*-cache"))
            assert any("train_steps" in path.name for path in programs)
        done = subprocess.run(command, env=environment(**place), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert sorted((tmp_path / "cache").rglob("*-cache")) == programs
    states = []
    for name in ("off", "cold", "warm"):
        checkpoints = Checkpoints(tmp_path / name)
        like = load_experiment(_config(config_path)).create_state()
        states.append(checkpoints.restore(like, 12))
    assert_equal(states[0], states[1])
    assert_equal(states[0], states[2])


def _config(path):
    from resjax import config as configs

    return configs.load_file(path)


def test_a_choice_of_the_compiler_is_added_once_and_never_overrules():
    from resjax.cpu.compilation import compile_quickly

    environment = {"XLA_FLAGS": "--xla_cpu_enable_fast_math=false"}
    compile_quickly(environment)
    first, own = environment["XLA_FLAGS"].split()
    assert first == "--xla_cpu_enable_fast_math=false" and "unrolling" in own
    compile_quickly(environment)
    assert environment["XLA_FLAGS"].split() == [first, own]
    chosen = {"XLA_FLAGS": "--xla_backend_extra_options=xla_cpu_optimize_for_size"}
    compile_quickly(chosen)
    assert chosen == {"XLA_FLAGS": "--xla_backend_extra_options=xla_cpu_optimize_for_size"}
    empty = {}
    compile_quickly(empty)
    assert empty == {"XLA_FLAGS": own}


def test_within_a_context_programs_are_compiled_without_the_cache():
    asked = []

    def listen(name, **_):
        if name.endswith("compile_requests_use_cache"):
            asked.append(name)

    def compile_one(shape):
        before = len(asked)
        jax.jit(lambda x: x + 1)(np.zeros(shape)).block_until_ready()
        return len(asked) > before

    jax.monitoring.register_event_listener(listen)
    try:
        assert compile_one(1)
        with compiling_anew():
            assert not compile_one(2)
        assert compile_one(3)
    finally:
        jax.monitoring.unregister_event_listener(listen)
