"""Votes of sub-networks: who votes, how votes are counted, and what is made of them."""

import dataclasses
import functools
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from network_helpers import draw, logits_of, programs

from resjax import models
from resjax.report import compare
from resjax.studies import variants
from resjax.studies.lesions import prefixes
from resjax.studies.paths.committee import HALF, STUDY, Committee, committee, plot
from resjax.studies.paths.voters import diversity_of, draw_voters, wrong_answers

SHAPE, CLASSES, N = (6, 6, 1), 3, 11


@functools.cache
def case(shortcut="identity"):
    config = models.defaults("resnet", stage_sizes=(2, 2), widths=(4, 8), shortcut=shortcut)
    network = models.build(config, image_shape=SHAPE, num_classes=CLASSES)
    rng = np.random.default_rng(1)
    images = rng.normal(size=(N, *SHAPE)).astype(np.float32)
    return network, draw(network, SHAPE), images, rng.integers(0, CLASSES, N)


@functools.cache
def result():
    return committee(*case(), deleted=(1, None), voters=9, draws=5, batch_size=4)


# --- counting ---


def test_ties_are_shared_equally():
    # One committee of 3, 3 examples: the columns.
    votes = np.array([[[2.0, 2, 1], [3, 0, 0], [1, 1, 1]]]).swapaxes(1, 2)
    wrong = wrong_answers(votes, np.array([0, 1, 2]))
    np.testing.assert_allclose(wrong, [1 / 2 + 1 + 2 / 3])
    np.testing.assert_allclose(wrong_answers(votes[..., :1], np.array([2])), [1.0])


