"""Scripts that are no part of the package, as modules."""

import importlib.util
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def load_script(path):
    """``path`` from the root of the repository, like ``launch/reproduce.py``."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, REPOSITORY / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
