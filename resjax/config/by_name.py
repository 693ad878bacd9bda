"""Files that define a configuration: those of ``configs/`` by name, and others by path."""

import importlib.resources
import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

from resjax.data.files import check_regular
from resjax.spelling import nearest


def files() -> dict[str, Path]:
    """The configurations of resjax, ``{"digits": …/digits.py, …}``.

    They are in ``resjax/configs/`` of an installed package, and in ``configs/`` of a checkout.
    """
    package = Path(str(importlib.resources.files("resjax")))
    installed = package / "configs"
    folder = installed if installed.is_dir() else package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def find_file(name: str | Path) -> Path:
    """The file of a configuration, which is given by its path or, if it is one of resjax, by its name.

    An existing file comes before a name.

    Raises:
      FileNotFoundError: there is neither.
      ValueError: the file is of another kind than Python, or a pipe or device.
    """
    path, known = Path(name).expanduser(), files()
    if path.is_file():
        if path.suffix != ".py":
            raise ValueError(
                f"configuration {str(name)!r} is no Python file (*.py). Write one with a get_config(arg) "
                "that starts from resjax.config.default() and returns it with other values. Or change fields "
                "of another: --config=digits --config.optimizer.learning_rate=0.1"
            )
        return path
    if not path.is_dir():
        check_regular(path)
    if str(name) in known:
        return known[str(name)]
    near = nearest(path.stem, known)
    raise FileNotFoundError(
        f"configuration {str(name)!r}: there is no such file, and resjax has none of this name. "
        + (f"Did you mean --config={near}? " if near else "")
        + f"Allowed: the path of a Python file with a get_config(arg), or one of {', '.join(known)}"
    )


def load_file(name: str | Path, arg: str = "") -> ConfigDict:
    """``get_config(arg)`` of a file such as configs/digits.py, or of resjax's configuration ``"digits"``.

    Raises:
      FileNotFoundError: there is no such configuration.
    """
    path = find_file(name)
    spec = importlib.util.spec_from_file_location("resjax_experiment", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{path} is not a Python file with a get_config(arg)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


def smoke(arg: str) -> bool:
    """Whether a configuration's argument is 'smoke', the small form. Other arguments are errors."""
    if arg not in ("", "smoke"):
        raise ValueError(f"configuration argument {arg!r}; allowed: none, or 'smoke' as in digits:smoke")
    return arg == "smoke"
