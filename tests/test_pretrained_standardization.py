"""Which constants the first BatchNorm's running statistics fit; a file's most likely constants."""

import dataclasses

import numpy as np
import pytest
from network_helpers import draw

from resjax import config as configs
from resjax import models
from resjax.data import Arrays, Info
from resjax.pretrained.constants import CIFAR, IMAGENET, Constants
from resjax.pretrained.layouts.layout import Layout
from resjax.pretrained.layouts.recipes import standardized
from resjax.pretrained.standardization import Fit, advice, better, distance, fits, with_constants
from resjax.training.experiment import make_experiment

HALF = Constants((0.5,) * 3, (0.5,) * 3)
MNIST = Constants((0.1307,), (0.3081,))
RARE = Constants((0.1, 0.2, 0.3), (0.7, 0.4, 0.2))
SIDE, IMAGES = 8, 512


def colours(channels):
    """Noise around one colour, uint8 [N, H, W, C]."""
    rng = np.random.default_rng(0)
    images = rng.normal(rng.integers(60, 180, channels), 40, (IMAGES, SIDE, SIDE, channels))
    return images.clip(0, 255).astype(np.uint8)


def experiment_of(constants, model="resnet", **fields):
    images = colours(len(constants.mean))
    labels = np.zeros(IMAGES, np.int32)
    info = Info("colours", images.shape[1:], 10, IMAGES, IMAGES, (), *constants)
    c = configs.default(model, **fields)
    c.data.mean, c.data.std = constants
    return make_experiment(c, Arrays(info, images, labels, images, labels))


def trained_with(constants, experiment):
    """Random variables, with running statistics of the first convolution's outputs on all images."""
    variables = draw(experiment.task.network, (SIDE, SIDE, len(constants.mean)))
    images = (experiment.dataset.train_images / 255 - constants.mean) / constants.std
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    outputs = sum(
        padded[:, i : i + SIDE, j : j + SIDE] @ np.asarray(kernel[i, j]) for i in range(3) for j in range(3)
    )
    bn = variables["batch_stats"]["stem"]["bn"]
    bn["mean"], bn["var"] = outputs.mean((0, 1, 2)), outputs.var((0, 1, 2))
    return variables


@pytest.mark.parametrize("trained", [IMAGENET, CIFAR[10], CIFAR[100], HALF, MNIST], ids=str)
def test_the_constants_of_its_training_are_found(trained):
    assumed = IMAGENET if len(trained.mean) == 3 else Constants((0.5,), (0.5,))
    experiment = experiment_of(assumed, depth=8, placement="post", widths=(6, 8, 8))
    found = fits(experiment, trained_with(trained, experiment))
    assert found[0].constants == assumed
    nearest = min(found, key=lambda fit: fit.distance)
    assert nearest.constants == trained and nearest.distance < 1e-3
    assert all(fit.distance > 5e-3 for fit in found if fit is not nearest)
    if trained == assumed:
        assert better(found) is None
        return
    assert better(found) == trained
    again = with_constants(experiment, trained)
    assert (tuple(again.config.data.mean), tuple(again.config.data.std)) == trained
    np.testing.assert_allclose(again.task.constants.mean.reshape(-1), 255 * np.array(trained.mean), rtol=1e-6)
    np.testing.assert_allclose(again.task.constants.std.reshape(-1), 255 * np.array(trained.std), rtol=1e-6)
    assert tuple(experiment.config.data.mean) == assumed.mean


def test_constants_that_no_script_has_are_told_and_found_when_given():
    fields = {"depth": 8, "placement": "post", "widths": (6, 8, 8)}
    experiment = experiment_of(HALF, **fields)
    found = fits(experiment, trained_with(RARE, experiment))
    assert better(found) is None and "fit neither" in advice(found, taken=True)
    experiment = experiment_of(RARE, **fields)
    found = fits(experiment, trained_with(RARE, experiment))
    assert better(found) is None and "fit its mean" in advice(found, taken=True)


