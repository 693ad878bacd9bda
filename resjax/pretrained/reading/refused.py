"""Refusing a checkpoint that refers to other names, with the command that saves its weights alone."""

import itertools
from pathlib import Path
from typing import Any

from resjax.pretrained.reading.formats import python_command
from resjax.pretrained.reading.leaves import place_of
from resjax.pretrained.reading.meanings import Tensor, meaning
from resjax.pretrained.reading.pickles import Made, Name, Recorded, TorchFileError
from resjax.pretrained.reading.stand_ins import accepted

_SOME = 5
_CLASSES = 20  # in a command
_KEYS = 100  # among which the weights are looked for


def check_names(recorded: Recorded, path: str | Path, *, plain: bool = False) -> None:
    """Refuses a file that refers to a name that is not accepted.

    Args:
      recorded: what the file's pickle says.
      path: of the file.
      plain: whether it is of ``pickle.dump`` instead of ``torch.save``.

    Raises:
      TorchFileError: it does; the message says which, where, and how to save the weights alone.
    """
    unknown = [name for name in dict.fromkeys(recorded.names) if not accepted(name)]
    if not unknown:
        return
    listed = ", ".join(f"{name}{_where(recorded.found, name)}" for name in unknown[:_SOME])
    more = f" and {len(unknown) - _SOME} more names" if len(unknown) > _SOME else ""
    raise TorchFileError(
        f"it refers to {listed}{more}. Tensors do not need this, and only a fixed list of names is accepted, "
        "so it was refused and no code was run. If you trust it, "
        f"{_remedy(recorded.found, unknown, Path(path), plain)}"
    )


def _where(root: Any, name: Name) -> str:
    place = place_of(root, lambda thing: thing == name)
    return f" (in {place!r})" if place else ""


def _remedy(root: Any, unknown: list[Name], path: Path, plain: bool) -> str:
    """What to do, and the command for it on a line of its own."""
    out = str(path.with_name(f"{path.name.split('.')[0]}_weights.pth"))
    if plain:
        load = f"pickle.load(open({str(path)!r}, 'rb'))"
        command = python_command(f"import pickle, torch; torch.save({load}, {out!r})")
        return f"save the tensors in it with PyTorch, where these modules are installed:\n  {command}"
    keys, model = _weights(root)
    chosen = f"torch.load({str(path)!r}, map_location='cpu', weights_only=False)"
    chosen += "".join(f"[{key!r}]" for key in keys)
    own = [name.name for name in unknown if name.module == "__main__" and name.name.isidentifier()]
    if len(own) > _CLASSES:
        return f"save the weights alone in the program that defines its {len(own):,} classes"
    if model:
        code = f"import torch; torch.save({chosen}.state_dict(), {out!r})"
        start = f"save the state_dict() of the whole model in it, a {model}, "
        if own:
            return f"{start}in the program that defines this class:\n  {code}"
        return f"{start}where its module can be imported:\n  {python_command(code)}"
    # Classes of a script can't be imported; empty ones take their place.
    classes = "".join(f"{name} = type({name!r}, (), {{}}); " for name in own)
    command = python_command(f"{classes}import torch; torch.save({chosen}, {out!r})")
    return f"save the weights alone with PyTorch:\n  {command}"


def _weights(root: Any) -> tuple[list[str | int], Name | None]:
    """The keys that lead to the weights, and the class of a whole model that is there instead of a dict."""
    entries = itertools.islice(_dict(root).items(), _KEYS)
    top = [([key], value) for key, value in entries if isinstance(key, str | int)]
    for keys, thing in [([], root), *top]:
        if isinstance(thing, Made) and isinstance(thing.state, dict) and "_parameters" in thing.state:
            return keys, thing.name
        if any(isinstance(meaning(one), Tensor) for one in itertools.islice(_dict(thing).values(), _KEYS)):
            return keys, None
    return [], None


def _dict(thing: Any) -> dict[Any, Any]:
    found = meaning(thing)
    return found if isinstance(found, dict) else {}
