"""The command ``resjax.cut``: a smaller run like any other, its texts, and what it refuses."""

import contextlib
import io
import json
import shutil
import signal

import jax
import numpy as np
import pytest
from network_helpers import equal, logits_of
from rich.console import Console
from run_helpers import tiny_run
from script_helpers import run_each
from test_killed import assert_whole, states  # noqa: F401 (a fixture)

from resjax import config as configs
from resjax.cut import workdirs
from resjax.models.layer_table import layer_table, totals
from resjax.network.cut import cut_variables
from resjax.report.facts import facts_of
from resjax.report.progress import progress
from resjax.studies.cutting.maps import fit
from resjax.studies.run import load_run
from resjax.train import train_and_evaluate
from resjax.training.loaded import evaluate, need_free, set_fine_tuning
from resjax.training.teacher import sha256
from resjax.workdir.stopping import Stopped
from resjax.workdir.workdir import claim, read_starts

FIELDS = {"stage_sizes": (3, 2), "widths": (4, 8), "placement": "bn_after_add"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("runs") / "whole", **FIELDS)


def cut(run, out, units, by="hand"):
    experiment = workdirs.cut_experiment(run, units)
    variables = variables_of(run, units)
    workdirs.make_workdir(run, experiment, variables, out, units=units, by=by, recalibrated=False)
    return load_run(out)


def variables_of(run, units):
    return dict(cut_variables(run.network, run.variables, units, run.image_shape))


def images(run, n=4):
    return run.examples("test", n)[0]


def test_the_new_run_is_the_old_one_without_the_units(run, tmp_path):
    """A transition and the last unit: both leave something behind."""
    units = ("stage2/unit2", "stage2/unit1")
    smaller = cut(run, tmp_path / "B", units)
    gates = np.array([unit.name not in units for unit in run.network.units], np.float32)
    expected = logits_of(run.network, run.variables, images(run), gates=gates)
    found = logits_of(smaller.network, smaller.variables, images(run))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert tuple(smaller.config.model.cut) == units and smaller.step == 1 and not smaller.from_scratch
    made = read_starts(tmp_path / "B")[0]["cut"]
    assert made.pop("sha256") == sha256(run.newest.variables)
    assert made == {
        "from": str(run.workdir), "step": 2, "units": list(units), "by": "hand", "recalibrated": False,
        "map": None,
    }  # fmt: skip
    facts = facts_of(smaller, smaller)
    assert f"stage2/unit2 and stage2/unit1 of the network in {run.workdir} (step 2)" in facts["cut"]
    assert "trained on" not in facts and "began as a larger one" in smaller.told_initial
    assert totals(layer_table(smaller.network, smaller.image_shape)).parameters == smaller.num_parameters


@pytest.mark.slow  # three runs; the networks of a second cut are tested alone
def test_a_cut_of_a_cut(run, tmp_path):
    """Its configuration names units of each network, and its schedule is not slower once more."""
    once = cut(run, tmp_path / "B", ["stage1/unit2"])
    assert [unit.name for unit in once.network.units][:2] == ["stage1/unit1", "stage1/unit2"]
    twice = cut(once, tmp_path / "C", ["stage1/unit2"])
    assert (tuple(twice.config.model.cut), tuple(twice.config.model.cut_again)) == (
        ("stage1/unit2",),
        ("none stage1/unit2",),
    )
    assert read_starts(tmp_path / "C")[0]["cut"]["units"] == ["stage1/unit2"]
    direct = cut(run, tmp_path / "D", ["stage1/unit2", "stage1/unit3"])
    expected = logits_of(direct.network, direct.variables, images(run))
    np.testing.assert_allclose(logits_of(twice.network, twice.variables, images(run)), expected, rtol=1e-5)
    for c in (once.config, twice.config):
        told = (c.train.duration, c.optimizer.schedule, c.optimizer.warmup)
        assert told == ("5 epochs", "cosine", "0 steps")
        assert c.optimizer.learning_rate == run.config.optimizer.learning_rate / 10


def test_the_training_behind_a_cut_has_no_teacher_unless_it_is_named():
    config = configs.default()
    config.train.teacher = "runs/older"
    set_fine_tuning(config, 0.01)
    assert (config.train.teacher, config.train.duration) == ("", "5 epochs")


