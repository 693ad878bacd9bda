"""Small trainings in a claim: those of ``resjax.train``, several of them in one program."""

import dataclasses

import jax
import numpy as np
import pytest
from network_helpers import equal, initial

from resjax import config as configs
from resjax import data
from resjax.network.refusal import Refusal
from resjax.studies import small_training
from resjax.studies.small_training import (
    Evaluated,
    best_rate,
    evaluate,
    examples,
    train,
    train_tuned,
    with_holdout,
    with_numbers,
)
from resjax.train import train_and_evaluate
from resjax.training.checkpoint import Checkpoints
from resjax.training.experiment import load_experiment


def recipe(steps=6, **model):
    c = configs.default("resnet", **({"depth": 5, "widths": (4,), "block_layers": 1} | model))
    c.data.pad, c.data.train_examples = 1, 100
    c.train.batch_size, c.train.duration = 16, f"{steps} steps"
    c.optimizer.schedule, c.optimizer.warmup = "cosine", "2 steps"
    c.optimizer.learning_rate, c.optimizer.weight_decay = 0.05, 0.01
    c.log.every = c.eval.every = c.checkpoint.every = f"{steps} steps"
    return c


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


@pytest.mark.slow
def test_it_is_the_training_of_resjax_train(tmp_path):
    config = with_numbers(recipe(), seed=3)
    train_and_evaluate(config, tmp_path)
    experiment = load_experiment(config)
    first = experiment.create_state()
    checkpoints = Checkpoints(tmp_path)
    newest = checkpoints.restore(first)
    (trained,) = train([config])
    assert equal(trained.initial, jax.device_get(first.variables))
    close(trained.variables, jax.device_get(newest.variables))
    assert not equal(trained.variables, trained.initial)
    assert trained.network == experiment.task.network
    assert trained.loss.shape == trained.error.shape == (6,) and not trained.diverged


@pytest.mark.slow
def test_seeds_rates_and_decays_share_a_program_and_are_trained_as_alone(monkeypatch):
    made = []

    class Counted(small_training._Program):
        def __init__(self, recipe, network):
            made.append(recipe.model.depth)
            super().__init__(recipe, network)

    monkeypatch.setattr(small_training, "_Program", Counted)
    small_training._program.cache_clear()
    changes = [{}, {"seed": 1}, {"learning_rate": 0.2}, {"weight_decay": 0.5}, {"weight_decay": 0}]
    recipes = [with_numbers(recipe(), **change) for change in changes]
    seen = []
    together = train([*recipes, recipe(depth=6)], progress=lambda *a: seen.append(a))
    assert made == [5, 6]
    assert seen == [(i, 6) for i in range(7)]
    for config, one in zip(recipes, together, strict=False):
        assert equal(train([config])[0].variables, one.variables)
    initial = [one.initial["params"]["stem"] for one in together[:5]]
    assert all(equal(initial[0], initial[i]) for i in (2, 3, 4))
    assert not equal(initial[0], initial[1])
    for i, one in enumerate(together[:5]):
        assert not any(equal(one.variables, other.variables) for other in together[:i])


@pytest.mark.slow
def test_training_without_decay_is_that_of_an_optimizer_without_it(tmp_path):
    config = with_numbers(recipe(), weight_decay=0)
    train_and_evaluate(config, tmp_path)
    checkpoints = Checkpoints(tmp_path)
    newest = checkpoints.restore(load_experiment(config).create_state())
    close(train([config])[0].variables["params"], jax.device_get(newest.params))


def test_starts_and_another_network_replace_those_of_the_configuration():
    (first,) = train([recipe()])
    still = with_numbers(recipe(), learning_rate=0)
    (second,) = train([still], starts=[first.variables])
    assert equal(second.initial, first.variables)
    assert equal(second.variables["params"], first.variables["params"])
    other = load_experiment(recipe(depth=7)).task.network
    (third,) = train([recipe()], network=other)
    assert third.network == other and third.initial["params"]["stage1"]["conv1"]["kernel"].shape[0] == 4
    with pytest.raises(ValueError, match="1 starts for 2 recipes"):
        train([recipe(), recipe()], starts=[first.variables])


def test_divergence_is_marked_and_learning_is_visible():
    wild, tame = (with_numbers(recipe(150, norm=False), learning_rate=r, weight_decay=0) for r in (1e9, 0.1))
    bad, good = train([wild, tame])
    assert bad.diverged and np.isnan(bad.loss[-1]) and np.isnan(bad.error[-1])
    assert np.isfinite(bad.loss[0]) and bad.loss[0] == good.loss[0]
    assert not good.diverged and good.loss[-10:].mean() < good.loss[:10].mean() - 0.3


