"""``resjax COMMAND``: the list of commands is whole, and each starts as its module does."""

import ast
import json
import subprocess
import sys

import pytest
from script_helpers import REPOSITORY, environment, run_each
from test_rooms import COMMANDS as FILES
from test_rooms import modules

from resjax import __version__
from resjax.__main__ import COMMANDS


def starts(file):
    """Whether a module does something when it is started: ``if __name__ == "__main__"``."""
    body = ast.parse(file.read_text("utf-8")).body
    return any(isinstance(node, ast.If) and "'__main__'" in ast.unparse(node.test) for node in body)


def test_every_command_is_listed():
    started = {name.removesuffix(".__main__") for name, file in modules().items() if starts(file)}
    assert started - {"resjax"} == {module for module, _ in COMMANDS.values()}
    files = {f"resjax.{file.replace('/', '.')}".removesuffix(".__main__") for file in FILES}
    assert started == files


def test_the_list_of_commands_needs_no_jax(tmp_path):
    (tmp_path / "jax.py").write_text("raise ImportError('imported')")
    path = environment(PYTHONPATH=f"{tmp_path}:{REPOSITORY}")

    def resjax(*arguments):
        command = [sys.executable, "-m", "resjax", *arguments]
        return subprocess.run(command, env=path, capture_output=True, text=True)

    bare, version, near, far = (resjax(*a) for a in ((), ("--version",), ("anlyze",), ("xyz",)))
    assert [done.returncode for done in (bare, version, near, far)] == [0, 0, 2, 2]
    for name in COMMANDS:
        assert f"\n  {name} " in bare.stdout and name in far.stderr
    assert version.stdout == f"resjax {__version__}\n"
    assert near.stderr.startswith("error: no command 'anlyze'. Did you mean resjax analyze?")
    assert "Did you mean" not in far.stderr and far.stderr.count("\n") == 1
    assert "imported" in resjax("train").stderr  # JAX could indeed not be imported


@pytest.mark.slow
def test_a_command_by_name_is_its_module(tmp_path):
    """In a folder without ``configs/``; the name of the configuration is given in both forms of a flag."""
    commands = [
        ("resjax", "describe", "--config=lenet5_mnist:smoke", "--json"),
        ("resjax.describe", "--config", "lenet5_mnist:smoke", "--json"),
        ("resjax", "describe", "--config=configs/digits.py:smoke"),
        ("resjax", "describe", "--config"),
        ("resjax", "prepare", "nothing_such"),
    ]
    named, module, wrong, bare, failed = run_each(commands, tmp_path, cwd=tmp_path)
    assert named.returncode == module.returncode == 0, named.stderr + module.stderr
    assert named.stdout == module.stdout and json.loads(named.stdout)["layers"]
    assert wrong.returncode == 2 and "no such file" in wrong.stderr and "--config=digits?" in wrong.stderr
    assert bare.returncode == 2 and "config" in bare.stderr and "Traceback" not in bare.stderr
    assert failed.returncode == 2 and "fashion_mnist" in failed.stderr
