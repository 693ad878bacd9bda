"""Scripts that are no part of the package, as modules, and processes of their own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).parent.parent


def load_script(path):
    """``path`` from the root of the repository, like ``launch/reproduce.py``; as where it is started, modules
    beside it can be imported."""
    if (folder := str((REPOSITORY / path).parent)) not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(Path(path).stem, REPOSITORY / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recorded(value):
    """What was recorded, to compare with: other machines round the last digits of a number otherwise."""
    if isinstance(value, dict):
        return {key: recorded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [recorded(inner) for inner in value]
    return pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True) if isinstance(value, float) else value


def environment(**changes):
    """For a process of its own: one device, as users have it, compiled as quickly as the tests here."""
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in f]
    own = {"XLA_FLAGS": " ".join(flags), "PYTHONPATH": str(REPOSITORY)}
    return {**os.environ, **own, **changes}


# Importing JAX, Flax and the like takes seconds; what starts here has them already, and nothing of ours.
_FORK = """
import json, os, runpy, sys, warnings
from pathlib import Path

import flax.linen, jax, ml_collections, optax, orbax.checkpoint, rich.console

for number, (module, *arguments) in enumerate(json.loads(sys.argv[2])):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the fork: JAX has started no thread yet
        child = os.fork() == 0
    if child:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{sys.argv[1]}/{number}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        sys.argv = [module, *arguments]
        if module.endswith(".py"):
            sys.path[0] = str(Path(module).parent)
            runpy.run_path(module, run_name="__main__")
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.exit()
    Path(f"{sys.argv[1]}/{number}.code").write_text(str(os.waitstatus_to_exitcode(os.wait()[1])))
"""


class Done(NamedTuple):
    """How a process ended."""

    returncode: int
    stdout: str
    stderr: str


def run_each(commands, folder, cwd=None, **changes):
    """Each of these (a module's name or its file, then arguments), one after another, as ``python`` would
    start it; what they say goes through ``folder``, and ``changes`` are of the environment."""
    own = [sys.executable, "-c", _FORK, str(folder), json.dumps(commands)]
    subprocess.run(own, cwd=cwd, env=environment(**changes), check=True)
    kinds = ("code", "out", "err")
    texts = [[(folder / f"{i}.{k}").read_text() for k in kinds] for i in range(len(commands))]
    return [Done(int(code), out, err) for code, out, err in texts]
