"""Take a network apart by hand: python -m resjax.play --workdir=DIR[,DIR2].

Makes a page on this machine and prints its address. The page shows the units of a trained network from left
to right. A click switches a unit off, a slider scales its branch, and a unit can be dragged to another place;
the error, the answers that change and the paths that are left follow at once. Two runs of the same structure,
such as a residual network and its plain twin, get the same changes, side by side.

The numbers are those of up to --examples evaluation examples, with their interval. python -m resjax.analyze
measures on all of them. --network=package.module:make takes a network that somebody else made, as there.

Only this machine can open the page, and only with the token in its address. Ctrl-C ends the command.
"""

from __future__ import annotations

import ipaddress
import secrets
import sys
import webbrowser
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from resjax import command
from resjax import config as configs

if TYPE_CHECKING:
    from resjax.studies.subject import Subject


def _main(argv: list[str]) -> None:
    command.no_arguments(argv)
    workdirs, network = _WORKDIR.value or [], _NETWORK.value or ""
    if bool(workdirs) == bool(network):
        raise command.Misuse("name either --workdir=DIR, or two of them, or --network=package.module:make")
    if len(workdirs) > 2:
        raise command.Misuse(f"--workdir names {len(workdirs)} runs; allowed: one, or two side by side")
    try:
        from resjax.play import server
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{error.name} is missing, which the page needs; install it: pip install 'resjax[play]'"
        ) from error
    from resjax.play.live import Live, Sizes
    from resjax.studies.given import load_network
    from resjax.studies.run import load_runs
    from resjax.training.cores import share_cores_to_analyse

    allow_code = _ALLOW_CODE.value or []
    subjects: Sequence[Subject]
    if workdirs:
        share_cores_to_analyse(configs.load(workdirs[0], allow_code), sums=False)
        subjects = load_runs(list(workdirs), allow_code=allow_code)
    else:
        subjects = [load_network(network)]
    _check_alike(subjects)
    own = server.bound(_HOST.value, _PORT.value)  # before the long work
    print("compiling ...", flush=True)
    lives = [Live(subject, Sizes(_EXAMPLES.value, _BATCH_SIZE.value)) for subject in subjects]
    token = secrets.token_urlsafe(16)
    application = server.app(lives, token)
    host, port = own.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={token}"
    if not ipaddress.ip_address(host).is_loopback:
        print(f"warning: --host={_HOST.value} lets other machines reach this page", file=sys.stderr)
    print(f"Open {address} (Ctrl-C ends it)", flush=True)
    if _OPEN.value:
        webbrowser.open(address)
    server.serve(application, own)


def _check_alike(subjects: Sequence[Subject]) -> None:
    """Raises a ``ValueError`` for networks that can't have the same state."""
    units = [[(unit.stack.part, unit.name) for unit in one.network.units] for one in subjects]
    if any(own != units[0] for own in units):
        numbers = " and ".join(str(len(own)) for own in units)
        raise ValueError(
            f"the runs have {numbers} units in different stacks, so they can't have the same changes; show "
            "them one at a time"
        )


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_list("workdir", None, "folder of a run, or of two, separated by a comma")
    _NETWORK = flags.DEFINE_string("network", None, "'package.module:make', as in python -m resjax.analyze")
    _EXAMPLES = flags.DEFINE_integer("examples", 400, "most evaluation examples", lower_bound=1)
    _BATCH_SIZE = flags.DEFINE_integer("batch_size", 200, "most examples at a time", lower_bound=1)
    _HOST = flags.DEFINE_string("host", "127.0.0.1", "address of this machine at which the page is")
    _PORT = flags.DEFINE_integer("port", 8400, "port of the page, or the next free one", 1, 65_535)
    _OPEN = flags.DEFINE_bool("open", False, "also open the page in the browser of this machine")
    _ALLOW_CODE = command.define_allow_code()
    command.run(_main)
