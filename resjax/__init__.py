"""resjax: train convolutional networks, then take them apart into paths."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resjax.discovery import discover as discover

__version__ = "0.1.0"

# Until Python has found the module of ``python -m resjax.train``, sys.argv begins with "-m".
if sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)].removeprefix("-m").startswith("resjax"):
    from resjax.workdir.stopping import starts_process

    starts_process()


def __getattr__(name: str) -> Any:
    if name == "discover":  # imported on demand, since commands set options before they import JAX
        from resjax.discovery import discover

        return discover
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
