"""A network that somebody else made and trained: from what is given to subjects, studies and a report."""

import dataclasses
import functools
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from script_helpers import run_each

from resjax.analysis import lesion
from resjax.analyze import analyze_network
from resjax.discovery import NotFound
from resjax.network.refusal import Refusal
from resjax.report import compute, kept, write
from resjax.report.write import read
from resjax.studies.catalogue import STUDIES
from resjax.studies.examples import evenly_spread
from resjax.studies.given import Given, load_network
from resjax.studies.initial import at_initialization
from resjax.studies.moments import AS_GIVEN, moment
from resjax.studies.options import Options

QUICK = Options(max_examples=12, batch_size=8, gradient_batches=1, draws=2, path_draws=2)
N, CLASSES = 20, 3


class Net(nn.Module):
    """Three units of dense layers on 2 × 2 images."""

    residual: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="stem")(x)
        for i in range(3):
            y = nn.Dense(4, name=f"unit{i}_out")(nn.relu(nn.Dense(5, name=f"unit{i}_in")(x)))
            x = x + y if self.residual else y
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


def examples(n=N, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2, 2, 2)).astype(np.float32), rng.integers(0, CLASSES, n).astype(np.int32)


@functools.cache
def made(residual):
    """The network and its variables, made once: many parameters of tests hold them."""
    net = Net(residual)
    return net, jax.jit(net.init)(jax.random.key(1), examples()[0][:1])


def fields(*more, residual=True):
    """What a user gives: what is needed, and the optional fields named in ``more``."""
    (net, variables), (inputs, labels) = made(residual), examples()
    given = {"fn": net.apply, "variables": variables, "inputs": inputs, "labels": labels}
    train_inputs, train_labels = examples(16, seed=1)
    optional = {
        "initial_variables": jax.tree.map(lambda v: 0.5 * v, variables),
        "train_inputs": train_inputs,
        "train_labels": train_labels,
        "train_fn": lambda v, x, key: (net.apply(v, x), {}),
        "batch_size": 8,
        "name": "mine",
    }
    return {**given, **{name: optional[name] for name in more}}


TRAINING = ("train_inputs", "train_labels", "batch_size")


