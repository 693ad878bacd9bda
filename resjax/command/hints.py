"""The commands that a command proposes, ready to be pasted."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from resjax.models import runs_code


def allowing(builders: Iterable[str]) -> list[str]:
    """``["--allow_code=…"]`` for those of ``builders`` that are none of resjax; [] if all are."""
    own = list(dict.fromkeys(name for name in builders if runs_code(name)))
    return [f"--allow_code={shlex.quote(','.join(own))}"] if own else []


def done(workdir: str, builder: str) -> str:
    """The last line of a command that made or trained the run in ``workdir``, whose model is ``builder``."""
    words = ["python -m resjax.analyze", f"--workdir={shlex.quote(workdir)}", *allowing([builder])]
    return f"done: {workdir}. Analyze it: {' '.join(words)}"


def training_on(workdir: str) -> str:
    """The command that trains a run on whose workdir has a ``config.py``."""
    config = shlex.quote(f"{workdir}/config.py")
    return f"python -m resjax.train --config={config} --workdir={shlex.quote(workdir)}"