def test_examples_are_standardized_by_the_training_images_and_disjoint():
    c = with_holdout(recipe(), 300)
    c.data.train_examples = 0
    sets = examples(c)
    assert (
        [len(images) for images, _ in sets[:3]] == [len(labels) for _, labels in sets[:3]] == [1100, 300, 397]
    )
    assert sets.num_classes == 10
    assert abs(sets.train[0].mean()) < 1e-3 and abs(sets.train[0].std() - 1) < 1e-3
    known = {image.tobytes() for image in sets.train[0]}
    assert not any(image.tobytes() in known for image in sets.held_out[0])
    whole = examples(with_holdout(c, 0))
    assert whole.held_out is None and len(whole.train[1]) == 1400
    np.testing.assert_array_equal(whole.test[1], sets.test[1])
    # The same images, and another mean and deviation.
    assert not np.array_equal(whole.test[0], sets.test[0])
    np.testing.assert_allclose(whole.test[0], sets.test[0], atol=0.05)


def test_the_number_of_classes_is_that_of_the_data(tmp_path):
    arrays = {f"{split}_images": np.zeros((36, 8, 8, 1), np.uint8) for split in ("train", "test")}
    arrays |= {f"{split}_labels": np.arange(36) % 3 for split in ("train", "test")}
    np.savez(tmp_path / "three.npz", **arrays)
    c = with_holdout(recipe(), 4)
    c.data.name, c.data.train_examples = str(tmp_path / "three.npz"), 0
    assert examples(c).num_classes == 3


def test_loss_and_error_of_a_network_without_knowledge():
    """A head of zeros gives each class a tenth, and always predicts the first."""
    network = load_experiment(recipe()).task.network
    variables = initial(network, (8, 8, 1))
    head = jax.tree.map(np.zeros_like, variables["params"]["head"])
    nothing = {**variables, "params": {**variables["params"], "head": head}}
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    loss, error = evaluate(network, nothing, images, np.array([0, 1, 2, 0, 3]))
    np.testing.assert_allclose(loss, np.log(10), rtol=1e-6)
    assert error == 3 / 5


@pytest.mark.slow
def test_the_rate_is_chosen_on_images_that_are_held_out():
    c = with_holdout(with_numbers(recipe(150, norm=False, widths=(16,)), weight_decay=0), 200)
    c.data.train_examples = 800
    seen = []
    rates = (1e9, 0.1, 1e-6)
    found = train_tuned(c, rates, (4, 7), progress=lambda *a: seen.append(a))
    assert list(found.held_out_loss) == list(rates) and found.rate == 0.1
    assert found.held_out_loss[1e9] == np.inf
    assert found.held_out_loss[0.1] < found.held_out_loss[1e-6] - 0.2
    assert seen[0] == (0, 4) and seen[-1] == (4, 4) and sorted(seen) == seen
    alone = train([with_numbers(c, seed=s, learning_rate=0.1) for s in (4, 7)])
    for one, other in zip(alone, found.trained, strict=True):
        assert equal(one.variables, other.variables)
    sets = examples(c)
    own = evaluate(alone[0].network, alone[0].variables, *sets.held_out).loss
    assert found.held_out_loss[0.1] == own


def test_a_loss_that_is_no_number_never_wins(monkeypatch):
    """The last update may leave numbers behind that are not finite, and no step follows that notices."""
    real = small_training.evaluate

    def evaluated(network, variables, *held_out):
        found = real(network, variables, *held_out)
        return found if np.isfinite(found.loss) and found.loss < 2.2 else Evaluated(np.nan, found.error)

    monkeypatch.setattr(small_training, "evaluate", evaluated)
    c = with_holdout(with_numbers(recipe(150, norm=False, widths=(16,)), weight_decay=0), 200)
    c.data.train_examples = 800
    found = train_tuned(c, (1e-6, 0.1), (4,))
    assert found.rate == 0.1 and found.held_out_loss[1e-6] == np.inf and found.held_out_loss[0.1] < 2.2
    with pytest.raises(Refusal, match="no learning rate of 1e-06, 1e-07 left"):
        train_tuned(c, (1e-6, 1e-7), (4,))


def test_the_best_rate_is_that_of_the_lowest_number():
    score = np.array([[np.nan, 0.3, 0.2], [0.1, np.nan, np.inf]])
    np.testing.assert_array_equal(best_rate((1, 2, 3), score), [2, 0])
    with pytest.raises(Refusal, match="no learning rate of 1, 2 left a finite score"):
        best_rate((1, 2), np.array([[0.5, 0.4], [np.nan, np.inf]]))


@pytest.mark.parametrize("change", [{"holdout": 0}, {"rates": ()}, {"tries": 0}, {"tries": 3}])
def test_a_choice_needs_rates_tries_and_images(change):
    given = {"holdout": 100, "rates": (0.1,), "tries": 1} | change
    with pytest.raises(ValueError, match="held out, one rate or more, and from 1 try"):
        train_tuned(with_holdout(recipe(), given["holdout"]), given["rates"], (0, 1), tries=given["tries"])


def test_streamed_data_are_refused(monkeypatch):
    experiment = load_experiment(recipe())
    stream = dataclasses.make_dataclass("Stream", ["info"])(experiment.dataset.info)
    streamed = dataclasses.replace(experiment, dataset=stream)
    monkeypatch.setattr(small_training, "load_experiment", lambda config: streamed)
    assert not isinstance(stream, data.Arrays)
    small_training._program.cache_clear()
    with pytest.raises(ValueError, match="'digits' is streamed"):
        train([recipe()])
