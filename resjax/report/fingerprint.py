"""A hash of the code that measures a study, so that results are recomputed when that code changes.

A study's file holds code that measures, code that plots, and texts. The hash covers what ``measure`` reaches:
within ``resjax.studies``, only the functions, classes and constants in use, found by following their names;
elsewhere in resjax, whole modules with all modules that they import. Docstrings and comments do not count. So
a changed text, verdict threshold or colour does not discard an hour of results.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import symtable
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from resjax.studies.study import Bench


class _Source(NamedTuple):
    """The definitions, names and imports of a module."""

    definitions: dict[str, list[ast.AST]]  # {name: where it is defined}
    used: dict[str, set[str]]  # {function or class: names of the module that it reads}
    imported: dict[str, tuple[str, str]]  # {name: (module, name there)}
    modules: set[str]  # all modules that it imports
    tree: ast.Module


def code_fingerprint(measure: Callable[..., Any]) -> str:
    """The hash of everything that ``measure``, a function or class of a module of resjax, reaches."""
    digest = hashlib.sha256()
    for name, text in sorted(reached(measure).items()):
        digest.update(f"{name}\0{text}\0".encode())
    return digest.hexdigest()


def reached(measure: Callable[..., Any]) -> dict[str, str]:
    """What the hash covers: {'module:definition' in ``resjax.studies``, 'module' elsewhere: its syntax}."""
    return dict(_reached(measure))


def source_of(module: str) -> str:
    """The text of a module of resjax."""
    path = _path(module)
    assert path is not None
    return path.read_text("utf-8")


def forget() -> None:
    """Clears the caches, so the next call reads all sources again."""
    for cached in (_source, _closure):
        cached.cache_clear()


def _reached(measure: Callable[..., Any]) -> Iterator[tuple[str, str]]:
    start = measure.__module__
    code = getattr(measure, "__code__", None)  # a class has none; its names follow from its definition
    waiting = [(start, name) for name in code.co_names] if code else []
    waiting.append((Bench.__module__, Bench.__name__))  # it supplies the examples to ``measure``
    if measure.__name__ != "<lambda>":
        waiting.append((start, measure.__name__))
    seen: set[tuple[str, str]] = set()
    whole: set[str] = set()
    while waiting:
        module, name = waiting.pop()
        if (module, name) in seen:
            continue
        seen.add((module, name))
        if not module.startswith("resjax.studies"):
            whole |= _closure(module)
            continue
        source = _source(module)
        base, _, attribute = name.partition(".")
        if base in source.imported:
            origin, inner = source.imported[base]
            if _path(origin) and not _path(f"{origin}.{inner}"):
                waiting.append((origin, inner))
            elif attribute:  # ``from package import module``: what is used of the module
                waiting.append((f"{origin}.{inner}", attribute))
        for node in source.definitions.get(name, []):
            yield f"{module}:{name}", ast.dump(node)
            waiting += [(module, used) for used in _used(source, node) | _attributes(node)]
    for module in whole:
        yield module, _syntax(_source(module).tree)


def _used(source: _Source, node: ast.AST) -> set[str]:
    """Names of the module that a definition reads, annotations included: the class of an argument determines
    which methods are called. Local variables are excluded."""
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    fields = [(n, field) for n in ast.walk(node) for field in ("annotation", "returns")]
    notes = [note for n, field in fields if (note := getattr(n, field, None))]
    return source.used[node.name].union(
        n.id for note in notes for n in ast.walk(note) if isinstance(n, ast.Name)
    )


def _globals(table: symtable.SymbolTable) -> set[str]:
    inner = (_globals(child) for child in table.get_children())
    return {s.get_name() for s in table.get_symbols() if s.is_global()}.union(*inner)


def _attributes(node: ast.AST) -> set[str]:
    """'x.y' for each attribute y of a name x."""
    found = (n for n in ast.walk(node) if isinstance(n, ast.Attribute))
    return {f"{n.value.id}.{n.attr}" for n in found if isinstance(n.value, ast.Name)}


@functools.cache
def _closure(module: str) -> frozenset[str]:
    """A module, and the modules of resjax that it imports, directly or indirectly."""
    found, waiting = set(), [module]
    while waiting:
        if (name := waiting.pop()) not in found and _path(name):
            found.add(name)
            waiting += _source(name).modules
    return frozenset(found)


@functools.cache
def _path(module: str) -> Path | None:
    """The file of a module of resjax, or None."""
    if module.partition(".")[0] != "resjax":
        return None
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None


@functools.cache
def _source(module: str) -> _Source:
    return _parsed(source_of(module))


@functools.cache
def _parsed(text: str) -> _Source:
    """What the text of a module says. ``forget`` need not clear it: another text is another entry."""
    tree = _without_docstrings(ast.parse(text))
    used: dict[str, set[str]] = {}
    for table in symtable.symtable(text, "module", "exec").get_children():
        used.setdefault(table.get_name(), set()).update(_globals(table))
    definitions: dict[str, list[ast.AST]] = {}
    imported, modules = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                imported[alias.asname or alias.name] = (node.module, alias.name)
                modules |= {node.module, f"{node.module}.{alias.name}"}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    for node in tree.body:
        for name in _defines(node):
            definitions.setdefault(name, []).append(node)
    return _Source(definitions, used, imported, modules, tree)


@functools.cache
def _syntax(tree: ast.Module) -> str:
    """A whole module as text. Most studies reach the same modules."""
    return ast.dump(tree)


def _defines(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [n.id for t in targets if t for n in ast.walk(t) if isinstance(n, ast.Name)]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
            ]
    return tree
