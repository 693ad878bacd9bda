"""Networks with chosen rates: what is held out, what is chosen, and the claims that compare them."""

import json

import numpy as np
import pytest
from network_helpers import initial
from test_sample_size import bars

from resjax.models.local import CONNECTIONS, chain, twin
from resjax.studies.convolution import equal_parameters, few_examples, sharing_by_layer, tuned
from resjax.studies.convolution.few_examples import Training, choose, fit
from resjax.studies.convolution.tuned import Tuned, by_examples, over_sizes

HOW = {"steps": 60, "batch_size": 8}
SHAPE = (6, 6, 1)


def network():
    return {"one": twin("convolution", image_shape=SHAPE, num_classes=2)}


@pytest.mark.slow
def test_a_rate_is_an_argument_and_decides_what_is_learned():
    train, test = bars(24, 0), bars(10, 1)
    trainings = [Training("one", False, 24, rate) for rate in (0.0, 0.01)]
    done = fit(network(), trainings, train, test, seeds=(0, 1), **HOW)
    assert done.train.shape == (2, 2)
    assert done.test.shape == (2, 2, 9)
    assert (done.train[1] == 0).all()
    # Without updates a network predicts as at initialization.
    images, labels = few_examples.at_places(train[0], 1)[0], train[1]
    for seed in (0, 1):
        variables = initial(network()["one"], SHAPE, seed)
        logits = network()["one"].apply(variables, images).logits
        assert done.train[0, seed] == pytest.approx(np.mean(np.argmax(logits, -1) != labels))


@pytest.mark.slow
def test_a_choice_is_by_the_error_in_the_middle_or_at_all_places():
    train, held_out = bars(24, 0), bars(10, 1)
    trainings = [Training("one", moved, 24, 0.5) for moved in (False, True)]
    error = choose(network(), trainings, (0.0, 0.01), train, held_out, seeds=(3,), **HOW)
    assert error.shape == (2, 2)
    for i, training in enumerate(trainings):
        for j, rate in enumerate((0.0, 0.01)):
            at = fit(network(), [training._replace(rate=rate)], train, held_out, seeds=(3,), **HOW).test[0, 0]
            assert error[i, j] == pytest.approx(at.mean() if training.moved else at[0])


def test_held_out_images_are_never_trained_on_and_test_images_choose_nothing(monkeypatch):
    calls = []
    real = tuned.fit

    def recorded(networks, trainings, train, test, **how):
        calls.append((list(trainings), train, test, how["seeds"]))
        return real(networks, trainings, train, test, **how)

    monkeypatch.setattr(tuned, "fit", recorded)
    monkeypatch.setattr(few_examples, "fit", recorded)
    train, test, seen = bars(34, 0), bars(10, 1), []
    results = by_examples(
        network(),
        train,
        test,
        sizes=(4, 24),
        seeds=2,
        seed=5,
        choice_seeds=1,
        rates=(1e-9, 0.01),
        progress=lambda *parts: seen.append(parts),
        **HOW,
    )
    choice, last = calls
    for _, used, _, _ in calls:
        np.testing.assert_array_equal(used[0], train[0][:24])
    np.testing.assert_array_equal(choice[2][0], train[0][24:])
    np.testing.assert_array_equal(last[2][0], test[0])
    assert (list(choice[3]), list(last[3])) == ([7], [5, 6])
    result = results["one"]
    # A rate of 1e-9 learns nothing, where there is something to learn.
    assert result.chosen[0, 1] == 0.01
    assert [t.rate for t in last[0]] == result.chosen.ravel().tolist()
    assert result.chosen.tolist() == result.rate[result.held_out_error.argmin(-1)].tolist()
    assert seen[0] == (0, 12)
    assert seen[-1] == (12, 12)
    back = Tuned.from_json(json.loads(json.dumps(result.to_json())))
    np.testing.assert_array_equal(back.held_out_error, result.held_out_error)


