"""Scripts that are no part of the package, as modules, and processes of their own."""

import importlib.util
import os
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def load_script(path):
    """``path`` from the root of the repository, like ``launch/reproduce.py``."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, REPOSITORY / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def environment(**changes):
    """For a process of its own: one device, as users have it, compiled as quickly as the tests here."""
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in f]
    own = {"XLA_FLAGS": " ".join(flags), "PYTHONPATH": str(REPOSITORY)}
    return {**os.environ, **own, **changes}
