"""Scripts of docs/results: the networks that they would train, without training them."""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from resjax import config as configs
from resjax.analysis.convolution.sample_size import SampleSize
from resjax.experiment import load_experiment
from resjax.report.convolution import sample_size

SCRIPTS = Path(__file__).parent.parent / "docs/results"


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_recorded_finding_is_what_its_numbers_say():
    record = json.loads((SCRIPTS / "sample_size_fashion_mnist.json").read_text("utf-8"))
    results = {k: SampleSize.from_json(r) for k, r in record["results"].items()}
    said = sample_size.finding(results)
    assert record["finding"] == [said.headline, *said.points]


CONTROLS = script("digits_controls")


@pytest.mark.parametrize("name", CONTROLS.CONTROLS)
def test_controls_differ_in_what_they_say(name):
    full, config = CONTROLS.config_of("full", 3), CONTROLS.config_of(name, 3)
    assert config.seed == 3
    changed = {line.split(":")[0] for line in configs.differences(full, config)}
    if "model" not in CONTROLS.CONTROLS[name]:
        assert changed <= set(CONTROLS.CONTROLS[name]) and (changed or name == "full")
    else:
        assert {field for field in changed if not field.startswith("model.")} <= {
            "optimizer.learning_rate"
        }
    network = load_experiment(config).task.network
    shape = (8, 8, 1)
    variables = jax.eval_shape(lambda key: network.init(key, shape), jax.random.key(0))
    normalized = bool(variables.get("batch_stats"))
    assert normalized == (name not in ("plain_no_norm", "veit15"))
    assert network.deletable(variables, shape).sum() >= network.num_units - 2
    residual = any(stack.unit.residual for stack in network.stacks)
    assert residual == (name in ("full", "stochastic", "effective"))
    if name == "effective":
        np.testing.assert_allclose(network.unit_dropout.at_test(), 4 / 9)
