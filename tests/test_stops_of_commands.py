"""Real commands that get a signal in each of their phases.

Each phase lasts for minutes here, most of them in one call of C that lets other threads run and looks at no
signal, as a compilation does. So a command that waited for the end of its phase would exceed the limit.
"""

import os
import signal
import subprocess
import sys

import pytest
from script_helpers import environment
from test_train import small_config

from resjax.train import train_and_evaluate

pytestmark = pytest.mark.slow

# What runs before the command: ``hold(owner, name)`` makes a function last.
_SETUP = """
import functools, hashlib, sys, time
from importlib import import_module

def in_python():
    while True:
        time.sleep(0.1)

def in_c(rounds=10**9):
    hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)

def in_compiler():
    import jax
    x = jax.numpy.ones((9, 9))
    grow = lambda x, _: jax.numpy.sin(x @ x)
    lowered = jax.jit(lambda x: functools.reduce(grow, range(4000), x)).lower(x)
    print("READY", flush=True)
    lowered.compile()

def hold(owner, name, how=in_c):
    owner = functools.reduce(getattr, owner.split(":")[1:], import_module(owner.split(":")[0]))
    original = getattr(owner, name)
    def held(*args, **kwargs):
        if how is not in_compiler:
            print("READY", flush=True)
        how()
        return original(*args, **kwargs)
    setattr(owner, name, held)
"""
_MAIN = """
from resjax.__main__ import main
main()
"""
NOTHING = "nothing had to be saved; the same command starts again"
KEPT = "finished results are kept; the same command continues"
AGAIN = " again: ended at once; what was saved before is whole"
TRAIN = ("train", "--config={folder}/c.py", "--workdir={folder}/new", "--config.train.duration=8 steps")
ANALYZE = ("analyze", "--workdir={folder}/run", "--out={folder}/report", "--studies=curves")
CUT = ("cut", "--workdir={folder}/run", "--out={folder}/smaller", "--count=1")
IMPORT = ("pretrained", "{folder}/net.pth", "--workdir={folder}/theirs")
# {phase: (what makes it last, the command, what its line says after the signal)}
PHASES = {
    "reading": (
        "hold('resjax.training.experiment', 'load_experiment', in_python)",
        TRAIN,
        f" while the data were read: {NOTHING}",
    ),
    "decoding": (
        "hold('resjax.training.experiment', 'load_experiment')",
        TRAIN,
        f" while the data were read: {NOTHING}",
    ),
    "compiling": (
        "hold('resjax.training.loop', 'prepare', in_compiler)",
        TRAIN,
        " while the training was compiled: the run is at step 0 of 8, where the same command continues",
    ),
    "computing": ("hold('resjax.studies.study:Study', 'run')", ANALYZE, f" was computed: {KEPT}"),
    "drawing": ("hold('resjax.report.write', 'save')", ANALYZE, f" while the report was written: {KEPT}"),
    "choosing units": ("hold('resjax.studies.cutting.choose', 'order')", CUT, f" was computed: {NOTHING}"),
    "importing": (
        "hold('resjax.pretrained.source', 'read')",
        IMPORT,
        f" while FILE was read: {NOTHING}",
    ),
    "preparing": (
        "hold('resjax.data.tfds', 'library')",
        ("prepare", "mnist"),
        f" while mnist was prepared: {NOTHING}",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run and a file for --config."""
    folder = tmp_path_factory.mktemp("stops")
    train_and_evaluate(small_config(), folder / "run")
    (folder / "c.py").write_text(
        "from resjax import config as configs\n"
        "def get_config(arg=''):\n"
        f"    return configs.load({str(folder / 'run')!r})\n"
    )
    return folder


def start(setup, command, folder):
    arguments = [one.format(folder=folder) for one in command]
    code = f"{_SETUP}\n{setup}\n{_MAIN}"
    own = environment(JAX_PLATFORMS="cpu")
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=own, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    while (line := process.stdout.readline()) != "READY\n":
        assert line, process.communicate()[1]
    return process


@pytest.mark.parametrize(
    ("phase", "number"),
    [
        *((phase, signal.SIGTERM) for phase in PHASES),
        ("decoding", signal.SIGINT),
        ("drawing", signal.SIGUSR1),
    ],
)
def test_a_signal_ends_a_command_in_this_phase(folder, phase, number):
    setup, command, said = PHASES[phase]
    process = start(setup, command, folder)
    os.killpg(process.pid, number)
    error = process.communicate(timeout=30)[1]
    assert process.returncode == 143, error
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith(number.name) and said in error.splitlines()[-1]


def test_a_second_signal_ends_it_at_once_even_while_it_saves(folder):
    process = start("hold('resjax.training.checkpoint:Checkpoints', 'save')", TRAIN, folder)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(6)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=30)[1]
    assert process.returncode == 143 and error.splitlines()[-1] == f"SIGTERM{AGAIN}"


def test_while_python_imports_a_signal_ends_it_with_the_same_line(tmp_path):
    (tmp_path / "jax.py").write_text("import time\nprint('READY', flush=True)\ntime.sleep(1000)\n")
    own = environment()
    own["PYTHONPATH"] = f"{tmp_path}:{own['PYTHONPATH']}"
    process = subprocess.Popen(
        [sys.executable, "-m", "resjax.train"],
        env=own,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == "READY\n"
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=30)[1]
    assert (process.returncode, error) == (143, f"SIGINT while the command started or ended: {NOTHING}\n")