def without(*names):
    return {name: value for name, value in fields().items() if name not in names}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            3,
            r"a dictionary or a resjax.analysis.Given, got int; needed: fn, .*labels; allowed",
        ),
        (without("labels", "fn"), r"missing: fn, labels; needed: fn, .*allowed, too: initial_variables, "),
        (fields() | {"images": 1}, r"unknown: 'images'; needed"),
        (fields() | {"fn": None}, r"fn=None; it must be a function \(variables, x\) -> logits"),
        (
            fields() | {"metric": 1.0},
            r"metric=1.0; it must be a function \(logits, labels\) -> \[B\], or None",
        ),
        (fields() | {"labels": np.zeros(7, int)}, r"inputs have 20 examples, labels 7"),
        (fields() | {"inputs": "x.npy"}, r"inputs='x.npy'; allowed: an array \[N, …\], or a pytree of"),
        (fields() | {"inputs": {"a": np.zeros((20, 1)), "b": np.zeros(3)}}, r"differ in N, .*float64 \[3\]"),
        (
            fields() | {"inputs": np.zeros((0, 2)), "labels": np.zeros(0, int)},
            r"no example: float64 \[0, 2\]",
        ),
        (fields("train_inputs"), r"train_inputs and train_labels go together"),
        (
            fields() | {"train_inputs": np.zeros((5, 3)), "train_labels": np.zeros(5, int)},
            r"train_inputs are float64 \[5, 3\], but inputs are float32 \[20, 2, 2, 2\]; allowed",
        ),
        (
            fields() | {"initial_variables": {"params": {"stem": {"bias": np.zeros(4)}}}},
            r"have the names and shapes of variables; at \['params'\]\['head'\]\['bias'\] they have nothing",
        ),
        (fields() | {"batch_size": 0}, r"batch_size=0; allowed: 1 or more"),
    ],
)
def test_what_does_not_fit_is_named(given, said):
    with pytest.raises(ValueError, match=said):
        Given.of(given)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of a user, ``own_network``; returns the folder."""
    text = "import test_given\nvalue = 1\n\n\ndef make():\n    return test_given.fields()\n\n\n"
    text += "def three():\n    return 3\n\n\ndef fails():\n    raise KeyError('weights.npz')\n"
    (tmp_path / "own_network.py").write_text(text)
    (tmp_path / "broken_network.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_network", r"network='own_network': it must be 'package.module:function', importable from here"),
        ("no_such_network:make", r"ModuleNotFoundError: No module named 'no_such_network'; it must be"),
        ("broken_network:make", r"No module named 'no_such_package'"),
        ("own_network:made", r"own_network has no function 'made'; it has: make, three, fails"),
        ("own_network:value", r"own_network has no function 'value'"),
        ("own_network:fails", r"fails\(\) raised KeyError: 'weights.npz' \(own_network.py, line \d+\)"),
        ("own_network:three", r"a dictionary or a resjax.analysis.Given, got int"),
    ],
)
def test_a_name_that_gives_no_network_is_refused(module, name, said):
    with pytest.raises(ValueError, match=said):
        load_network(name)


def test_a_network_without_units_is_refused():
    with pytest.raises(NotFound, match="no residual units were found"):
        load_network(fields(residual=False))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"fn": lambda v, x: x @ v["params"]["stem"]["bias"]},
            r"fn raised \w+Error: .* \(test_given.py, line",
        ),
        ({"labels": np.zeros((N, 2), int)}, r"20 examples need labels of shape \[20\], got \[20, 2\]"),
        ({"labels": np.full(N, CLASSES)}, r"labels must lie in 0 … 2"),
    ],
)
def test_what_does_not_fit_the_function_is_named_before_any_study(changes, said):
    with pytest.raises(ValueError, match=said):
        load_network(fields() | changes)


@pytest.fixture(scope="module")
def bare():
    """A network with nothing but what is needed."""
    return load_network(fields())


@pytest.fixture(scope="module")
def full():
    """A network with all that can be given."""
    return load_network(fields(*TRAINING, "initial_variables", "train_fn", "name"))


def test_a_given_network_is_what_was_given(full):
    given = fields("initial_variables")
    inputs, labels = full.examples("evaluation", 100)
    order = evenly_spread(20)
    np.testing.assert_array_equal(inputs, given["inputs"][order])
    np.testing.assert_array_equal(labels, given["labels"][order])
    some, _ = full.examples("evaluation", 3)
    np.testing.assert_array_equal(some, given["inputs"][[0, 12, 5]])  # part of the others
    np.testing.assert_array_equal(full.examples("train", 5, augmented=True)[1], examples(16, seed=1)[1][:5])
    logits = full.network.apply(full.variables, inputs).logits
    np.testing.assert_allclose(logits, given["fn"](given["variables"], inputs), rtol=1e-5)
    untrained = at_initialization(full)
    logits = untrained.network.apply(untrained.variables, inputs).logits
    np.testing.assert_allclose(logits, given["fn"](given["initial_variables"], inputs), rtol=1e-5)
    assert (full.label, full.step, untrained.step) == ("mine", AS_GIVEN, 0)
    assert moment(full.step) == "as given" and list(full.moments) == [0, AS_GIVEN]
    with pytest.raises(ValueError, match="'train', 'evaluation'"):
        full.examples("test", 3)


def test_what_was_not_given_is_refused_in_words(bare):
    with pytest.raises(Refusal, match="no initial variables were given"):
        at_initialization(bare)
    with pytest.raises(Refusal, match="needs training examples, and none were given"):
        bare.examples("train", 3)
    assert list(bare.moments) == [AS_GIVEN] and bare.label == "network"


def run(subject, *names):
    chosen = [STUDIES[name] for name in names]
    quiet = compute.Console(quiet=True)
    done = compute.run_studies([subject], chosen, QUICK, quiet)
    assert done.failed == []
    return {study.name: own[subject.label] for study, own in done.shown}, done.left_out


@pytest.mark.slow
def test_studies_run_with_what_is_given_and_say_what_is_missing(bare, tmp_path):
    here = dataclasses.replace(bare, folder=tmp_path)
    results, left_out = run(here, "curves", "lesion", "path_growth", "paths", "pruning", "identity")
    assert set(results) == {"lesion", "paths", "identity"}
    reasons = {text.partition(", of network: ")[0]: text.partition(", of network: ")[2] for text in left_out}
    assert "no training log" in reasons[STUDIES["curves"].title]
    assert "no checkpoints" in reasons[STUDIES["path_growth"].title]
    assert "none were given (train_inputs, train_labels)" in reasons[STUDIES["pruning"].title]
    assert results["lesion"].choices["data"] == "12 evaluation examples, as given"
    data = results["identity"].choices["data"]
    assert data == "12 evaluation examples, because no training examples were given"
    started = results["identity"].choices["at initialization"]
    assert started == "not measured: no initial variables were given" and results["identity"].initial is None
    assert len(results["paths"].exact) == 1  # without a training mode


@pytest.mark.slow
def test_with_initial_variables_there_is_a_control(full, tmp_path):
    here = dataclasses.replace(full, folder=tmp_path)
    results, left_out = run(here, "identity", "pruning", "backward_signal")
    assert left_out == [] and set(results) == {"identity", "pruning", "backward_signal"}
    assert results["identity"].initial is not None
    assert results["identity"].choices["at initialization"] == "the initial variables that were given"
    assert list(results["backward_signal"].step) == [0, AS_GIVEN]
    assert results["backward_signal"].choices["data"] == "the first 8 training examples, as given"


def first_wrong(logits, labels):
    """Whether the first position is wrong."""
    return logits[:, 0].argmax(-1) != labels[:, 0]


def test_tokens_a_mask_and_a_metric_of_ones_own(tmp_path):
    rng = np.random.default_rng(2)
    tokens, mask = rng.integers(0, 5, (8, 3)), rng.random((8, 3)) < 0.7
    variables = {
        "embedding": rng.normal(size=(5, 4)).astype(np.float32),
        "layers": [{"kernel": rng.normal(size=(4, 4)).astype(np.float32)} for _ in range(2)],
        "head": rng.normal(size=(4, 5)).astype(np.float32),
    }

    def fn(variables, x):
        h = jnp.asarray(variables["embedding"])[x["tokens"]]
        for layer in variables["layers"]:
            h = h + jnp.where(x["mask"][..., None], jnp.tanh(h @ layer["kernel"]), 0)
        return h @ variables["head"]

    inputs, labels = {"tokens": tokens, "mask": mask}, rng.integers(0, 5, (8, 3))
    given = Given(fn=fn, variables=variables, inputs=inputs, labels=labels, metric=first_wrong, name="lm")
    subject = load_network(given, tmp_path)
    assert [unit.name for unit in subject.found.units] == ["layers/0", "layers/1"]
    results, _ = run(subject, "lesion")
    wrong = first_wrong(fn(variables, inputs), labels)
    assert results["lesion"].intact_error == pytest.approx(float(wrong.mean()))
    alone = fn({**variables, "layers": variables["layers"][1:]}, inputs)  # without the first layer
    assert results["lesion"].error[0] == pytest.approx(float(first_wrong(alone, labels).mean()))


def text_of(path):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", path.read_text("utf-8")))


def test_from_a_name_to_a_report(module, tmp_path, capsys, monkeypatch):
    out = tmp_path / "report"
    path = analyze_network("own_network:make", ["curves", "lesion"], out=out, options=QUICK)
    assert path == out / "report.html"
    printed = capsys.readouterr()
    assert printed.out.index("unit2") < printed.out.index("error, intact")
    assert printed.out.startswith("3 residual units")
    shown = text_of(path)
    assert shown.index("What was found") < shown.index("Lesions")
    assert "3 residual units: 3 with identity shortcuts." in shown
    assert "20 evaluation examples; one input is float32 [1, 2, 2, 2]" in shown
    assert "the state itself" in shown
    options = "--max_examples=12 --batch_size=8 --gradient_batches=1 --draws=2 --path_draws=2"
    command = f"python -m resjax.analyze --network=own_network:make --studies=lesion --out={out} {options}"
    assert command in shown
    assert "run = resjax.analysis.load_network(&quot;own_network:make&quot;)" in shown
    assert "no training log" in shown
    found = json.loads((out / "found.json").read_text())
    assert [unit["shortcut"] for unit in found["units"]] == ["identity"] * 3
    assert (out / "figures" / "found.png").stat().st_size > 1000
    result = read(out / "lesion.json", STUDIES["lesion"])["own_network"]
    subject = load_network(fields())
    direct = lesion(*subject.evaluation(12), batch_size=8)
    np.testing.assert_allclose(result.loss, direct.loss, rtol=1e-5)
    record = json.loads((out / "lesion.json").read_text())["runs"]["own_network"]
    assert record["network"] == "own_network:make" and len(record["found"]["units"]) == 3

    monkeypatch.setattr(write, "picture", lambda draw, alt, table, labels: "")
    monkeypatch.setattr(write, "save", lambda draw, directory, name: [])
    analyze_network("own_network:make", ["lesion"], out=out, options=QUICK)
    assert "done before" in capsys.readouterr().err
    again = read(out / "lesion.json", STUDIES["lesion"])["own_network"]
    np.testing.assert_array_equal(again.loss, result.loss)


@pytest.mark.slow
def test_a_kept_result_belongs_to_what_was_given(bare):
    given, study = bare.given, STUDIES["lesion"]

    def key(**changes):
        changed = dataclasses.replace(bare, given=dataclasses.replace(given, **changes))
        return kept.key(changed, study, QUICK)

    def of_function(change):
        return kept.key(load_network(fields() | {"fn": lambda v, x: change(given.fn(v, x))}), study, QUICK)

    def adding(number):
        array = np.full((1, CLASSES), number)  # a constant of a compiled function inside the given one
        return jax.jit(lambda logits: logits + array)

    assert key() == key(inputs=given.inputs.copy()) == of_function(lambda logits: logits)
    keys = [
        key(),
        key(variables=jax.tree.map(lambda v: v + 1, given.variables)),
        key(inputs=given.inputs + 1),
        key(labels=1 - given.labels),
        key(initial_variables=given.variables),
        of_function(lambda logits: 2 * logits),
        of_function(adding(0.5)),
        of_function(adding(1.0)),
        key(loss=lambda logits, labels: jnp.zeros(len(labels))),
        key(loss=lambda logits, labels: jnp.ones(len(labels))),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.slow
def test_a_mistake_on_the_command_line_is_one_line(module, tmp_path):
    mistakes = [
        ((), 2, "name either --workdir=DIR"),
        (("--network=own_network:make", "--workdir=a", "--out=b"), 2, "not both"),
        (("--network=own_network:make",), 2, "--network needs --out=DIR"),
        (("--network=broken_network:make", "--out=b"), 1, "No module named 'no_such_package'"),
    ]
    ended = run_each([("resjax.analyze", *own) for own, *_ in mistakes], tmp_path, cwd=module)
    for (arguments, code, said), done in zip(mistakes, ended, strict=True):
        assert done.returncode == code, (arguments, done)
        assert done.stderr.startswith("error: ") and said in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (module / "b").exists()
