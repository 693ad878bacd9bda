"""From a file to a network in it: read, rename, find, recognize."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resjax.pretrained.constants import Constants
from resjax.pretrained.finding import foreign
from resjax.pretrained.finding.besides import besides, classifier
from resjax.pretrained.finding.names import read_table, renamed
from resjax.pretrained.finding.normalizers import constants
from resjax.pretrained.finding.prefixes import select
from resjax.pretrained.finding.reparametrized import effective
from resjax.pretrained.layouts.recipes import standardized
from resjax.pretrained.layouts.recognition import Layout, is_known, recognize
from resjax.pretrained.reading.files import Tensors, read_checkpoint, under

_LONGEST = 10_000  # characters of a message, which lists names of the file
Names = str | Path | Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Source:
    """A network in a file."""

    path: Path
    tensors: Tensors  # with the names of ``layout``
    layout: Layout
    prefix: str  # of the network's tensors in the file; "" or with a dot at its end
    ignored: tuple[str, ...]  # the full names of the tensors that are no part of it
    besides: tuple[str, ...]  # what these are, a phrase for each group
    classifier: str  # how to use the fully connected layer among them as the classifier; "" if there is none
    constants: Constants | None  # where the file has them
    names: tuple[str, ...]  # the lines of the table that renamed the tensors
    values: dict[str, Any]  # numbers, strings and truth values of the file, by full name


def read(path: str | Path, *, prefix: str | None = None, names: Names | None = None) -> Source:
    """The network in a file of safetensors or ``torch.save``, or in a folder with one.

    Args:
      path: the file, a folder with one checkpoint, or an index of shards.
      prefix: what precedes the names of the network's tensors; None to find it.
      names: a file with a table that renames the tensors, or a dictionary from patterns to replacements
        (``resjax.pretrained.finding.names``).

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it can't be read without running code, it holds several networks and no ``prefix`` chooses
        one, its layout is unknown, or its network can't be represented here.
    """
    rules = read_table(names) if names is not None else ()
    checkpoint = read_checkpoint(path)
    try:
        tensors = effective(renamed(checkpoint.tensors, rules) if rules else checkpoint.tensors)
        found = select(tensors, prefix)
        if not is_known(found.tensors):
            ignored = set(found.ignored)
            own = {name: name for name in tensors if name not in ignored}
            raise ValueError(foreign.refusal(under(tensors, own), renamed=bool(rules)))
        beside, head = besides(tensors, found), classifier(tensors, found)
        try:
            layout = recognize(found.tensors)
            if not layout.channels:
                raise ValueError("its first convolution reads images of 0 channels")
        except ValueError as error:
            if not beside:
                raise
            others = f"Besides the network, the file has {', '.join(beside)}"
            raise ValueError("\n".join(filter(None, (str(error), others, head)))) from error
    except (IndexError, ArithmeticError) as error:
        raise ValueError(
            f"{checkpoint.path}: its tensors have the names of a known layout, but shapes that none of its "
            "networks has"
        ) from error
    except ValueError as error:
        if str(error).startswith(f"{checkpoint.path}: "):  # a tensor of it that can't be read
            raise
        why = str(error)
        cut = f"{why[:_LONGEST]} …" if len(why) > _LONGEST else why
        raise ValueError(f"{checkpoint.path}: {cut}") from error
    stored = constants(tensors, found.prefix, layout.channels)
    return Source(
        path=checkpoint.path,
        tensors=found.tensors,
        layout=standardized(layout, found.prefix, checkpoint.values, stored),
        prefix=found.prefix,
        ignored=found.ignored,
        besides=beside,
        classifier=head,
        constants=stored,
        names=tuple(map(str, rules)),
        values=checkpoint.values,
    )
