"""Rows of claims.md in kind: the networks that the scripts of docs/results train, and how they judge."""

import json

import numpy as np
import pytest
from script_helpers import REPOSITORY, load_script, recorded

from resjax.training.experiment import load_experiment

SCRIPTS = ("plain_deletions", "shortcuts", "placements", "effective_paths_training", "stochastic_depth")
BY_SEED = load_script("docs/results/by_seed.py")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Random images of the shape of Fashion-MNIST, as a file."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "fashion_mnist.npz"
    sets = {}
    for part, n in (("train", 6100), ("test", 20)):
        sets[f"{part}_images"] = rng.integers(0, 256, (n, 28, 28), np.uint8)
        sets[f"{part}_labels"] = np.arange(n) % 10
    np.savez(path, **sets)
    return str(path)


def test_a_criterion_is_judged_by_the_whole_interval():
    below_two = BY_SEED.Criterion("< 2", most=2)
    # Student's t with 2 degrees of freedom: 4.303 · s / √3, so 1 ± 0.248 and 1 ± 2.48.
    close, wide = [0.9, 1.0, 1.1], [0.0, 1.0, 2.0]
    found = BY_SEED.judge(below_two, close)
    assert found["interval_95"] == pytest.approx([1 - 0.2484, 1 + 0.2484], abs=1e-4)
    assert found["verdict"] == "shown"
    assert BY_SEED.judge(below_two, wide)["verdict"] == "undecided"
    assert BY_SEED.judge(below_two, np.add(close, 2))["verdict"] == "contradicted"
    one = BY_SEED.judge(below_two, [1.0])
    assert (one["interval_95"], one["verdict"]) == (None, "undecided")
    # Within two limits: a difference that is clearly not zero can still be equivalent.
    within = BY_SEED.Criterion("within", 0.5, 1.5)
    assert BY_SEED.judge(within, close)["verdict"] == "shown"
    assert BY_SEED.judge(within, np.add(close, 0.4))["verdict"] == "undecided"


def test_a_row_asks_for_all_of_its_criteria():
    def row(*verdicts):
        return BY_SEED.verdict_of({str(i): {"verdict": v} for i, v in enumerate(verdicts)})

    assert row("shown", "shown") == "shown"
    assert row("shown", "undecided") == "undecided"
    assert row("undecided", "contradicted", "shown") == "contradicted"


@pytest.mark.parametrize(
    ("differences", "verdict", "p"),
    [
        ([-1, -2, -1, -3, -0.1], "shown", 1 / 32),
        ([-1, -2, -1, -3, 0.1], "undecided", 6 / 32),
        ([-1, -2, -1], "undecided", 1 / 8),
        ([1, 2, 1, 3, 0.1], "contradicted", 1),
        ([0, 0], "undecided", 1),
    ],
)
def test_the_sign_test_is_one_sided(differences, verdict, p):
    found = load_script("docs/results/stochastic_depth.py").sign_test(np.array(differences))
    assert found["verdict"] == verdict
    assert found["p"] == pytest.approx(p)


@pytest.mark.parametrize("name", SCRIPTS)
def test_networks_of_a_script_share_their_images_and_differ_in_what_the_row_says(name, images):
    chosen = load_script(f"docs/results/{name}.py").configs_of(images)(3)
    experiments = {network: load_experiment(config) for network, config in chosen.items()}
    first, *others = experiments.values()
    for other in others:
        np.testing.assert_array_equal(other.dataset.train_images, first.dataset.train_images)
    for network, config in chosen.items():
        assert (config.seed, config.data.split_seed) == (3, 3)
        plan = experiments[network].plan
        assert (plan.per_epoch, plan.total) == (32, 32 * (90 if name == "stochastic_depth" else 30))
        assert experiments[network].dataset.info.num_test == 5000
    models = {json.dumps(config.model.to_dict(), sort_keys=True) for config in chosen.values()}
    assert len(models) == len(chosen)


def test_shared_networks_have_one_configuration(images):
    def config(script, network):
        return load_script(f"docs/results/{script}.py").configs_of(images)(1)[network].to_dict()

    assert config("shortcuts", "original") == config("placements", "original")
    assert config("placements", "pre") == config("effective_paths_training", "pre")


def test_effective_paths_are_those_of_the_paper_in_proportion(images):
    chosen = load_script("docs/results/effective_paths_training.py").configs_of(images)(0)
    dropout = load_experiment(chosen["effective"]).task.network.unit_dropout
    assert (dropout.active, dropout.num_units) == (round(9 * 23 / 54), 9)
    np.testing.assert_allclose(dropout.at_test(), 4 / 9)
    unscaled = load_experiment(chosen["effective_unscaled"]).task.network.unit_dropout
    np.testing.assert_array_equal(unscaled.at_test(), 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_runs_stops_nowhere_and_does_nothing_twice(name, images, tmp_path, monkeypatch):
    script = load_script(f"docs/results/{name}.py")
    options = BY_SEED.Options(images, seeds=2, smoke=True, where=tmp_path)
    record = script.run(tmp_path / "runs", options)
    written = json.loads((tmp_path / f"{name}.json").read_text("utf-8"))
    assert written == json.loads(json.dumps(record))
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    networks = script.configs_of(images)(0)
    assert len(written["runs"]) == 2 * len(networks)
    assert images not in json.dumps(written)
    for row in written["judged"].values():
        assert row["verdict"] in BY_SEED.VERDICTS.values()

    def refuse(*_):
        raise AssertionError("a finished run is trained again")

    monkeypatch.setattr(script.by_seed, "train_and_evaluate", refuse)
    again = script.run(tmp_path / "runs", options)
    assert again["judged"] == record["judged"]


RECORDS = [REPOSITORY / f"docs/results/{name}.json" for name in SCRIPTS]


@pytest.mark.parametrize("path", [p for p in RECORDS if p.is_file()], ids=lambda p: p.stem)
def test_recorded_verdicts_follow_from_recorded_runs(path):
    record = json.loads(path.read_text("utf-8"))
    judged = load_script(f"docs/results/{path.stem}.py").judged(record["runs"])
    assert json.loads(json.dumps(judged)) == recorded(record["judged"])
