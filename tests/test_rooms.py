"""The rooms of resjax: which package may import which, and that every command starts as a file.

Run this file to count the imports that cross rooms, of this tree or of another one::

    python tests/test_rooms.py [REPOSITORY]
"""

import ast
import collections
import functools
import sys
from pathlib import Path

import pytest
from script_helpers import REPOSITORY, run_each

ROOMS = {
    "command",
    "config",
    "network",
    "discovery",
    "models",
    "training",
    "workdir",
    "cpu",
    "data",
    "pretrained",
    "studies",
    "report",
    "cut",
    "play",
}
COMMANDS = ("__main__", "train", "analyze", "claims", "describe", "convolve", "demo", "pretrained/__main__",
            "pretrained/export", "cut/__main__", "play/__main__", "data/prepare")  # fmt: skip


@functools.cache
def modules(repository=REPOSITORY):
    """{dotted name: file} of every module of resjax; a package is named without ``__init__``."""
    files = (repository / "resjax").rglob("*.py")
    names = {".".join(f.relative_to(repository).with_suffix("").parts): f for f in files}
    return {name.removesuffix(".__init__"): f for name, f in names.items()}


@functools.cache
def imports(repository=REPOSITORY):
    """{module: resjax's modules that it imports}, within functions and under ``TYPE_CHECKING`` too."""
    known = modules(repository)
    found = {}
    for module, file in known.items():
        found[module] = targets = set()
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{module} imports from {'.' * node.level}: write resjax out"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                name = name if name in known else name.rpartition(".")[0]
                if name in known:
                    targets.add(name)
    return found


def room(module):
    """``resjax.network.unit`` → network; '' for the package itself and the modules at its top."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (parts[1] in ROOMS or len(parts) > 2) else ""


def arrows(repository=REPOSITORY):
    """How many imports lead from one room to another, {(from, to): number}."""
    pairs = [(room(a), room(b)) for a, found in imports(repository).items() for b in found]
    return collections.Counter(pair for pair in pairs if pair[0] != pair[1])


def circle(graph):
    """Some circle of ``graph`` {node: nodes}, as a list of nodes; [] where there is none."""
    done = set()

    def walk(node, path):
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for following in sorted(graph.get(node, ())):
            if found := walk(following, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


def is_command(module):
    return "__main__" in modules()[module].read_text()


@pytest.mark.parametrize("alone", ["network", "cpu"])
def test_some_rooms_import_no_other(alone):
    used = {b for a, found in imports().items() if room(a) == alone for b in found}
    assert {room(b) for b in used} == {alone}


def test_of_the_top_a_room_imports_spelling_only():
    for module, found in imports().items():
        if room(module):
            top = {name for name in found if not room(name)}
            assert top <= {"resjax", "resjax.spelling"}, module


def test_commands_alone_use_what_they_share():
    for module, found in imports().items():
        if "command" in map(room, found) and room(module) != "command":
            assert is_command(module), module
            assert {name for name in found if room(name) == "command"} == {"resjax.command"}, module


def test_no_circle_between_rooms():
    """Rooms import ``config``, which imports rooms. A command belongs to the top, even if its file is in a
    room."""
    graph = collections.defaultdict(set)
    for module, found in imports().items():
        own = room(module) or module
        if own in ROOMS:
            away = {own, "resjax"} | ({"command", "config"} if is_command(module) else set())
            graph[own] |= {room(name) or name for name in found} - away
    assert set(graph) == ROOMS
    assert circle(graph) == []


def test_no_circle_between_modules():
    """A package stands for its ``__init__``, which its own modules must not need."""
    assert circle(imports()) == []


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_no_module_has_a_name_of_the_standard_library():
    """Python would import it instead, where a command is started as a file of its folder."""
    names = {part for module in modules() for part in module.split(".")}
    assert names & sys.stdlib_module_names == set()


def test_the_top_is_small_and_every_folder_is_a_room():
    """``__init__`` and ``__main__`` are the package itself, as it is imported and as it is started."""
    itself = ("resjax", "resjax.__main__")
    top = [module for module in modules() if not room(module) and module not in itself]
    assert len(top) <= 10, top
    assert {path.parent.name for path in (REPOSITORY / "resjax").glob("*/*.py")} == ROOMS


@pytest.mark.parametrize(
    "some", [COMMANDS[:2], pytest.param(COMMANDS[2:], marks=pytest.mark.slow)], ids=["first", "others"]
)
def test_commands_start_as_files(some, tmp_path):
    commands = [(str(REPOSITORY / f"resjax/{command}.py"), "--help") for command in some]
    for command, done in zip(some, run_each(commands, tmp_path, cwd=tmp_path), strict=True):
        assert "Traceback" not in done.stderr, (command, done.stderr)
        assert done.returncode in (0, 1, 2), command  # absl shows the help and leaves with 1
        assert "--" in done.stdout + done.stderr, command


if __name__ == "__main__":
    counted = arrows(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY)
    for (start, end), number in sorted(counted.items()):
        print(f"{start or '(top)'} → {end or '(top)'}: {number}")
    print(f"imports that cross rooms: {sum(counted.values())}")
