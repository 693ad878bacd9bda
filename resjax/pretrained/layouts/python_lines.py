"""Parts of the lines of Python that are printed for an exported network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def arguments(values: Mapping[str, object]) -> str:
    """``name=value, …``"""
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def loaded(file: str) -> str:
    """The line that fills ``model`` with the tensors of ``file``."""
    return f"model.eval().load_state_dict(safetensors.torch.load_file({file!r}))"


def without(what: str, blocks: Iterable[int]) -> list[str]:
    """A comment on the blocks of which a cut has left no ``what``; [] where there are none."""
    if not (numbers := ", ".join(map(str, blocks))):
        return []
    return [f"# No {what} is left in blocks {numbers}: its tensors are zeros there."]