@pytest.mark.parametrize(
    ("own", "other", "said"),
    [
        (0.0002, 0.02, "fit its mean and std."),
        (0.0004, 0.00001, "fit its mean and std."),
        (0.004, 0.001, "fit its mean and std."),
        (0.003, 0.0001, "--config.data.mean=0.5,0.5,0.5 --config.data.std=0.5,0.5,0.5"),
        (0.013, 0.0003, "--config.data.mean=0.5,0.5,0.5 --config.data.std=0.5,0.5,0.5"),
        (0.2, 0.1, "fit neither its mean and std nor other usual ones"),
        (0.1, 0.2, "fit neither its mean and std nor other usual ones"),
        (5.0, 0.1, "fit neither its mean and std nor other usual ones"),
    ],
)  # fmt: skip
def test_what_distances_mean(own, other, said):
    found = [Fit(IMAGENET, own), Fit(HALF, other)]
    assert said in advice(found, taken=False) and said in advice(found, taken=True)
    is_better = better(found) == HALF
    assert ("make another workdir with" in advice(found, taken=False)) == is_better
    assert ("which are taken" in advice(found, taken=True)) == is_better
    assert ("(instead of --config.data.mean=0.485,0.456,0.406 " in advice(found, taken=True)) == is_better


def test_without_a_first_batchnorm_nothing_is_said():
    experiment = experiment_of(IMAGENET, depth=8, norm=False, placement="post")
    assert (
        fits(experiment, {"params": {}, "batch_stats": {}}) == []
        and advice([], taken=True) == ""
        and better([]) is None
    )


def test_of_few_training_images_nothing_is_said():
    experiment = experiment_of(HALF, depth=8, placement="post", widths=(6, 8, 8))
    variables = trained_with(HALF, experiment)
    info = dataclasses.replace(experiment.dataset.info, num_train=199)
    few = dataclasses.replace(experiment, dataset=dataclasses.replace(experiment.dataset, info=info))
    assert fits(few, variables) == []


def test_the_distance_is_that_of_normal_distributions():
    """KL of N(1, 4) from N(0, 1) is (4 + 1 − 1 − ln 4) / 2; a dead channel does not count."""
    file = {"mean": np.zeros(3), "var": np.array([1.0, 1.0, 0.0])}
    seen = {"mean": np.array([1.0, 1.0, 0.0]), "var": np.array([4.0, 4.0, 0.0])}
    assert distance(file, seen) == pytest.approx((4 - np.log(4)) / 2)


# --- whose constants ---


def layout(classes=10, stages=3, side=32, channels=3):
    widths = (64, 128, 256, 512)[:stages]
    model = models.defaults("resnet", widths=widths)
    return Layout("akamaster", model, None, classes, side, channels=channels)


@pytest.mark.parametrize(
    ("given", "prefix", "beside", "expected", "whose"),
    [
        (layout(), "net.", {"acc", "epoch"}, CIFAR[10], "CIFAR-10"),
        (layout(), "net.module.", {"acc"}, CIFAR[10], "CIFAR-10"),
        (layout(100), "net.", {"acc"}, CIFAR[100], "CIFAR-100"),
        (layout(stages=4), "", set(), CIFAR[10], "CIFAR-10"),
        # akamaster's own files, and networks for other images
        (layout(), "state_dict.module.", {"best_prec1"}, IMAGENET, "ImageNet"),
        (layout(), "", set(), IMAGENET, "ImageNet"),
        (layout(), "net.", {"epoch"}, IMAGENET, "ImageNet"),
        (layout(7), "net.", {"acc"}, IMAGENET, "ImageNet"),
        (layout(10, 4, 224), "net.", {"acc"}, IMAGENET, "ImageNet"),
        (layout(channels=1), "net.", {"acc"}, ((), ()), "the training set"),
    ],
)
def test_constants_are_those_of_the_script_that_wrote_the_file(given, prefix, beside, expected, whose):
    found = standardized(given, prefix, beside)
    assert ((found.mean, found.std), found.constants_of) == (tuple(expected), whose)


def test_constants_in_the_file_come_first():
    found = standardized(layout(), "net.", {"acc"}, HALF)
    assert ((found.mean, found.std), found.constants_of) == (tuple(HALF), "the file")