@given(st.integers(2, 5), st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_diversity_is_that_of_all_pairs(voters, count, seed):
    rng = np.random.default_rng(seed)
    answers, labels = rng.integers(0, 3, (voters, count)), rng.integers(0, 3, count)
    right = answers == labels
    pairs = list(itertools.combinations(range(voters), 2))
    disagreement, different, kappa = diversity_of(answers, labels)
    assert math.isclose(disagreement, np.mean([right[i] != right[j] for i, j in pairs]), abs_tol=1e-12)
    assert math.isclose(different, np.mean([answers[i] != answers[j] for i, j in pairs]), abs_tol=1e-12)
    p = right.mean()
    if 0 < p < 1:  # Kuncheva & Whitaker 2003, Eq. 8 with its sum written out
        l_j = right.sum(0)
        spread = np.sum(l_j * (voters - l_j)) / voters / (count * (voters - 1) * p * (1 - p))
        assert math.isclose(kappa, 1 - spread, abs_tol=1e-12)
    else:
        assert math.isnan(kappa)


def test_kappa_at_its_ends():
    labels = np.zeros(4, int)
    same = np.array([[0, 0, 1, 1]] * 3)
    np.testing.assert_array_equal(diversity_of(same, labels), (0, 0, 1))
    opposite = np.array([[0, 0, 1, 1], [1, 1, 0, 0]])
    np.testing.assert_array_equal(diversity_of(opposite, labels), (1, 1, -1))


@pytest.mark.parametrize(
    ("n", "deleted", "most", "count"),
    [(4, 1, 9, 4), (5, 2, 10, 10), (4, None, 16, 16), (40, 1, 40, 40)],
)
def test_all_voters_where_there_are_no_more(n, deleted, most, count):
    can_go = np.append(np.ones(n, bool), False)
    rows = draw_voters(can_go, deleted, most, 0)
    assert rows.shape == (count, n + 1) and len(np.unique(rows, axis=0)) == count
    assert (rows[:, -1] == 1).all()
    if deleted is not None:
        assert (rows.sum(1) == n + 1 - deleted).all()


def test_random_voters_differ_and_keep_half_of_the_units():
    can_go = np.ones(30, bool)
    rows = draw_voters(can_go, None, 400, 0)
    assert len(np.unique(rows, axis=0)) == 400
    assert abs(rows.mean() - 0.5) < 0.02 and np.abs(rows.mean(0) - 0.5).max() < 0.1
    rows = draw_voters(can_go, 7, 400, 0)
    assert len(np.unique(rows, axis=0)) == 400 and (rows.sum(1) == 23).all()


# --- networks ---


def test_equals_a_loop_over_networks_with_gates():
    network, variables, images, labels = case()
    got = committee(*case(), deleted=(1,), voters=4, sizes=(1, 3, 4), draws=2, batch_size=4)
    whole = logits_of(network, variables, images, gates=np.ones(4, np.float32))
    assert got.whole_error == np.mean(np.argmax(whole, -1) != labels)
    # Four units, all four deletions, in the order of the units.
    one_off = 1 - np.eye(4, dtype=np.float32)
    logits = np.stack([logits_of(network, variables, images, gates=g) for g in one_off])
    answers = logits.argmax(-1)
    np.testing.assert_allclose(got.voter_error[0], np.mean(answers != labels, axis=1))
    counts = np.stack([(answers == c).sum(0) for c in range(CLASSES)])
    expected = wrong_answers(counts.astype(float), labels) / N
    np.testing.assert_allclose(got.majority_error[0, 2], expected)  # all four, in every draw
    np.testing.assert_allclose(got.average_error[0, 2], np.mean(logits.mean(0).argmax(-1) != labels))
    assert set(np.round(got.majority_error[0, 0] * N, 9)) <= set(np.round(got.voter_error[0] * N, 9))
    np.testing.assert_array_equal(got.kept, [3])
    assert got.num_units == 4


def test_probabilities_are_averaged_on_request():
    network, variables, images, labels = case()
    got = committee(
        *case(), deleted=(1,), voters=4, sizes=(4,), draws=2, average="probabilities", batch_size=4
    )
    gates = 1 - np.eye(4, dtype=np.float32)
    logits = variants.logits_of(network, variables, images, variants.with_gates, gates)
    p = np.asarray(jax.nn.softmax(logits)).mean(0)
    np.testing.assert_allclose(got.average_error[0, 0], np.mean(p.argmax(-1) != labels))
    assert got.choices["average of"] == "probabilities"


def test_does_not_depend_on_the_batch_size_and_compiles_each_kind_of_unit_once():
    whole = result()
    before = programs(prefixes.run_unit)
    seen = []
    other = committee(
        *case(),
        deleted=(1, None),
        voters=9,
        draws=5,
        batch_size=6,
        progress=lambda *a: seen.append(a),
    )
    assert programs(prefixes.run_unit) == before + len(case()[0].stacks)
    total = seen[0][1]  # of two batches: the whole network, and different voters; some are of both kinds
    assert 2 * 5 < total <= 2 * 14 and seen[0] == (0, total) and seen[-1] == (total, total)
    for name in ("voter_error", "majority_error", "average_error", "kappa"):
        np.testing.assert_allclose(getattr(other, name), getattr(whole, name), rtol=1e-6)


def test_sizes_kinds_and_intervals():
    r = result()
    assert r.kind == ("1 deleted", HALF)
    np.testing.assert_array_equal(r.voters, [4, 9])
    np.testing.assert_array_equal(r.size, [1, 3, 5])
    assert np.isnan(r.majority_error[0, 2]).all() and np.isfinite(r.majority_error[1]).all()
    np.testing.assert_array_equal(r.largest, [1, 2])
    mean = r.majority_error[1].mean(-1)
    low, high = r.majority_interval[1].T
    assert np.all(low <= mean + 1e-12) and np.all(mean <= high + 1e-12)
    # All four networks without one unit vote, so their number is no estimate.
    for name in ("disagreement", "different_answers", "kappa"):
        low, high = getattr(r, f"{name}_interval").T
        assert low[0] == high[0] == getattr(r, name)[0]
        assert low[1] < getattr(r, name)[1] < high[1]
    low, high = r.voter_error_interval.T
    assert low[0] == high[0] and low[1] < np.mean(r.voter_error[1]) < high[1]
    assert "other voters" in r.choices["intervals"]


OF_VOTERS = (
    "voter_error_interval",
    "disagreement_interval",
    "different_answers_interval",
    "kappa_interval",
)


def test_files_without_intervals_of_voters_are_read():
    data = result().to_json()
    old = {k: v for k, v in data.items() if k not in OF_VOTERS}
    back = Committee.from_json(json.loads(json.dumps(old)))
    assert back.kappa_interval.shape == (2, 2) and np.isnan(back.kappa_interval).all()
    assert "κ = " in compare.finding(STUDY, {"net": back}).points[1] and "nan" not in str(
        compare.table(STUDY, {"net": back})
    )
    older = dataclasses.replace(back, choices={})
    assert "over committees of these voters" in compare.finding(STUDY, {"net": older}).points[0]
    with pytest.raises(ValueError, match="not a Committee: missing"):
        Committee.from_json({"kind": ["a"]})


def test_voters_that_are_the_whole_network_vote_as_it_does():
    network, variables, images, labels = case()
    silent = {**variables, "params": dict(variables["params"])}
    for name in [stack.name for stack in network.stacks]:
        unit = dict(silent["params"][name])
        unit["conv2"] = jax.tree.map(jnp.zeros_like, unit["conv2"])
        silent["params"][name] = unit
    r = committee(network, silent, images, labels, voters=9, draws=3, batch_size=11)
    assert np.nanmax(np.abs(r.voter_error - r.whole_error)) == 0
    np.testing.assert_allclose(r.majority_error, r.whole_error, atol=1e-12)
    assert r.disagreement == r.different_answers == 0


def test_a_plain_network_votes_with_what_can_go():
    r = committee(*case("none"), deleted=(1,), voters=9, draws=2, batch_size=11)
    assert r.num_units == 3 and r.kept == 2  # the unit that changes the shape stays


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deleted": (5,)}, "deleted=5; allowed: 1 … 4"),
        ({"deleted": (4,)}, "leaves one sub-network"),
        ({"deleted": ()}, "at least one kind"),
        ({"sizes": (10,)}, r"sizes=\(10,\)"),
        ({"voters": 1, "sizes": (1,)}, "voters=1"),
        ({"average": "votes"}, "allowed: logits, probabilities"),
        ({"draws": 1}, "2 or more"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        committee(*case(), **{"voters": 9, **options})


def test_no_unit_to_differ_in():
    shape = (32, 32, 1)
    network = models.build(models.defaults("lenet5"), image_shape=shape, num_classes=CLASSES)
    with pytest.raises(ValueError, match=r"units can be deleted, and voters differ"):
        committee(network, draw(network, shape), np.zeros((2, *shape), np.float32), np.zeros(2, int))


# --- what is said and drawn ---


def made(together, alone, whole, classes=10):
    """A result with one kind: errors of majorities, of voters and of the whole network."""
    error = np.tile(np.array([alone, together])[None, :, None], (1, 1, 3))
    interval = np.tile(np.array([alone, together])[None, :, None], (1, 1, 2))
    one = np.array([0.1])
    return Committee(
        kind=("3 deleted",),
        voters=np.array([5]),
        kept=np.array([6.0]),
        voter_error=np.full((1, 5), alone),
        size=np.array([1, 3]),
        majority_error=error,
        average_error=error,
        majority_interval=interval,
        average_interval=interval,
        disagreement=one,
        different_answers=one,
        kappa=one,
        voter_error_interval=np.array([[alone, alone]]),
        disagreement_interval=np.array([[0.0, 0.2]]),
        different_answers_interval=np.array([[0.0, 0.2]]),
        kappa_interval=np.array([[-0.1, 0.3]]),
        whole_error=whole,
        num_units=9,
        num_examples=100,
        num_classes=classes,
        choices={"intervals": "over other voters"},
    )


def test_the_finding_follows_the_numbers():
    near = compare.finding(STUDY, {"net": made(0.02, 0.2, 0.015)})
    assert near.headline == "Majorities of sub-networks of every kind come close to the whole net."
    assert "lower than the 20.0 % (20.0 % to 20.0 %) of one voter" in near.points[1]
    far = compare.finding(STUDY, {"net": made(0.5, 0.4, 0.015)})
    assert far.headline == "No majority of sub-networks comes close to the whole net."
    assert "higher than the 40.0 % (40.0 % to 40.0 %) of one voter" in far.points[1]
    assert compare.finding(STUDY, {"net": made(0.9, 0.9, 0.85)}).headline.startswith("net learned too little")
    assert "Intervals (95 %) are over other voters." in near.points[0]
    assert "κ = 0.10 (-0.10 to 0.30)" in near.points[1]
    both = dataclasses.replace(
        result(), whole_error=0.0, majority_error=np.array([[[0.0] * 2] * 3, [[0.5] * 2] * 3])
    )
    assert "“1 deleted”, but not for “each kept" in compare.finding(STUDY, {"net": both}).headline


def test_table_summary_and_json():
    results = {"a": result(), "b": made(0.5, 0.4, 0.015)}
    shown = compare.table(STUDY, results)
    assert all(len(row) == len(shown.columns) for row in shown.rows)
    assert len(shown.rows) == 2 + 3 + 2
    assert (
        compare.summary(STUDY, results)["b"]["vote of sub-networks"] == "50.0 % (3 voters, 6 of 9 units kept)"
    )
    back = Committee.from_json(json.loads(json.dumps(result().to_json(), allow_nan=False)))
    for field in dataclasses.fields(back):
        np.testing.assert_equal(getattr(back, field.name), getattr(result(), field.name))


def test_plot_has_one_panel_a_network():
    figure = plot({"a": result(), "b": made(0.5, 0.4, 0.015)})
    assert [ax.get_title() for ax in figure.axes] == ["a", "b"]
    assert len(plot({"": result()}).axes) == 1