def mapped(run, out, units, maps):
    """The run without ``units``, with fitted maps in their place."""
    experiment = workdirs.cut_experiment(run, units, maps)
    variables = dict(fit(run.network, run.variables, units, run.examples("train", 32)[0], *maps))
    facts = {"units": units, "by": "hand", "recalibrated": False, "maps": maps}
    workdirs.make_workdir(run, experiment, variables, out, **facts)
    smaller = load_run(out)
    assert equal(smaller.variables, variables)
    return smaller


@pytest.mark.slow  # it trains
@pytest.mark.parametrize("kind", ["affine", "linear"])
def test_a_run_with_maps(run, tmp_path, kind):
    """It loads with its configuration alone, and trains on."""
    maps, out = (kind, 2), tmp_path / "B"
    smaller = mapped(run, out, ["stage1/unit2", "stage2/unit2"], maps)
    assert (smaller.config.model.map, smaller.config.model.map_rank) == maps
    assert read_starts(out)[0]["cut"]["map"] == {"kind": kind, "rank": 2}
    told = {
        "affine": "; affine maps stand in their place",
        "linear": "; linear maps of rank 2 stand in their",
    }
    assert told[kind] in facts_of(smaller, smaller)["cut"]
    config = configs.load(out)
    config.train.duration = "3 steps"
    state = train_and_evaluate(config, out)
    moved = state.params["head"]["before_0"]
    assert not equal(moved, smaller.variables["params"]["head"]["before_0"])


@pytest.mark.slow  # three runs, of which the last is trained
def test_a_run_with_maps_is_cut_again(run, tmp_path):
    """With maps of another kind next to the first ones, then without; the last one is trained on."""
    once = mapped(run, tmp_path / "B", ["stage1/unit2"], ("linear", 2))
    twice = mapped(once, tmp_path / "C", ["stage1/unit2", "stage2/unit2"], ("affine", 1))
    assert tuple(twice.config.model.cut_again) == ("affine stage1/unit2 stage2/unit2",)
    kept, first = (own.variables["params"] for own in (twice, once))
    assert equal(kept["stage2_opening"]["before_1"], first["stage1_3"]["before_1"])  # behind a BatchNorm
    last = cut(twice, tmp_path / "D", ["stage1/unit1"])
    expected = logits_of(twice.network, twice.variables, images(run), gates=np.float32([0, 1]))
    np.testing.assert_allclose(
        logits_of(last.network, last.variables, images(run)), expected, rtol=1e-4, atol=1e-5
    )
    config = configs.load(tmp_path / "D")
    config.train.duration = "2 steps"
    assert int(train_and_evaluate(config, tmp_path / "D").step) == 2


@pytest.mark.slow  # it trains
def test_it_trains_on_and_resumes(run, tmp_path):
    smaller = cut(run, tmp_path / "B", ["stage2/unit1"])
    config = configs.load(tmp_path / "B")
    config.train.duration = "3 steps"
    config.checkpoint.every = "1 steps"
    state = train_and_evaluate(config, tmp_path / "B")
    assert int(state.step) == 3 and not equal(state.variables, smaller.variables)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.variables))
    shutil.rmtree(tmp_path / "B/checkpoints/3")
    assert equal(train_and_evaluate(config, tmp_path / "B").variables, state.variables)
    assert [("cut" in start) for start in read_starts(tmp_path / "B")] == [True, False, False]


@pytest.mark.slow  # an import is tested fast, by the same functions
def test_a_cut_is_whole_or_refused(run, tmp_path, states):  # noqa: F811
    units, out = ["stage1/unit2"], tmp_path / "run"
    experiment = workdirs.cut_experiment(run, units)
    variables = variables_of(run, units)
    with states(out) as found:
        facts = {"units": units, "by": "hand", "recalibrated": False}
        evaluate(experiment, workdirs.make_workdir(run, experiment, variables, out, **facts), out)
    assert_whole(found)
    whole = 0
    for path in found.paths:
        if (path / "config.json").exists():
            whole += 1
            assert load_run(path).step == 1
        elif found.files(path):
            remedy = f"or a cut was interrupted: rm -r {path}, and repeat it; or use another --out"
            with pytest.raises(ValueError, match=remedy):
                need_free(path, "--out")
            with pytest.raises(FileNotFoundError, match="a cut was interrupted"):
                load_run(path)
        else:
            claim(path, experiment.config)
    assert (whole, len(found.paths)) == (3, 9)


