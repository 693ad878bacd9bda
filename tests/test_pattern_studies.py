"""Studies of a network whose units alternate, beside those of the same network without groups.

The network also reads a mask beside the state and ties weights of stem and head, so every study must bind its
variables to its images.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_helpers import draw, logits_of
from pattern_helpers import IMAGES, LABELS, SHAPE, apart, blocks, masked, mixed, without_groups

from resjax import analysis
from resjax.cpu.shared_batches import Cores
from resjax.network.losses import cross_entropy, share_wrong
from resjax.network.refusal import Refusal
from resjax.studies.lesions.prefixes import measure_places
from resjax.studies.lesions.single_deletions import _lesion_batch
from resjax.studies.paths.path_exact import walk_lengths
from resjax.studies.paths.path_growth import unit_scales
from resjax.studies.paths.path_walk import TRAINING, Probe
from resjax.studies.paths.truncation import truncated_logits
from resjax.studies.variants import measure, with_order

HALVES = np.random.default_rng(0).random((5, 8)) < 0.5


@functools.cache
def forms():
    """The network and its variables with groups, and without."""
    network = masked(mixed())
    variables = draw(network, SHAPE)
    return (network, variables), (without_groups(network), apart(network, variables))


def assert_same(found, expected):
    for field in dataclasses.fields(found):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if dataclasses.is_dataclass(a):
            assert_same(a, b)
        elif isinstance(a, float | np.ndarray):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5, err_msg=field.name)
        else:
            assert a == b, field.name


def initial(network):
    """Other variables, of the form that the network has."""
    whole = forms()[0][0]
    other = jax.tree.map(lambda v: 0.5 * v, forms()[0][1])
    return other if network.stacks[1].group else apart(whole, other)


GIVEN = (IMAGES, LABELS)
TRAIN = {"batch_size": 3, "max_batches": 2}
MEASURED = {
    # Without groups, no kinds alternate.
    "lesion": lambda *n: dataclasses.replace(analysis.lesion(*n, *GIVEN, per_class=True), kind=()),
    "delete_subsets": lambda *n: analysis.delete_subsets(*n, *GIVEN, HALVES),
    "recalibrate": lambda *n: analysis.recalibrate(*n, *GIVEN, reference=IMAGES),
    "path_spectrum": lambda *n: analysis.path_spectrum(*n, *GIVEN, batch_size=3),
    "path_spectrum in training": lambda *n: analysis.path_spectrum(*n, *GIVEN, probe=TRAINING, batch_size=3),
    "sample_paths": lambda *n: analysis.sample_paths(*n, *GIVEN, draws=3, batch_size=3),
    "path_parameters": lambda *n: analysis.path_parameters(*n, *GIVEN, batch_size=3),
    "path_counts": lambda network, _: analysis.path_counts(network),
    "committee": lambda *n: analysis.committee(*n, *GIVEN, voters=5, draws=3),
    "forward_depth": lambda *n: analysis.forward_depth(*n, *GIVEN, choose_on=GIVEN, draws=2),
    "gradients": lambda *n: analysis.gradients(*n, *GIVEN, **TRAIN),
    "backward_signal": lambda *n: analysis.backward_signal(*n, *GIVEN, **TRAIN),
    "branch_variance": lambda *n: analysis.branch_variance(*n, IMAGES, **TRAIN),
    "jacobians": lambda *n: analysis.jacobians(*n, *GIVEN, iterations=3, probes=2, batch_size=3),
    "identity": lambda *n: analysis.identity(*n, *GIVEN),
    "responses": lambda *n: analysis.responses(*n, IMAGES),
    "interventions": lambda *n: analysis.interventions(
        *n, *GIVEN, initial=initial(n[0]), reference=IMAGES, alphas=(0.5,), draws=0, reset_statistics=True
    ),
}


SLOW = {
    *("recalibrate", "path_spectrum in training", "sample_paths", "forward_depth"),
    *("gradients", "backward_signal", "jacobians", "path_parameters", "identity", "interventions"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in MEASURED]
)
def test_a_study_gives_the_result_of_the_network_without_groups(name):
    assert_same(*(MEASURED[name](*form) for form in forms()))


def test_units_of_groups_have_kinds():
    kinds = ("", "mixing", "mixing", "layers", "mixing", "mixing", "layers", "layers")
    assert analysis.lesion(*forms()[0], *GIVEN).kind == kinds
    one = blocks(1)  # a kind with one unit has its name, too
    found = analysis.lesion(one, draw(one, SHAPE), *GIVEN)
    assert {kind: own.tolist() for kind, own in found.of_kinds.items()} == {
        "other": [True, False, False],
        "mixing": [False, True, False],
        "layers": [False, False, True],
    }


def test_reset_units_are_those_of_the_initial_variables():
    """Unit by unit, so that a row that is mixed up would show."""
    network, variables = forms()[0]
    other = initial(network)
    found = analysis.interventions(*forms()[0], *GIVEN, initial=other, alphas=(), draws=0).of("reset", "loss")
    for unit in network.units:
        own = jax.tree.map(np.copy, variables["params"])
        jax.tree.map(
            lambda a, b, row=unit.row: np.copyto(a[row], b[row]), own[unit.part], other["params"][unit.part]
        )
        logits = logits_of(network, {**variables, "params": own}, IMAGES)
        expected = jnp.mean(cross_entropy(logits, jnp.asarray(LABELS)))
        np.testing.assert_allclose(found[0, unit.index], expected, rtol=1e-5)


def test_orders_by_prefixes_are_those_of_apply():
    network, variables = forms()[0]
    orders = np.array([[0, 5, 1, 7, 2, 4, 3, 6], [0, 1, 2, 6, 4, 5, 3, 7], np.arange(8)])
    places, _ = measure_places(network, variables, *GIVEN, orders)
    scores, intact = measure(network, variables, *GIVEN, with_order, orders)
    np.testing.assert_allclose(places.loss, scores.loss, rtol=1e-5)
    np.testing.assert_allclose(places.kl, scores.kl, rtol=1e-4, atol=1e-6)
    assert places.loss[2] == pytest.approx(intact.loss[0], rel=1e-6)
    assert len(set(places.loss.round(6))) == 3
    with pytest.raises(ValueError, match=r"puts unit 4 at place 3 .* there, 3, 6, 7$"):
        measure_places(network, variables, *GIVEN, np.array([[0, 1, 2, 4, 3, 5, 6, 7]]))


def test_reorder_swaps_units_of_one_class():
    network, variables = forms()[0]
    result = analysis.reorder(network, variables, *GIVEN, swaps=(1, 3), draws=4)
    part = np.array([unit.part for unit in network.units])
    assert (part[result.order] == part).all()
    assert result.fixed == ("stage1/unit1",)
    assert result.of_kind("neighbours").sum() == 3 + 2
    assert result.tau[-1] == pytest.approx(1 - 4 * (6 + 3) / (8 * 7))
    np.testing.assert_array_equal(result.order[-1], [0, 5, 4, 7, 2, 1, 6, 3])
    assert "one class" in result.choices["units that change places"]
    layers = result.order[result.of_kind("layers")]  # mixing ×2 and a unit of layers, twice; then one more
    np.testing.assert_array_equal(layers, [[0, 4, 5, 6, 1, 2, 3, 7]])


def test_path_lengths_sum_to_the_gradient():
    network, variables = masked(blocks(3)), draw(masked(blocks(3)), SHAPE)
    found = analysis.path_spectrum(network, variables, *GIVEN, batch_size=6, probe=Probe(reduction="sum"))

    @jax.jit
    def gradient(x):
        bound = network.bound(variables, IMAGES)  # the mask is constant

        def loss(x):
            h, _ = network.run_stem(bound, x)
            h, _, _ = network.run_places(network.places(bound), h)
            return jnp.sum(cross_entropy(network.run_head(bound, h)[0], jnp.asarray(LABELS)))

        return jax.grad(loss)(x)

    np.testing.assert_allclose(found.total[0, 0], np.linalg.norm(gradient(IMAGES)), rtol=1e-4)
    np.testing.assert_allclose(found.contribution[0, 0].sum(), 1, rtol=1e-4)


def test_scales_of_batch_norms_are_in_the_order_of_the_units():
    network, variables = forms()[0]
    gamma = np.abs(variables["params"]["layers"]["norm"]["scale"]).mean(1)
    expected = np.full(8, np.nan)
    expected[[3, 6, 7]] = gamma[[2, 0, 1]]
    np.testing.assert_allclose(unit_scales(network, variables), expected, rtol=1e-6)


def test_a_unit_is_not_inserted_into_a_group():
    with pytest.raises(Refusal, match=r"groups \(layers, mixing\)"):
        analysis.insert(*forms()[0], IMAGES, after=3, key=jax.random.key(0))


@pytest.mark.parametrize("name", ["lesion", "path_spectrum", "forward_depth"])
def test_programs_of_studies_do_not_grow_with_the_periods(name):
    def operations(count):
        network = masked(blocks(count))
        variables = jax.eval_shape(lambda key: network.init(key, SHAPE), jax.random.key(0))
        run = {
            "forward_depth": lambda v: truncated_logits(network, v, IMAGES, linear=True),
            "path_spectrum": lambda v: (
                walk_lengths(network, cross_entropy, Probe(), v, IMAGES, LABELS, jax.random.key(0)).rows
            ),
            "lesion": lambda v: _lesion_batch(
                Cores(), network, cross_entropy, share_wrong, (True,) * network.num_units, v, IMAGES, LABELS
            ),
        }[name]
        return str(jax.make_jaxpr(run)(variables)).count(" = ")

    assert operations(3) == operations(6)
