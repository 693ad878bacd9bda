"""Make a workdir from a network trained elsewhere: ``python -m resjax.pretrained FILE --workdir=DIR``.

FILE is safetensors or a file of PyTorch's ``torch.save``. ``resjax.analyze`` analyzes the resulting run like
any other, and ``resjax.train`` continues it::

    python -m resjax.analyze --workdir=DIR
    python -m resjax.train --config=DIR/config.py --workdir=DIR

Fields of the configuration are given as in training, e.g. ``--config.data.name=cifar10``; those of the
network come from FILE. ``runs.json`` contains the file's name, checksum and layout under ``imported``.
"""

import sys
from pathlib import Path

import jax
from absl import app, flags
from ml_collections import config_flags

from resjax import command
from resjax.pretrained.source import read
from resjax.pretrained.workdirs import default_config, evaluate, make_workdir
from resjax.training.experiment import load_experiment


def _main(argv: list[str]) -> None:
    if len(argv) != 2 or not _WORKDIR.value:
        raise app.UsageError(f"one FILE and --workdir are needed, got {argv[1:]}; see --help")
    experiment = load_experiment(_CONFIG.value)
    state = make_workdir(_SOURCE, _WORKDIR.value, experiment, new_head=_NEW_HEAD.value)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    model = _CONFIG.value.model.name
    print(f"{argv[1]}: {_SOURCE.layout.name}, {model}, {parameters:,} parameters", flush=True)
    if _EVALUATE.value:
        sums = evaluate(experiment, state, _WORKDIR.value)
        print(
            f"error on {experiment.dataset.info.name}: {100 * sums['error'] / sums['count']:.2f} % "
            f"({sums['error']:,.0f} of {sums['count']:,.0f})"
        )
    home = _WORKDIR.value
    print(f"done: {home}. Analyze it: python -m resjax.analyze --workdir={home}")
    print(f"Continue: python -m resjax.train --config={home}/config.py --workdir={home}")


def _given_file() -> str:
    """FILE; the fields of --config depend on it, so it is needed before the flags are parsed."""
    given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if not given:
        wrong = "" if "--help" in sys.argv else "error: no FILE given.\n\n"
        print(f"{wrong}{__doc__}", file=sys.stderr)
        sys.exit(2)
    return next((argument for argument in given if Path(argument).is_file()), given[0])


if __name__ == "__main__":
    try:
        _SOURCE = read(_given_file())
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    _CONFIG = config_flags.DEFINE_config_dict("config", default_config(_SOURCE.layout))
    _WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run, created if absent")
    about = "initialize a new classifier, for other classes"
    _NEW_HEAD = flags.DEFINE_bool("new_head", False, about)
    about = "measure the error on the data's evaluation set (long for ImageNet on a CPU)"
    _EVALUATE = flags.DEFINE_bool("evaluate", True, about)
    flags.mark_flags_as_required(["workdir"])
    command.run(_main)