@pytest.mark.parametrize("swallowed", [False, True])
def test_a_signal_stops_a_task(swallowed):
    """At once, or where the task reports its progress, if other code has swallowed the exception."""
    done = []
    said = r"^SIGTERM while 'choice' was computed: nothing had to be saved; the same command starts again$"
    with (
        pytest.raises(Stopped, match=said),
        progress(Console(file=io.StringIO())) as task,
        task("choice") as tell,
    ):
        tell(0, 2)
        with contextlib.suppress(Stopped) if swallowed else contextlib.nullcontext():
            signal.raise_signal(signal.SIGTERM)
        done.append(swallowed)
        tell(1, 2)
    assert done == ([True] if swallowed else [])


COMMANDS = {
    "--count=2": 0,
    "--flops=0.8 --by=last --norecalibrate --nolatency": 0,
    "--units=stage1/unit2,stage2/unit2 --map=linear --map_rank=2 --nolatency": 0,
    "--count=1 --map=spline": "--map=spline; allowed: none, affine, linear",
    "--count=1 --map=linear --map_rank=0": "map_rank=0; allowed: 1 or more",
    "--units=stage1/unit2,stage9/unit1": "there is no unit 'stage9/unit1'. Did you mean",
    "--count=9": "count=9; allowed: 1 … 4, since 4 of 5 units can be cut",
    "--units=stage1/unit1,stage1/unit2,stage1/unit3,stage2/unit1,stage2/unit2": "all 5 units would be cut",
    "": "say how many units go by one of --units=NAMES, --count=N, --flops=SHARE and --rise=POINTS",
    "--units=": "--units names no unit",
    "--count=1 --rise=1": "got --count and --rise",
    "--count=1 --by=greed": "--by=greed; allowed: greedy, single, similarity, random, last. Did you mean",
    "--count=1 --examples=0": "examples=0; allowed: 1 or more",
    "--count=1 --out=OLD": "holds a run already; use another --out",
    "--count=1 --workdir=NONE": "does not exist",
}


@pytest.mark.slow  # starts processes
def test_the_command(run, tmp_path):
    commands = []
    for i, flags in enumerate(COMMANDS):
        own = flags.replace("OLD", str(run.workdir)).replace("NONE", str(tmp_path / "none")).split()
        usual = [f"--workdir={run.workdir}", f"--out={tmp_path / str(i)}"]
        usual = [flag for flag in usual if flag.partition("=")[0] not in {f.partition("=")[0] for f in own}]
        commands.append(("resjax.cut", *usual, *own, "--reference=32"))
    done = run_each(commands, tmp_path, cwd=tmp_path)
    for i, (said, (flags, expected)) in enumerate(zip(done, COMMANDS.items(), strict=True)):
        if expected:
            assert said.returncode in (1, 2) and expected in said.stderr, (flags, said.stderr)
            assert said.stderr.strip().splitlines()[-1].startswith("error: "), flags
            assert not (tmp_path / str(i)).exists(), flags
        else:
            assert said.returncode == 0, said.stderr
    first, second = (said.stdout for said in done[:2])
    assert (
        "2 of the 4 units that can be cut, each round cuts the unit whose deletion gives the lowest" in first
    )
    assert "chosen on 64 training images, not augmented, not on the evaluation set" in first
    assert "error on the 397 test images: intact" in first and "multiply-adds of an image" in first
    assert "statistics were re-estimated" in first and "statistics were not re-estimated" in second
    assert f"python -m resjax.train --config={tmp_path}/0/config.py --workdir={tmp_path}/0" in first
    assert "time of a forward pass of 1 image" in first and "time of" not in second
    costs = json.loads((tmp_path / "0/costs.json").read_text())
    assert costs["counts"]["units"] == {"intact": 5, "cut": 3} and len(costs["seconds"]) == 3
    assert all(len(own["intact"]) == len(own["cut"]) > 1 for own in costs["seconds"].values())
    assert "linear maps of rank 2 stand in the place of what was cut" in done[2].stdout
    assert (configs.load(tmp_path / "2").model.map, configs.load(tmp_path / "2").model.map_rank) == (
        "linear",
        2,
    )
    record = json.loads((tmp_path / "0/metrics.jsonl").read_text())
    assert record["step"] == 1 and 0 <= record["test_error"] <= 1
    assert configs.load(tmp_path / "1").model.cut[0] == "stage2/unit2"
