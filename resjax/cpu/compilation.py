"""Programs compile quickly, and are kept on disk, so that a second start does not compile again.

Both are set by the commands (``resjax.train``, ``analyze``, ``demo``, ``pretrained``), and left alone by the
library. Programs are kept by JAX's persistent compilation cache. Where they lie:

1. ``$JAX_COMPILATION_CACHE_DIR``, if set: JAX's own variable, with JAX's own rules. Nothing here is done.
2. ``$RESJAX_CACHE_DIR``, if set; ``off`` for no cache.
3. ``$XDG_CACHE_HOME/resjax``, else ``~/.cache/resjax``.

Within 2 and 3, each version of JAX's compiler and each kind of processor has a folder of its own: what was
compiled for one processor may use instructions that another one lacks. Programs that were not used for
``DAYS`` are removed. The folder is for its owner alone, since a program that is read from it is run.

A program is found by its own text, the compiler's options and the devices, never by a name or a date: a cache
can be shared by any number of processes and deleted at any time. Two processes that compile the same program
at once both write it. If one is killed in that very moment, JAX warns of an entry that it can't read and
compiles instead; deleting the folder ends the warning.
"""

from __future__ import annotations

import gc
import hashlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import jax
import jaxlib

DAYS = 30
SECONDS = 0.1  # what compiles faster than this is not kept


def cache_folder(environment: Mapping[str, str]) -> Path | None:
    """Where compiled programs go under these environment variables; None for nowhere.

    Raises:
      ValueError: RESJAX_CACHE_DIR is not an absolute path.
      RuntimeError: there is neither a variable nor a home directory.
    """
    wanted = environment.get("RESJAX_CACHE_DIR", "")
    if wanted.lower() == "off":
        return None
    if wanted:
        root = Path(wanted).expanduser()
        if not root.is_absolute():
            raise ValueError(
                f"RESJAX_CACHE_DIR={wanted}: allowed are an absolute path, or 'off' to keep no programs"
            )
    else:
        xdg = Path(environment.get("XDG_CACHE_HOME", ""))
        # A relative one is to be ignored, says the XDG specification.
        root = (xdg if xdg.is_absolute() else Path.home() / ".cache") / "resjax"
    return root / "compiled" / f"jaxlib-{jaxlib.__version__}-{_processor()}"


def keep_compiled(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Turns the cache on, if it is wanted and possible, and returns its folder.

    Call it before the first compilation.

    Where the folder can't be made or written, such as in a read-only home, it says so on stderr and the
    process goes on without a cache.

    Raises:
      ValueError: RESJAX_CACHE_DIR is not an absolute path.
    """
    config: Any = jax.config
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return None
    try:
        folder = cache_folder(environment)
        if folder is None:
            return None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError) as error:
        print(
            f"compiled programs are not kept, because there is no place for them ({error}); "
            "RESJAX_CACHE_DIR names another folder, or 'off'",
            file=sys.stderr,
        )
        return None
    _remove_unused(folder, time.time() - DAYS * 24 * 3600)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in environment:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS)
    return folder


def compile_quickly(environment: MutableMapping[str, str] = os.environ) -> None:
    """XLA no longer unrolls the loops of a CPU's kernels: a sixth less time to compile, none more to run.

    Call it after imports and before anything is compiled. ``xla_backend_extra_options`` that are there
    already are left alone. Python's collector no longer walks what has been imported, again and again while
    a program is traced.
    """
    gc.freeze()
    flags = environment.get("XLA_FLAGS", "")
    if "xla_backend_extra_options" not in flags:
        own = "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling"
        environment["XLA_FLAGS"] = f"{flags} {own}".strip()


def _remove_unused(folder: Path, since: float) -> None:
    """Removes programs last read and written before ``since``; another process may do so at once."""
    for program in folder.glob("*-cache"):
        try:
            used = program.stat()
            if max(used.st_atime, used.st_mtime) < since:
                program.unlink()
        except OSError:  # already gone, or somebody else's
            continue


def _processor() -> str:
    """A short name for what the compiler may assume of the processor."""
    facts = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts += sorted({line for line in lines if line.startswith(("model name", "flags"))})
    except OSError:  # not Linux
        pass
    return f"{platform.machine()}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}"
