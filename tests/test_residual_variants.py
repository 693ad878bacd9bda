"""How residual networks start, which variants there are, and which cannot be."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but

from resjax.models import build, defaults
from resjax.models.residual import PLACEMENTS, ResidualUnit
from resjax.models.shortcuts import ALTERATIONS, TRANSITIONS
from resjax.models.stem_head import STEMS

SHAPE = (8, 8, 3)


def tiny(**fields):
    given = {"stage_sizes": (2, 2, 2), "widths": (4, 8, 16), **fields}
    return build(defaults("resnet", **given), image_shape=SHAPE, num_classes=3)


def initial(network, seed=0):
    # Optimizing the random draws would take most of this file's time.
    options = {"xla_backend_optimization_level": 0}
    init = jax.jit(lambda key: network.init(key, SHAPE), compiler_options=options)
    return init(jax.random.key(seed))


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (4, *SHAPE))


# --- how networks start ---

ZERO_STARTS = [
    {"zero_gamma": True, "placement": "post"},
    {"branch_scale": "skipinit", "placement": "pre"},
    pytest.param({"branch_scale": "skipinit", "placement": "post", "norm": False}, marks=pytest.mark.slow),
    {"branch_scale": "fixup", "placement": "post", "norm": False},
]


@pytest.mark.parametrize("fields", ZERO_STARTS, ids=lambda f: "-".join(map(str, f.values())))
def test_branches_that_start_at_zero(fields, x):
    """Deleting any subset of units is a no-op to the last bit, and every branch can start to learn."""
    network = tiny(stage_sizes=(3,), widths=(4,), **fields)
    variables = initial(network)
    # Fixup's classifier starts at 0 too, which would make every test here pass.
    head = nn.initializers.normal(1.0)(jax.random.key(2), (4, 3))
    params = {**variables["params"]}
    params["head"] = {**params["head"], "classifier": {"kernel": head, "bias": jnp.zeros(3)}}
    rest = {k: v for k, v in variables.items() if k != "params"}

    @jax.jit
    def run(params, gates):
        return network.apply({**rest, "params": params}, x, gates=gates).logits

    gates = np.float32([[1, 1, 1], *itertools.product((0, 0.7), repeat=3)])
    outputs = [run(params, g) for g in gates]
    assert np.ptp(outputs[0]) > 0.1
    for output in outputs[1:]:
        np.testing.assert_array_equal(output, outputs[0])

    def loss(params):
        out = network.apply({**rest, "params": params}, x, train=True)
        return jnp.mean(jnp.square(out.logits - 1))

    gradient = jax.jit(jax.grad(loss))(params)
    last = {"skipinit": "alpha", "fixup": "conv2"}.get(fields.get("branch_scale"), "bn2")
    for stack in network.stacks:
        for leaf in jax.tree.leaves(gradient[stack.name][last]):
            assert np.all(np.any(np.asarray(leaf).reshape(stack.n, -1), axis=1)), stack.name


@pytest.mark.parametrize(("block_layers", "exponent"), [(2, -1 / 2), (3, -1 / 4), (1, None)])
def test_fixup_initialization(block_layers, exponent):
    """Standard deviation √(2 / fan-in) · L^(−1/(2m − 2)) but for the last convolution, which is 0."""
    fields = {"branch_scale": "fixup", "placement": "post", "norm": False}
    network = tiny(stage_sizes=(16,), widths=(24,), block_layers=block_layers, **fields)
    stage = jax.eval_shape(lambda k: network.init(k, SHAPE), jax.random.key(0))["params"]["stage1"]
    unit = network.stacks[0].unit
    one = jax.jit(lambda k: unit.init(k, jnp.zeros((1, 2, 2, 24))))(jax.random.key(3))["params"]
    assert stage["conv1"]["kernel"].shape == (16, *one["conv1"]["kernel"].shape)
    for j in range(1, block_layers):
        expected = (2 / (9 * 24)) ** 0.5 * 16**exponent
        assert np.std(one[f"conv{j}"]["kernel"]) == pytest.approx(expected, rel=0.05)  # 5,184 draws
    assert not np.any(one[f"conv{block_layers}"]["kernel"])
    assert "bias" not in one["conv1"]


def test_he_initialization():
    unit = ResidualUnit(None, ((3, 32, 1),), placement="post")
    variables = jax.jit(unit.init)(jax.random.key(0), jnp.zeros((1, 2, 2, 32)))
    kernel = variables["params"]["conv1"]["kernel"]
    assert np.std(kernel) == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.03)  # 9,216 draws
    assert np.mean(kernel) == pytest.approx(0, abs=0.004)


@pytest.mark.parametrize(
    "fields", [pytest.param({}, marks=pytest.mark.slow), {"placement": "post", "block": "bottleneck"}]
)
def test_twins_start_equal(fields):
    given = {"stage_sizes": (3, 2), "widths": (2, 4), **fields}
    residual, plain = tiny(**given), tiny(shortcut="none", **given)
    a, b = initial(residual, seed=4), initial(plain, seed=4)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    kernels = a["params"]["stage1"]["conv1"]["kernel"]
    assert np.any(kernels[0] != kernels[1])


def test_bfloat16_computes_in_half_precision_and_remembers_in_single(x):
    fields = {"stage_sizes": (3, 1), "widths": (4, 8), "block_layers": 1}
    variables = initial(tiny(**fields))
    outs = {}
    for dtype in ("float32", "bfloat16"):
        network = tiny(dtype=dtype, **fields)
        assert jax.eval_shape(lambda k, n=network: n.init(k, SHAPE), jax.random.key(0)) == (
            jax.eval_shape(lambda v: v, variables)
        )
        step = jax.jit(lambda v, x, n=network: n.apply(v, x, train=True, tap=lambda p: p.branch[0, 0]))
        outs[dtype] = step(variables, x)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(outs[dtype].taps)} == {dtype}
        kept = (outs[dtype].logits, outs[dtype].batch_stats)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(kept)} == {"float32"}
    wide, half = outs["float32"].logits, outs["bfloat16"].logits
    assert 0 < np.abs(wide - half).max() < 0.05 * np.abs(wide).max()


# --- stems ---


def taps_of(image, kernel, stride):
    """[B, H, W, C] → [B, H/stride, W/stride, kernel², C]: what each output reads; NaN outside the image."""
    margin = (kernel - 1) // 2
    width = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    padded = np.pad(image, width, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
    windows = np.moveaxis(windows[:, ::stride, ::stride], 3, -1)
    return windows.reshape(*windows.shape[:3], kernel**2, -1)


@pytest.mark.parametrize(
    ("stem", "kernel", "stride", "pooled", "side"),
    [
        ("small", 3, 1, False, 8),
        ("small_pool", 3, 1, True, 4),
        ("large", 7, 2, True, 2),
        ("large_no_pool", 7, 2, False, 4),
    ],
)
def test_what_each_stem_computes(stem, kernel, stride, pooled, side, x):
    network = tiny(stage_sizes=(1,), widths=(4,), stem=stem, placement="post")
    variables = initial(network)
    weights = variables["params"]["stem"]["conv"]["kernel"]
    taps = np.nan_to_num(taps_of(np.asarray(x), kernel, stride))
    wanted = np.einsum("bhwtc,tcf->bhwf", taps, np.reshape(weights, (kernel**2, 3, 4)))
    wanted = np.maximum(wanted / np.sqrt(1 + 1e-5), 0)
    if pooled:
        wanted = np.nanmax(taps_of(wanted, 3, 2), axis=3)
    found = network.run_stem(variables, x)[0]
    assert found.shape == (4, side, side, 4)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


# --- combinations ---

FIELDS = {
    "placement": PLACEMENTS,
    "shortcut": (*ALTERATIONS, "none"),
    "transition": TRANSITIONS,
    "norm": (True, False),
    "branch_scale": ("none", "skipinit", "fixup"),
    "block": ("basic 1", "basic 2", "basic 3", "bottleneck 2"),
    "widen": (1, 2),
    "stem": tuple(STEMS),
}


def fields_of(row):
    block, _, layers = row["block"].partition(" ")
    return {**row, "block": block, "block_layers": int(layers)}


def allowed(row) -> bool:
    if row["placement"] == "bn_after_add" and not row["norm"]:
        return False
    if row["branch_scale"] == "fixup" and (row["norm"] or row["placement"] != "post"):
        return False
    return not (row["shortcut"] == "none" and row["branch_scale"] != "none")


def covering_rows(size):
    """Few allowed rows that hold all combinations of ``size`` values that an allowed row can hold."""
    rows = [dict(zip(FIELDS, v, strict=True)) for v in itertools.product(*FIELDS.values())]
    rows = [row for row in rows if allowed(row)]
    number = {}  # of a combination; held: those of each row
    held = np.array([
        [number.setdefault(some, len(number)) for some in itertools.combinations(row.items(), size)]
        for row in rows
    ])  # fmt: skip
    missing = np.ones(len(number), bool)
    rng = np.random.default_rng(0)
    chosen = []
    while missing.any():
        sample = rng.choice(len(rows), 400)
        best = sample[missing[held[sample]].sum(axis=1).argmax()]
        if missing[held[best]].any():
            chosen.append(rows[best])
            missing[held[best]] = False
    return chosen


def small(row):
    return tiny(stage_sizes=(1, 2), widths=(2, 4), **fields_of(row))


def name_of(row):
    return "-".join(map(str, row.values()))


PAIRS = {name_of(row): row for row in covering_rows(2)}


@pytest.mark.parametrize("name", slow_but(PAIRS, *list(PAIRS)[::3]))
def test_every_allowed_pair_of_choices_builds(name, x):
    network = small(PAIRS[name])

    def step(key):
        variables = network.init(key, SHAPE)
        return network.apply(variables, x, train=True, key=key), variables.get("batch_stats", {})

    out, stats = jax.eval_shape(step, jax.random.key(0))
    assert out.logits.shape == (4, 3) and out.batch_stats == stats


SINGLE = {name_of(row): row for row in covering_rows(1)}


@pytest.mark.parametrize("name", slow_but(SINGLE, *list(SINGLE)[::4]))
def test_every_choice_trains(name, x):
    """Forward and backward in training: finite numbers, and a gradient for every part."""
    network = small(SINGLE[name])
    variables = jax.eval_shape(lambda k: network.init(k, SHAPE), jax.random.key(0))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda v: np.abs(rng.normal(0, 0.3, v.shape)).astype("f4"), variables)

    def loss(params, key):
        out = network.apply({**variables, "params": params}, x, train=True, key=key)
        return jnp.mean(jnp.square(out.logits)), out.batch_stats

    (value, stats), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        variables["params"], jax.random.key(0)
    )
    for leaf in jax.tree.leaves((value, stats, gradient)):
        assert np.all(np.isfinite(leaf))
    for name, part in gradient.items():
        assert any(np.any(leaf) for leaf in jax.tree.leaves(part)), f"nothing reaches {name}"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block": "wide"}, "model.block='wide'; allowed: basic, bottleneck"),
        ({"block_layers": 0}, "model.block_layers=0; allowed: 1 or more"),
        ({"bottleneck_stride": "1"}, "allowed: 1x1, 3x3"),
        ({"stem": "huge"}, "allowed: small, small_pool, large, large_no_pool"),
        ({"placement": "after"}, "allowed: post, bn_after_add, relu_before_add, relu_pre, pre"),
        ({"shortcut": "highway"}, "allowed: identity, scale, exclusive_gate, .*projection, none"),
        ({"transition": "crop"}, "allowed: pad_subsample, pad_pool, projection"),
        ({"branch_scale": "rezero"}, "allowed: none, skipinit, fixup"),
        ({"unit_dropout": "half"}, "allowed: none, linear, uniform, subset"),
        ({"dtype": "float16"}, "model.dtype='float16'; allowed: float32, bfloat16"),
        ({"conv": "fast"}, "model.conv='fast'; allowed: auto, lax, cpu"),
        ({"unroll": -1}, "unroll=-1; allowed"),
        ({"depht": 20}, "no field 'depht'; it has: depth"),
        ({"stage_sizes": (2, 2)}, "stage_sizes=(2, 2) does not fit 3 model.widths"),
        ({"stage_sizes": (2, 0, 2)}, "give one number of units"),
        ({"stage_sizes": (), "depth": 21}, "allowed are 6n + 2, e.g. 20 or 26"),
        ({"stage_sizes": (), "depth": 2}, "e.g. 8 or 14"),
        ({"widths": (4, 8, 0)}, "allowed: 1 channel or more"),
        ({"widen": 0}, "allowed: 1 channel or more"),
        ({"widths": (16, 8, 4)}, "use model.transition='projection'"),
        ({"widths": (1,) * 5, "stage_sizes": (1,) * 5}, "use at least 16×16"),
        ({"stem": "large", "widths": (4,) * 3}, "use at least 16×16"),
        ({"stem": "small_pool", "widths": (4,) * 4}, "use at least 16×16"),
        ({"stem": "large_no_pool", "widths": (4,) * 4}, "use at least 16×16"),
        ({"placement": "bn_after_add", "norm": False}, "needs model.norm=True"),
        ({"branch_scale": "fixup"}, "needs model.norm=False and model.placement='post'"),
        ({"branch_scale": "skipinit", "shortcut": "none"}, "without shortcuts can't learn"),
        (
            {"zero_gamma": True, "shortcut": "none", "placement": "post"},
            "without shortcuts can't learn",
        ),
        ({"zero_gamma": True, "norm": False, "placement": "post"}, "needs model.norm=True"),
        ({"zero_gamma": True, "placement": "pre"}, "use model.branch_scale='skipinit'"),
        ({"zero_gamma": True, "placement": "bn_after_add"}, "never gets a gradient"),
        ({"zero_gamma": True, "placement": "relu_before_add"}, "never gets a gradient"),
        (
            {"zero_gamma": True, "placement": "post", "branch_scale": "skipinit"},
            "needs model.norm=True, model.branch_scale='none'",
        ),
        ({"shortcut": "none", "unit_dropout": "linear"}, "unit_dropout needs shortcuts"),
        ({"unit_dropout": "subset"}, "active=0; allowed: 1 … 6"),
        ({"unit_dropout": "linear", "unit_survival": 0.0}, "allowed: 0 < survival ≤ 1"),
    ],
)
def test_what_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError) as error:
        tiny(**fields)
    for part in message.split(".*"):
        assert part in str(error.value)


def test_widths_may_shrink_behind_projections(x):
    network = tiny(widths=(8, 4, 2), transition="projection")
    logits = jax.eval_shape(lambda k: network.apply(network.init(k, SHAPE), x).logits, jax.random.key(0))
    assert logits.shape == (4, 3)


def test_the_stock_convolution_reaches_every_layer(x):
    """conv='lax' allows forward mode, which the fast gradients on CPU do not."""
    network = tiny(
        stage_sizes=(1, 1),
        widths=(2, 4),
        conv="lax",
        transition="projection",
        shortcut="shortcut_gate",
    )

    def tangent(key):
        variables = network.init(key, SHAPE)
        return jax.jvp(lambda x: network.apply(variables, x).logits, (x,), (x,))[1]

    assert jax.eval_shape(tangent, jax.random.key(0)).shape == (4, 3)
