"""Make a workdir from a network trained elsewhere: ``python -m resjax.pretrained FILE --workdir=DIR``.

FILE is safetensors, a file of PyTorch's ``torch.save``, or a folder with one of them. ``resjax.analyze``
analyzes the resulting run like any other, and ``resjax.train`` continues it::

    python -m resjax.analyze --workdir=DIR
    python -m resjax.train --config=DIR/config.py --workdir=DIR

The data are those of the training: ``--config.data.name=DATA``, a known set, an .npz file or a folder. The
configuration of the network comes from FILE. Its fields, and all others, are changed as in training, by
``--config.FIELD=VALUE``; ``FILE --help`` lists them. The command prints what it assumed about the network,
and the flag that changes it. Compare the printed error with that of the network's authors.

If FILE holds several networks, ``--prefix=NAME`` chooses one by what precedes its tensors' names. If the
names are of no known layout, ``--names=TABLE`` renames the tensors: a line of the file TABLE is
``PATTERN -> REPLACEMENT``, as in Python's ``re.sub``. The error message proposes a table.
"""

import shlex
import sys
from pathlib import Path

import jax
from absl import flags

from resjax import command
from resjax.data import Info
from resjax.pretrained.accuracy import Stated, agrees, compared, like_guessing, stated
from resjax.pretrained.assumptions import as_text, assumptions
from resjax.pretrained.constants import Constants, as_flags
from resjax.pretrained.source import Source, read
from resjax.pretrained.standardization import advice, any_fits, better, fits, with_constants
from resjax.pretrained.workdirs import (
    default_config,
    make_workdir,
    need_data,
    new_head_of,
    variables_of,
)
from resjax.training.experiment import Experiment, load_experiment
from resjax.training.loaded import evaluate, measured, need_free
from resjax.training.step import TrainState
from resjax.workdir.paths import writable

_GIVEN = {"config.data.mean", "config.data.std"}  # flags that exist only where they are given


def _main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise command.Misuse(f"one FILE is needed, got {len(argv) - 1}: {shlex.join(argv[1:])}; see --help")
    if not _WORKDIR.value:
        raise command.Misuse(
            "--workdir is missing, the folder of the new run: for example --workdir=runs/theirs"
        )
    writable(_WORKDIR.value)
    need_data(_CONFIG.value, _SOURCE.layout)
    need_free(_WORKDIR.value)
    experiment = load_experiment(_CONFIG.value)
    new_head = _NEW_HEAD.value
    variables = variables_of(_SOURCE, experiment, new_head=new_head)
    found = fits(experiment, variables)
    if new_head and not any_fits(found):
        found = []  # as expected: these are other images than those of its training
    layout, constants = _SOURCE.layout, better(found)
    taken = not _SOURCE.constants and not _GIVEN & set(flags.FLAGS)
    before = experiment
    if constants and taken:
        experiment = with_constants(experiment, constants)
        layout = layout._replace(constants_of="the file")
    state = make_workdir(_SOURCE, _WORKDIR.value, experiment, new_head=new_head, variables=variables)
    _print_source(argv[1], sum(leaf.size for leaf in jax.tree.leaves(state.params)))
    info = experiment.dataset.info
    if _SOURCE.constants == (info.mean, info.std):
        own = as_flags(Constants(info.mean, info.std))
        print(f"images are standardized with the file's own constants: {own}")
    if new_head:
        print(new_head_of(_SOURCE, experiment))
    if _EVALUATE.value:
        sums = evaluate(experiment, state, _WORKDIR.value)
        _print_error(info, sums)
        claim = None if new_head else stated(_SOURCE.values)
        if claim:
            print(compared(claim, sums["error"], int(sums["count"])))
        if claim and experiment is not before and not agrees(claim, sums["error"], int(sums["count"])):
            _print_error_before(before, state, claim)
    print(as_text(assumptions(experiment.config, layout, info)))
    if said := advice(found, taken):
        print(said)
    print(command.done(_WORKDIR.value, experiment.config.model.name))
    print(f"Continue: {command.training_on(_WORKDIR.value)}")


def _print_source(file: str, parameters: int) -> None:
    layout = _SOURCE.layout
    print(f"{file}: layout {layout.name}, model {layout.model.name}, {parameters:,} parameters", flush=True)
    where = f"under the prefix {_SOURCE.prefix.rstrip('.')}" if _SOURCE.prefix else "found without a prefix"
    if _SOURCE.besides:
        print(f"the network is {where}; the file also has {', '.join(_SOURCE.besides)}")
    elif _SOURCE.prefix:
        print(f"the network is {where}")


def _print_error(info: Info, sums: dict[str, float]) -> None:
    errors, count = sums["error"], sums["count"]
    print(f"error on {info.name}: {100 * errors / count:.2f} % ({errors:,.0f} of {count:,.0f})")
    if not _NEW_HEAD.value and (said := like_guessing(errors, int(count), info.num_classes)):
        print(said)


def _print_error_before(experiment: Experiment, state: TrainState, claim: Stated) -> None:
    """Where the constants that fit the first BatchNorm replaced those of ``experiment``: says whether the
    stated error is that of the latter. (Some scripts test with other constants than they train with.)"""
    sums, info = measured(experiment, state), experiment.dataset.info
    if agrees(claim, sums["error"], int(sums["count"])):
        old = as_flags(Constants(info.mean, info.std))
        error = f"{100 * sums['error'] / sums['count']:.2f} %"
        print(f"other constants than the first BatchNorm shows give the stated error: {error} with {old}.")
        print("For a run with these, give them and another --workdir")


def _early(argv: list[str], known: flags.FlagValues = flags.FLAGS) -> str:
    """FILE. It, --prefix and --names are needed before other flags exist: the fields of --config depend on
    the network in FILE.

    Raises:
      flags.Error: a flag that is known so far lacks its value or has a wrong one.
    """
    given: list[str] = []
    after_field: list[str] = []
    field = False
    for argument in known(argv, known_only=True)[1:]:
        if not argument.startswith("-"):
            (after_field if field else given).append(argument)
        # ``--config.data.name cifar10``: absl takes a value from the next argument, too.
        field = argument.startswith(("--config.", "-config.")) and "=" not in argument
    candidates = given + after_field
    return next((one for one in candidates if Path(one).expanduser().exists()), (candidates or [""])[0])


def _source() -> Source:
    about = command.plain_text(__doc__)
    file = _early(sys.argv)
    if not file:
        if {"--help", "-help", "--helpfull"} & set(sys.argv):
            print(f"{about}\nFlags, beside those of --config, which depend on FILE:\n")
            print(flags.FLAGS.main_module_help())
            sys.exit(0)
        raise command.Misuse(f"no FILE given.\n\n{about}")
    return read(file, prefix=_PREFIX.value, names=_NAMES.value)


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run, created if absent")
    about = "what precedes the names of the network's tensors in FILE; needed if it holds several networks"
    _PREFIX = flags.DEFINE_string("prefix", None, about)
    about = "a text file that renames the tensors; each line is 'PATTERN -> REPLACEMENT'"
    _NAMES = flags.DEFINE_string("names", None, about)
    about = "initialize a new classifier, for other classes"
    _NEW_HEAD = flags.DEFINE_bool("new_head", False, about)
    about = "measure the error on the data's evaluation set (long for ImageNet on a CPU)"
    _EVALUATE = flags.DEFINE_bool("evaluate", True, about)
    with command.in_one_line("FILE was read"):
        _SOURCE = _source()
        _CONFIG = command.define_config(default_config(_SOURCE.layout))
    command.run(_main)
