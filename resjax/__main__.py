"""All commands by name: ``resjax train …`` is ``python -m resjax.train …``; ``resjax`` alone lists them.

Only the module of the chosen command is imported, so the list appears at once.
"""

import os
import runpy
import sys

from resjax import __version__
from resjax.spelling import nearest
from resjax.workdir.stopping import starts_process

# {command: (its module, what it does)}
COMMANDS = {
    "demo": ("resjax.demo", "train a deep residual network and its plain twin, take both apart"),
    "train": ("resjax.train", "train a network, or continue a training"),
    "analyze": ("resjax.analyze", "take trained networks, or one of your own, apart; write a report"),
    "play": ("resjax.play", "take a network apart by hand, on a page"),
    "cut": ("resjax.cut", "make a run whose network lacks some units of another run's"),
    "claims": ("resjax.claims", "test claims about networks in general; write a report"),
    "describe": ("resjax.describe", "list all layers of a network and their cost, without training"),
    "convolve": ("resjax.convolve", "show what one convolution layer costs and computes"),
    "pretrained": ("resjax.pretrained", "make a run from a network that was trained in PyTorch"),
    "export": ("resjax.pretrained.export", "write the network of a run for PyTorch, or for JAX alone"),
    "prepare": ("resjax.data.prepare", "download and prepare a data set, such as cifar10"),
}


def _usage() -> str:
    lines = [f"  {name:<12}{about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: resjax COMMAND [--flag=value ...]",
            "",
            *lines,
            "",
            "resjax COMMAND --help lists the flags of a command, resjax --version shows the version.",
            "Start with: resjax demo --smoke",
        ]
    )


def main() -> None:
    """Runs the command that ``sys.argv`` names. The exit status is 2 if there is none of this name."""
    given = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if given in ("--help", "-h", "help"):
        print(_usage())
    elif given == "--version":
        print(f"resjax {__version__}")
    elif given in COMMANDS:
        starts_process()
        del sys.argv[1]
        # As if Python had been started with -m: the command can import modules of the current folder, such
        # as a network of one's own, and it is the main module, since only that defines flags.
        try:
            if not sys.flags.safe_path:
                sys.path[0] = os.getcwd()
        except FileNotFoundError:
            print("error: the current folder has been removed; change to another one: cd", file=sys.stderr)
            sys.exit(1)
        runpy.run_module(COMMANDS[given][0], run_name="__main__", alter_sys=True)
    else:
        near = nearest(given, COMMANDS)
        meant = f" Did you mean resjax {near}?" if near else ""
        print(f"error: no command {given!r}.{meant} Allowed: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
