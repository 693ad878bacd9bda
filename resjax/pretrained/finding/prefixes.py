"""Finding the network among a file's tensors: the prefix under which a known layout stands.

Training programs save a network beside others and beside their own state, and wrap it: ``state_dict.`` and
``module.`` precede its names, or ``encoder_q.``, ``teacher.backbone.``. Each known layout has a tensor that
every network of that layout contains (``layouts.MARKERS``); what precedes its name is a prefix. Wrappers of
PyTorch, such as ``module`` of ``DataParallel``, may also stand within the names; there they are left out.
"""

import shlex
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from resjax.pretrained.finding import normalizers
from resjax.pretrained.layouts.recognition import MARKERS, recognize
from resjax.pretrained.reading.files import Tensors, shape_of, under
from resjax.spelling import nearest

# DataParallel, torch.compile, FSDP and activation checkpointing.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# What training programs keep beside a network: tensors in a module of such a name are no part of one.
_TRAINING = {
    "criterion", "loss", "loss_fn", "loss_func", "queue", "queue_ptr", "n_averaged", "normalizer",
    "normalize", "optimizer", "optimizers", "optim", "optimizer_states", "scheduler", "lr_scheduler",
    "scaler", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad", "grads",
    "gradients", "mask", "masks",
}  # fmt: skip


_MOST = 100  # networks in a file
_COMPARED = 2000  # names that are compared with one that was given
# Numbers of operations, which a profiler leaves in every module.
COUNTS = {"total_ops", "total_params"}


class Selection(NamedTuple):
    """The tensors under one prefix."""

    prefix: str  # "" or with a dot at its end
    tensors: Tensors  # named without the prefix
    ignored: tuple[str, ...]  # the full names of the tensors that are no part of the network


def unwrapped(name: str) -> str:
    """``name`` without the names of wrappers."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def prefixes(tensors: Tensors) -> list[str]:
    """Every prefix under which a known layout stands, in the file's order; of those within a module of the
    training program's, such as a loss, only if there are no others.

    Raises:
      ValueError: there are more than 100.
    """
    found: dict[str, None] = {}
    for name in tensors:
        plain = unwrapped(name)
        for marker in MARKERS:
            if plain == marker or plain.endswith(f".{marker}"):
                found[_before(name, marker)] = None
        if len(found) > _MOST:
            raise ValueError(f"it holds more than {_MOST} networks: save those of one network alone")
    return [prefix for prefix in found if not _TRAINING & set(prefix.split("."))] or list(found)


def select(tensors: Tensors, prefix: str | None = None) -> Selection:
    """The tensors under ``prefix``, or under the only prefix that a known layout has.

    A part of a prefix suffices where it leaves one choice. Of networks that are equal bit for bit, the first
    is taken.

    Raises:
      ValueError: no tensor has the prefix, or several prefixes are possible; the message lists them.
    """
    found = prefixes(tensors)
    if prefix is None:
        return _only(tensors, found, found) if found else under_prefix(tensors, "", found)
    wanted = prefix.strip(".")
    given = f"{wanted}." if wanted else ""
    for form in (str, unwrapped):
        exact = [p for p in found if form(p) == form(given)]
        longer = [p for p in found if given and form(p).startswith(form(given))]
        if exact or longer:
            return _only(tensors, exact or longer, found)
    selection = under_prefix(tensors, given, found)
    if not selection.tensors:
        raise ValueError(f"no network stands under --prefix={wanted}: {_near(tensors, found, wanted)}")
    return selection


def _only(tensors: Tensors, choices: list[str], found: list[str]) -> Selection:
    """The selection under the only one of ``choices`` that differs from those before it."""
    distinct: list[Selection] = []
    for prefix in choices:
        selection = under_prefix(tensors, prefix, found)
        if not any(equal(selection.tensors, other.tensors) for other in distinct):
            distinct.append(selection)
    if len(distinct) == 1:
        return distinct[0]
    lines = "".join(f"\n  {s.prefix.strip('.') or '(no prefix)'}: {_told(s.tensors)}" for s in distinct)
    raise ValueError(f"it holds {len(distinct)} networks:{lines}\n{_choose(s.prefix for s in distinct)}")


def under_prefix(tensors: Tensors, prefix: str, found: list[str]) -> Selection:
    """The selection under ``prefix``, without the networks under longer prefixes and what training keeps."""
    others = tuple(other for other in found if other != prefix and other.startswith(prefix))
    beside = {name for pair in normalizers.names(tensors) for name in pair}
    rests = {
        name: name.removeprefix(prefix)
        for name in tensors
        if name.startswith(prefix) and not (others and name.startswith(others)) and name not in beside
    }
    mine = {name: rest for name, rest in rests.items() if not _of_training(rest, tensors, name)}
    plain = {unwrapped(rest): name for name, rest in mine.items()}
    if len(plain) < len(mine):  # two names differ by a wrapper only
        plain = {rest: name for name, rest in mine.items()}
    return Selection(prefix, under(tensors, plain), tuple(name for name in tensors if name not in mine))


def _of_training(rest: str, tensors: Tensors, name: str) -> bool:
    """Whether the tensor ``name`` is the training program's own: state, or a number or average in no module.

    ``rest`` is its name without the prefix.
    """
    parts = rest.split(".")
    if parts[0] in _TRAINING or parts[-1] in COUNTS:
        return True
    return len(parts) == 1 and (rest.startswith("ema_") or shape_of(tensors, name) == ())


def _before(name: str, marker: str) -> str:
    """What precedes ``marker`` in ``name``, which ends with it if wrappers are left out."""
    parts = name.split(".")
    left = marker.count(".") + 1
    while left:
        left -= parts.pop() not in _WRAPPERS
    return "".join(f"{part}." for part in parts)


def equal(a: Tensors, b: Tensors) -> bool:
    """Whether all names and numbers are the same; what can't be read is not."""
    try:
        return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)
    except ValueError:
        return False


def _told(tensors: Tensors) -> str:
    """What network they are, for a choice."""
    try:
        layout = recognize(tensors)
    except ValueError as error:
        return f"{len(tensors)} tensors, not supported: {str(error).splitlines()[0]}"
    classes = f"{layout.num_classes} classes" if layout.num_classes else "no classifier"
    return f"{len(tensors)} tensors, {layout.name}, {layout.model.name}, {classes}"


def _choose(found: Iterable[str]) -> str:
    choices = [shlex.quote(f"--prefix={prefix.removesuffix('.')}") for prefix in found]
    return f"choose one: {'  or  '.join(choices)}" if len(choices) > 1 else f"use {choices[0]}"


def _near(tensors: Tensors, found: list[str], wanted: str) -> str:
    """The prefixes that may have been meant."""
    if found:
        return _choose(found)
    parts = (name.split(".") for name in tensors)
    there = {".".join(part[:i]) for part in parts for i in range(1, len(part))}
    if near := nearest(wanted, there) if len(there) <= _COMPARED else "":
        return f"did you mean {near}?"
    outer = sorted({prefix.split(".")[0] for prefix in there})[:8]
    return f"there are {', '.join(outer)}" if outer else "no name in the file has a prefix"
