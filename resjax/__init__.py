"""resjax: train convolutional networks, then take them apart into paths."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resjax.discovery import discover as discover

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "discover":  # imported on demand, since commands set options before they import JAX
        from resjax.discovery import discover

        return discover
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
