"""Rows 28 to 33 of claims.md: the networks of twelve units, and how their errors are judged."""

import json

import numpy as np
import pytest
from script_helpers import REPOSITORY, load_script, recorded

from resjax.training.experiment import load_experiment

UNITS = load_script("docs/results/twelve_units.py")
LAYERS = load_script("docs/results/whose_layers.py")
ROWS = load_script("docs/results/layer_rows.py")
ALIGNMENT = load_script("docs/results/residual_alignment.py")


@pytest.mark.parametrize("network", [*UNITS.NETWORKS, *UNITS.DEPTHS, UNITS.SHUFFLED])
def test_networks_have_as_many_units_as_the_script_says(network):
    config = UNITS.config_of("digits", network, 2)
    built = load_experiment(config).task.network
    assert built.num_units == sum(UNITS.DEPTHS.get(network, (12,)))
    assert config.seed == 2
    small = UNITS.config_of("cifar10", network, 2, "pictures.npz")
    assert (small.data.name, small.data.image_size) == ("pictures.npz", 16)


def test_rows_of_places_delete_units_or_move_whole_layers():
    assert LAYERS.without(4, [[0], [1, 3]]).tolist() == [[-1, 1, 2, 3], [0, -2, 2, -4]]
    assert LAYERS.of_layers([[1, 0, 2]]).tolist() == [[2, 3, 0, 1, 4, 5]]
    orders = LAYERS.random_orders(6)
    assert len({tuple(order) for order in orders}) == LAYERS.ORDERS
    assert all(sorted(order) == list(range(6)) != order for order in orders)


def test_half_of_the_accuracy_is_lost_between_two_numbers_of_layers():
    """Accuracy above chance 1, 0.8, 0.2, 0, 0: half of it after 1.5 of 4 layers."""
    assert ROWS.crossing(np.array([1, 0.8, 0.2, 0, 0]), 0.5) == pytest.approx(1.5 / 4)
    intact, slow = np.full(3, 0.1), np.array([0.1, 0.1, 0.2, 0.9, 0.9, 0.9])
    cut = slow + np.array([[-0.001], [0], [0.001]])
    found = ROWS.sharp_break(intact, cut)
    half, largest = found.values()
    # The error is 0.2 after three layers and 0.9 after four; half of the way is 0.5, after 3 + 3/7.
    assert half["mean"] == pytest.approx(100 * (3 + 3 / 7) / 6, abs=0.1)
    assert largest["mean"] == pytest.approx(100 * 0.7 / 0.8, abs=0.01)
    assert [one["verdict"] for one in found.values()] == ["shown", "shown"]
    even = ROWS.sharp_break(intact, np.linspace(0.1, 0.9, 7)[1:] + cut - slow)
    assert [one["verdict"] for one in even.values()] == ["shown", "contradicted"]


def test_rows_of_layers_are_judged_by_the_limits_of_the_table():
    noise = np.array([[-0.001], [0], [0.001]])
    intact, one_harms = np.zeros(3), np.array([0.6, 0.01, 0.02, 0.01, 0.02, 0.03]) + noise
    (found,) = ROWS.single_layers(intact, one_harms).values()
    assert found["mean"] == pytest.approx(100 * 5 / 6) and found["verdict"] == "shown"
    (found,) = ROWS.single_layers(intact, one_harms[:, [0, 0, 2, 3, 4, 5]]).values()
    assert found["verdict"] == "contradicted"
    # The first and the last layer do not count.
    kept = ROWS.accuracy_kept(intact, one_harms, np.full((3, 5), 0.5) + noise)
    assert [one["verdict"] for one in kept.values()] == ["shown", "contradicted"]
    assert kept["without a layer, %"]["mean"] == pytest.approx(98.5)
    units = np.tile([0.1, 0.3], 6) + noise
    found = ROWS.attention_and_mlp(units, np.full((3, 20), 0.5) + noise, np.full((3, 20), 0.4) + noise)
    assert [one["verdict"] for one in found.values()] == ["shown", "contradicted"]


def test_orders_must_cost_much_without_and_little_with_training_in_random_orders():
    noise = np.array([-0.001, 0, 0.001])
    usual, shuffled = 0.05 + noise, 0.15 + noise
    orders = np.full((3, 20), 0.5), np.full((3, 20), 0.17)
    found = ROWS.order_costs(usual, orders[0], shuffled, orders[1])
    assert [round(one["mean"]) for one in found.values()] == [45, 2, 10]
    assert {one["verdict"] for one in found.values()} == {"shown"}
    assert ROWS.by_seed.verdict_of(ROWS.order_costs(usual, orders[0], shuffled, orders[0])) == "contradicted"


def test_the_slope_over_depth_is_that_of_the_geometric_means():
    units = np.array(ROWS.LIMITS[33]["units"])
    trained = [{"norm": [2 / n, 8 / n]} for n in units]
    rows = [
        {"network": network, "seed": seed, "trained": own, "initial": {"norm": [1.0, 2.0 + 0.01 * seed]}}
        for seed in range(2)
        for network, own in zip(ALIGNMENT.NETWORKS, trained, strict=True)
    ]
    assert ALIGNMENT.slopes(rows, "trained") == pytest.approx([-1, -1])
    found = ALIGNMENT.judged(rows)["33"]
    assert found["verdict"] == "shown"
    assert found["levels"]["resnet, trained"]["mean"] == pytest.approx(4 / 12)
    assert ALIGNMENT.judged([r | {"trained": r["initial"]} for r in rows])["33"]["verdict"] == "contradicted"


FILES = [REPOSITORY / f"docs/results/whose_layers_{part}.json" for part in UNITS.PARTS]


@pytest.mark.parametrize("path", [path for path in FILES if path.is_file()], ids=lambda path: path.stem)
def test_recorded_verdicts_follow_from_the_recorded_errors(path):
    record = json.loads(path.read_text("utf-8"))
    assert json.loads(json.dumps(ROWS.judged(record["runs"]))) == recorded(record["judged"])
    assert json.loads(json.dumps(LAYERS.summary(record["runs"]))) == recorded(record["summary"])
    page = (path.parent / "whose_layers.md").read_text("utf-8")
    assert f"\n\n{LAYERS.table(record)}\n\n" in page, "docs/results/whose_layers.py prints it"


@pytest.mark.parametrize("name", ALIGNMENT.FILES.values())
def test_the_recorded_slope_follows_from_the_recorded_norms(name):
    record = json.loads((REPOSITORY / "docs/results" / name).read_text("utf-8"))
    assert json.loads(json.dumps(ALIGNMENT.judged(record["runs"]))) == recorded(record["judged"])
