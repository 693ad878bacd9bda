"""The provenance of results: commit, versions, device, date."""

import datetime
import importlib.metadata
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def provenance() -> dict[str, Any]:
    """Facts of this process and this machine, JSON-ready; ``commit`` is None outside a git checkout."""
    devices = jax.devices()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
        **versions(),
        "device": devices[0].device_kind,
        "platform": devices[0].platform,
        "device_count": len(devices),
        "process_count": jax.process_count(),
        "machine": _processor(),
    }


def versions() -> dict[str, Any]:
    """The versions of this code, of Python and of ``packages``."""
    import resjax

    return {
        "commit": commit(),
        "resjax": resjax.__version__,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def commit() -> str | None:
    """The commit of this source tree, with ``+changes`` if files differ from it or are new.

    None if git does not track the package, for example if the checkout only contains its environment.
    """

    def git(*args: str) -> str:
        here, command = Path(__file__).parent, ["git", *args]
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        changed = git("status", "--porcelain", "--", ".")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
