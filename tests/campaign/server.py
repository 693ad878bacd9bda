"""Starts the commands of a campaign: each is a process of its own, forked from one that has the libraries.

Importing JAX, Flax and the like takes seconds, and happens once. A request is a line of JSON on stdin; the
answers are the process's number at once, and its exit status when it has ended.
"""

import gc
import importlib
import json
import os
import resource
import runpy
import sys
import warnings

# Before JAX is imported by what follows.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from tests.campaign import trace

# What the commands import; no command itself, since that becomes the main module.
_LIBRARIES = (
    "flax.linen", "jax", "matplotlib.pyplot", "optax", "orbax.checkpoint", "PIL.Image", "rich.progress",
    "safetensors.numpy", "sklearn.datasets", "resjax.analysis", "resjax.cut.workdirs",
    "resjax.pretrained.workdirs", "resjax.report.write", "resjax.training.loop",
)  # fmt: skip


def _serve() -> dict | None:
    """Answers requests until stdin ends; in the forked process, returns the request."""
    for line in sys.stdin:
        request = json.loads(line)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the fork: nothing has run yet, so JAX has no threads
            child = os.fork()
        if child == 0:
            return request
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def _become(request: dict) -> None:
    """Makes this process that of the request, as a shell would."""
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), stream)
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    if request["largest_file"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
    sys.argv = [request["module"], *request["arguments"]]
    trace.install(request["events"], request["kill"])


if __name__ == "__main__":
    for library in _LIBRARIES:
        importlib.import_module(library)
    gc.freeze()
    if (wanted := _serve()) is not None:
        _become(wanted)
        runpy.run_module(wanted["module"], run_name="__main__", alter_sys=True)