def test_too_few_images_and_seeds_are_refused():
    with pytest.raises(ValueError, match="10 training images; allowed: more than the 10 test images"):
        by_examples(network(), bars(10, 0), bars(10, 1), sizes=(4,))
    with pytest.raises(ValueError, match="from 2"):
        by_examples(network(), bars(24, 0), bars(10, 1), sizes=(4,), seeds=1)
    with pytest.raises(ValueError, match=r"sizes=\(15,\); allowed: one or more of 1 … 14"):
        by_examples(network(), bars(24, 0), bars(10, 1), sizes=(15,))


def test_differences_are_means_over_sizes_with_an_interval_over_seeds():
    a = np.array([[[0.3, 0.5], [0.1, 0.3]]])  # one setting, two sizes, two seeds
    mean, low, high = over_sizes(a, np.zeros_like(a))
    # By seed 0.2 and 0.4: mean 0.3, standard error 0.1, t of one degree of freedom 12.706.
    assert (mean[0], low[0], high[0]) == pytest.approx((0.3, 0.3 - 1.2706, 0.3 + 1.2706), rel=1e-4)


@pytest.mark.parametrize("shape", [(10, 10, 1), (7, 12, 3)])
@pytest.mark.parametrize("form", CONNECTIONS)
def test_parameters_are_counted_and_widths_come_close(form, shape):
    width = equal_parameters.widths(form, shape, 10, 30_000)
    network = equal_parameters._network(form, width, shape, 10)
    real = few_examples.num_parameters(network, shape)
    assert real == equal_parameters.num_parameters(form, width, shape, 10)
    assert real == pytest.approx(30_000, rel=0.02)
    assert width[0] <= width[1] <= 3 * width[0]


def test_the_claims_networks_have_equal_parameters_within_one_percent():
    counts = [
        equal_parameters.num_parameters(
            form, equal_parameters.widths(form, (10, 10, 1), 10, 11_000), (10, 10, 1), 10
        )
        for form in CONNECTIONS
    ]
    assert counts == [11_083, 11_060, 11_099]
    with pytest.raises(ValueError, match=r"parameters=100; allowed: .* the smallest convolution network"):
        equal_parameters.widths("convolution", (10, 10, 1), 10, 100)


def test_sides_are_those_of_the_interval():
    zero = np.zeros((3, 2, 3))
    off = np.array([-0.1, 0.0, 0.1])[:, None, None] + np.array([-0.001, 0, 0.001])
    assert equal_parameters.sides(zero + off, zero) == [-1, 0, 1]
    assert equal_parameters.sides(zero - off, zero) == [1, 0, -1]


def test_one_layer_at_a_time_loses_its_sharing(monkeypatch):
    given = {}
    monkeypatch.setattr(
        sharing_by_layer, "by_examples", lambda networks, *args, **how: given.update(networks) or {}
    )
    sharing_by_layer.sharing_by_layer(bars(24, 0), bars(10, 1))
    counts = {label: few_examples.num_parameters(network, SHAPE) for label, network in given.items()}
    shared = (9 * 8 + 8, 9 * 8 * 16 + 16, 9 * 16 * 16 + 16)
    places, head = (36, 9, 9), 2 * (9 * 16 + 1)
    assert counts == {
        label: head + sum(n * (places[i] if i in layers else 1) for i, n in enumerate(shared))
        for label, layers in sharing_by_layer.UNSHARED.items()
    }


@pytest.mark.slow
def test_a_chain_of_layers_pools_where_it_should():
    net = chain(("convolution",) * 3, (2, 3, 4), image_shape=(8, 9, 1), num_classes=5, pools=(1, 2))
    variables = initial(net, (8, 9, 1))
    assert variables["params"]["head"]["classifier"]["kernel"].shape == (2 * 2 * 4, 5)
    with pytest.raises(ValueError, match="maps of 1×2 can't be pooled; use at least 2×2"):
        chain(("convolution",) * 3, (2, 3, 4), image_shape=(2, 4, 1), num_classes=5, pools=(1, 2))
