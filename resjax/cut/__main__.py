"""Cut units out of the network of a run: ``python -m resjax.cut --workdir=A --out=B --rise=1``.

B becomes a run whose network is that of A without some of its units.

How many units go is said by one of --count=N, --flops=0.7 (the fewest that leave at most this share of the
multiply-adds) and --rise=1 (as many as raise the error by at most one point), or --units=… names them::

    python -m resjax.cut --workdir=runs/deep --out=runs/shorter --rise=1

--by says which ones: greedy (in each round the one whose deletion gives the lowest loss), single (by the loss
when each alone is deleted), similarity (those that turn the state least, blocks of neighbours taken
together), random, or last. Choices are made on training images; no image of the evaluation set is used.

The network in B is smaller: the variables of the units are gone. BatchNorm's statistics are re-estimated on
training images. With --map=affine or --map=linear, a map stands in the place of what was cut, fitted by least
squares. The times of both networks are measured, and kept in B/costs.json. B is a run like any other::

    python -m resjax.analyze --workdir=B
    python -m resjax.train --config=B/config.py --workdir=B
"""

from __future__ import annotations

from typing import Any

from absl import flags

from resjax import command
from resjax import config as configs
from resjax.cut import costs
from resjax.cut.steps import CutOptions, cut_run
from resjax.cut.workdirs import told
from resjax.network.maps import KINDS
from resjax.studies.cutting.choose import BY
from resjax.studies.run import load_run
from resjax.training.cores import share_cores_to_analyse
from resjax.training.loaded import need_free
from resjax.workdir.paths import local, writable

_HOW_MANY = ("units", "count", "flops", "rise")


def _criterion() -> dict[str, Any]:
    """The one flag that says how many units go, {its name: its value}.

    Raises:
      Misuse: there is none, or more than one.
    """
    given = {name: flags.FLAGS[name].value for name in _HOW_MANY}
    criterion = {name: value for name, value in given.items() if value is not None}
    if len(criterion) != 1:
        named = " and ".join(f"--{name}" for name in criterion) or "none of them"
        raise command.Misuse(
            f"say how many units go by one of --units=NAMES, --count=N, --flops=SHARE and --rise=POINTS; "
            f"got {named}"
        )
    if criterion.get("units") == []:
        raise command.Misuse("--units names no unit; give names such as stage2/unit3,stage2/unit4")
    return criterion


def _main(argv: list[str]) -> None:
    command.no_arguments(argv)
    workdir, out, criterion = _WORKDIR.value or "", _OUT.value or "", _criterion()
    command.refuse_unknown("--by", [_BY.value], BY)
    command.refuse_unknown("--map", [_MAP.value], ("none", *KINDS))
    options = command.chosen(CutOptions, _OPTIONS)
    writable(out, "--out")  # before the run is read
    need_free(out, "--out")
    allow_code = _ALLOW_CODE.value or []
    share_cores_to_analyse(configs.load(local(workdir, reads=True), allow_code))
    experiment = cut_run(
        load_run(workdir, allow_code=allow_code),
        out,
        by=_BY.value,
        maps=None if _MAP.value == "none" else (_MAP.value, options.map_rank),
        recalibrate=_RECALIBRATE.value,
        evaluated=_EVALUATE.value,
        programs=costs.PROGRAMS if _LATENCY.value else (),
        options=options,
        **criterion,
    )
    print(command.done(out, experiment.config.model.name))
    print(f"Train it on ({told(experiment.config)}): {command.training_on(out)}")


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run whose network is cut")
    _OUT = flags.DEFINE_string("out", None, "folder of the new run, created if absent")
    flags.DEFINE_list("units", None, "names of the units to cut, such as stage2/unit3,stage2/unit4")
    flags.DEFINE_integer("count", None, "number of units to cut")
    flags.DEFINE_float("flops", None, "share of the multiply-adds to keep at most, between 0 and 1")
    flags.DEFINE_float("rise", None, "most points by which the error on the images for choosing may rise")
    _BY = flags.DEFINE_string("by", "greedy", f"which units go, by one of {', '.join(BY)}")
    about = "re-estimate BatchNorm's statistics after the cut, on training images as in training"
    _RECALIBRATE = flags.DEFINE_bool("recalibrate", True, about)
    about = "measure both errors on the evaluation set (long for ImageNet on a CPU)"
    _EVALUATE = flags.DEFINE_bool("evaluate", True, about)
    _ALLOW_CODE = command.define_allow_code()
    about = f"what stands in the place of units that were cut: one of none, {', '.join(KINDS)}"
    _MAP = flags.DEFINE_string("map", "none", about)
    _LATENCY = flags.DEFINE_bool(
        "latency", True, "measure the time of both networks; it compiles six programs"
    )
    _OPTIONS = command.define_options(CutOptions)
    flags.mark_flags_as_required(["workdir", "out"])
    command.run(_main)
