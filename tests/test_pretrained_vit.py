"""Vision transformers of others: every unit is PyTorch's (committed references), and what does not fit."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from network_helpers import draw as draw_variables
from network_helpers import equal, logits_of
from pretrained_helpers import References, activations, images, saved, summary
from safetensors.numpy import load_file, save_file

from resjax import models
from resjax.network.cut import cut_variables
from resjax.pretrained import load, read, recognize
from resjax.pretrained.convert import to_tensors, to_variables
from resjax.pretrained.export import export
from resjax.pretrained.finding.prefixes import select
from resjax.pretrained.layouts import vit_names
from resjax.pretrained.layouts.recipes import standardized
from resjax.pretrained.layouts.torch_classes import building
from resjax.pretrained.positions import resized
from resjax.pretrained.reading.files import read_checkpoint

REFERENCES = References("pretrained_vit.npz")
NAMES = REFERENCES.names
HALF, IMAGENET, CLIP = (0.5,) * 3, (0.485, 0.456, 0.406), (0.48145466, 0.4578275, 0.40821073)
# (layout, mean, and the fields that are not the defaults of a small ViT)
SIZE = {"width": 128, "depth": 2, "heads": 2, "mlp_width": 192, "patch": 4}
RECOGNIZED = {
    "timm_vit": ("timm", HALF, {}),
    "timm_deit3": ("timm", IMAGENET, {"layer_scale": 1e-5}),
    "timm_mae": ("timm", IMAGENET, {"pool": "patches"}),
    "timm_gap": ("timm", HALF, {"pool": "mean"}),
    "timm_clip": ("timm", CLIP, {"input_norm": True, "norm_epsilon": 1e-5}),
    "torchvision_vit": ("torchvision", IMAGENET, {}),
    "torchvision_representation": ("torchvision", IMAGENET, {"representation": 24}),
    "huggingface_vit": ("Hugging Face", HALF, {"norm_epsilon": 1e-12}),
    "huggingface_vit_modules": ("Hugging Face", HALF, {"norm_epsilon": 1e-12}),
    "google_vit": ("vision_transformer", HALF, {"activation": "gelu_tanh"}),
    "google_big_vision": ("big_vision", HALF, {"activation": "gelu_tanh"}),
}
SHAPE = (16, 16, 3)
FAST = ("timm_clip", "timm_mae", "torchvision_representation", "google_vit")


@pytest.mark.parametrize("name", slow_but(NAMES, *FAST))
def test_every_unit_is_that_of_pytorch(name, tmp_path):
    facts = REFERENCES.facts(name)
    found = load(saved(REFERENCES.tensors(name), name, tmp_path), **facts.get("fields", {}))
    given = [summary(a) for a in activations(found.network, found.variables, images(facts["size"]))]
    wanted = REFERENCES.summaries(name)
    assert found.image_shape == (facts["size"],) * 2 + (3,) and len(given) == len(wanted) == 2 + 2 * 2
    # Of each activation, relative to its root mean square, which comes first.
    assert np.all(np.abs(np.stack(given) - wanted) <= 3e-5 * wanted[:, :1])


@pytest.mark.parametrize("name", NAMES)
def test_what_a_file_shows(name, tmp_path):
    tensors = select(read_checkpoint(saved(REFERENCES.tensors(name), name, tmp_path)).tensors).tensors
    layout = recognize(tensors)
    collection, mean, fields = RECOGNIZED[name]
    assert (layout.name, layout.mean, layout.num_classes, layout.image_size) == (collection, mean, 5, 16)
    assert layout.model.to_dict() == models.defaults("vit", **SIZE, **fields).to_dict()


def test_a_vit_model_of_hugging_face_is_renamed(tmp_path):
    whole = REFERENCES.tensors("huggingface_vit")
    body = {k.removeprefix("vit."): v for k, v in whole.items() if k.startswith("vit.")}
    save_file({**body, "pooler.dense.weight": np.zeros((128, 128), np.float32)}, tmp_path / "x.safetensors")
    (tmp_path / "names.txt").write_text("^ -> vit.\npooler\\. -> DROP\n")
    source = read(tmp_path / "x.safetensors", names=tmp_path / "names.txt")
    assert (source.layout.name, source.layout.num_classes) == ("Hugging Face", 0)
    assert {*source.tensors} == {k for k in whole if k.startswith("vit.")}


def test_metas_scripts_have_the_constants_of_imagenet():
    layout = recognize(REFERENCES.tensors("timm_vit"))
    assert standardized(layout, "model.", ()).mean == IMAGENET
    assert standardized(layout, "state_dict.", ()).mean == HALF
    hugging_face = recognize(REFERENCES.tensors("huggingface_vit"))
    assert standardized(hugging_face, "model.", ()).mean == HALF


def shapes_of(name, **changes):
    """Zeros in the shapes of a file's tensors, some replaced; None removes one."""
    shapes = {**REFERENCES.facts(name)["tensors"], **changes}
    return {k: np.broadcast_to(np.float32(0), shape) for k, shape in shapes.items() if shape is not None}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("timm_vit", {"dist_token": (1, 1, 128)}, "dist_token: .*distilled DeiT.*patch16_224, is imported"),
        ("timm_vit", {"head_dist.weight": (5, 128)}, "distilled"),
        ("timm_vit", {"reg_token": (1, 4, 128)}, "register tokens"),
        ("timm_vit", {"attn_pool.q.weight": (128, 128)}, "attention in place of pooling"),
        ("timm_vit", {"patch_embed.backbone.stem.conv.weight": (8, 3, 7, 7)}, "hybrid"),
        ("timm_vit", {"blocks.0.attn.q_norm.weight": (64,)}, "normalized queries and keys"),
        ("timm_vit", {"blocks.0.attn.q_bias": (128,)}, "BEiT"),
        ("timm_vit", {"blocks.0.mlp.w12.weight": (96, 128), "blocks.0.mlp.fc1.weight": None}, "with gates"),
        ("timm_vit", {"blocks.0.mlp.fc1.weight": (384, 128)}, r"fc1\.weight: .*with gates"),
        ("timm_vit", {"blocks.0.mlp.fc2.weight": None}, r"blocks\.0\.mlp\.fc2\.weight is missing"),
        ("timm_mae", {"cls_token": None}, r"fc_norm\.weight: .*no class token, cls_token; ours have both"),
        ("timm_vit", {"patch_embed.proj.weight": (128, 48)}, "ours have square patches"),
        ("timm_vit", {"pos_embed": (1, 8, 128)}, "its 8 positions are no square grid"),
    ],
)
def test_what_ours_do_not_have_is_refused_by_name(name, changes, message):
    with pytest.raises(ValueError, match=message):
        recognize(shapes_of(name, **changes))


def converted(tensors, shape=SHAPE, **fields):
    layout = recognize(tensors)
    model = layout.model.to_dict() | fields
    network = models.build(models.defaults("vit", **{k: model[k] for k in model if k != "name"}),
                           image_shape=shape, num_classes=5)  # fmt: skip
    return to_variables(tensors, network, shape, layout.naming(network))


def test_tensors_that_are_joined_are_named_one_by_one():
    weight = "vit.encoder.layer.1.attention.attention.key.weight"
    whole = REFERENCES.tensors("huggingface_vit")
    with pytest.raises(ValueError, match=rf"Missing: {re.escape(weight)}\."):
        converted({k: v for k, v in whole.items() if k != weight})
    with pytest.raises(ValueError, match=rf"{re.escape(weight)} \(7, 128\) instead of \(128, 128\)"):
        converted(whole | {weight: np.zeros((7, 128), np.float32)})


@pytest.mark.parametrize("heads", [2, 16])
def test_heads_are_those_of_googles_files_and_else_of_64_numbers(heads):
    assert recognize(shapes_of("timm_vit")).model.heads == 2
    block = "Transformer.encoderblock_0.MultiHeadDotProductAttention_1"
    shapes = {k.replace("/", "."): shape for k, shape in REFERENCES.facts("google_vit")["tensors"].items()}
    shapes["embedding.kernel"] = (128, 3, 4, 4)
    shapes[f"{block}.query.kernel"] = (heads, 128 // heads, 128)
    given = {k: np.broadcast_to(np.float32(0), shape) for k, shape in shapes.items()}
    assert recognize(given).model.heads == heads


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (1280, 16), (1408, 16), (48, 1), (80, 1), (160, 2)])
def test_the_heads_that_are_assumed(width, heads):
    shapes = {k: [width if n == 128 else n for n in shape] for k, shape in shapes_items("timm_vit")}
    assert recognize({k: np.broadcast_to(0.0, shape) for k, shape in shapes.items()}).model.heads == heads


def shapes_items(name):
    return REFERENCES.facts(name)["tensors"].items()


# --- positions ---


def test_positions_of_another_grid_keep_the_class_token_and_what_is_constant():
    tensors = REFERENCES.tensors("timm_vit")
    tensors["pos_embed"] = np.concatenate(
        [tensors["pos_embed"][:, :1], np.broadcast_to(np.arange(128, dtype=np.float32), (1, 16, 128))], 1
    )
    at = converted(tensors, (24, 16, 3))["params"]["stem"]["positions"]
    assert at.shape == (1 + 6 * 4, 128)
    assert np.array_equal(at[0], tensors["pos_embed"][0, 0])
    np.testing.assert_allclose(at[1:], np.tile(np.arange(128), (24, 1)), rtol=1e-5, atol=1e-5)


def test_a_grid_that_doubles_keeps_a_slope_inside():
    rows, columns = np.mgrid[:4, :4].astype(np.float32)
    found = resized(np.stack([rows, columns], -1), (8, 8))
    inside = (np.arange(8) + 0.5) / 2 - 0.5  # the places of the new pixels among the old ones
    np.testing.assert_allclose(found[3:5, 3:5, 0], np.tile(inside[3:5, None], 2), atol=1e-5)
    np.testing.assert_allclose(found[3:5, 3:5, 1], np.tile(inside[3:5], (2, 1)), atol=1e-5)


def test_without_a_position_of_its_own_a_class_token_gets_zeros():
    tensors = REFERENCES.tensors("timm_deit3")
    at = converted(tensors)["params"]["stem"]["positions"]
    assert not at[0].any() and np.array_equal(at[1:], tensors["pos_embed"][0])


def test_missing_biases_of_queries_keys_and_values_are_zeros_and_others_are_missed():
    found = converted(REFERENCES.tensors("timm_mae"))["params"]["attention"]["branch"]
    assert not found["qkv"]["bias"].any() and found["out"]["bias"].any()
    tensors = REFERENCES.tensors("timm_vit")
    del tensors["blocks.1.attn.proj.bias"]
    with pytest.raises(ValueError, match=r"Missing: blocks\.1\.attn\.proj\.bias\."):
        converted(tensors)


# --- back to PyTorch ---

TINY = {"size": "digits", "patch": 4, "width": 64, "depth": 3, "heads": 1, "mlp_width": 24}
FORMS = {
    "plain": {},
    "units of a layer": {"grain": "layer"},
    "scaled, patches": {"layer_scale": 0.3, "pool": "patches"},
    "mean, fixed": {"pool": "mean", "positions": "sincos"},
    "CLIP": {"input_norm": True, "norm_epsilon": 1e-5},
    "cut": {"cut": ("stage1/unit2", "stage1/unit3", "stage1/unit4")},
    "gates": {"unit_dropout": "linear"},
}


@pytest.mark.parametrize("form", slow_but(FORMS, "CLIP", "cut", "gates", "mean, fixed"))
def test_what_is_exported_computes_the_same(form, tmp_path):
    fields = {**TINY, **FORMS[form]}
    network = models.build(models.defaults("vit", **fields), image_shape=SHAPE, num_classes=5)
    variables = draw_variables(network, SHAPE)
    export(network, variables, SHAPE, tmp_path / "x.safetensors", {"step": "7"})
    found = load(tmp_path / "x.safetensors")
    assert found.layout.name == "timm" and found.image_shape == SHAPE
    x = jnp.asarray(images(16))
    wanted = logits_of(network, variables, x)
    np.testing.assert_allclose(logits_of(found.network, found.variables, x), wanted, rtol=1e-4, atol=1e-5)
    if form == "plain":
        assert equal(found.variables["params"], variables["params"])
    if form == "cut":  # an attention is left of the first layer, and both units of the third
        assert found.model.depth == 2
        gone = {k for k, v in load_file(tmp_path / "x.safetensors").items() if not v.any()}
        assert gone == {f"blocks.0.{k}.{leaf}" for k in ("norm2", "mlp.fc1", "mlp.fc2")
                        for leaf in ("weight", "bias")}  # fmt: skip
        assert "# No MLP is left in blocks 0" in building(network, SHAPE, "x.safetensors")


def test_what_timm_lacks_is_refused(tmp_path):
    for fields, message in (
        ({"representation": 8}, "no layer in front of the classifier"),
        ({"placement": "post"}, "placement='pre'"),
        ({"cut": ("stage1/unit2",), "map": "affine"}, "have no maps"),
        ({"grain": "layer", "unit_dropout": "linear"}, "model.grain='unit'"),
    ):
        network = models.build(models.defaults("vit", **TINY, **fields), image_shape=SHAPE, num_classes=5)
        with pytest.raises(ValueError, match=message):
            export(network, draw_variables(network, SHAPE), SHAPE, tmp_path / "x.safetensors")
        assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("names", [vit_names.TORCHVISION_FIRST, vit_names.HUGGING_FACE, vit_names.BIG_VISION])
def test_every_tensor_comes_back_in_each_collections_names(names):
    network = models.build(models.defaults("vit", **TINY), image_shape=SHAPE, num_classes=5)
    variables = draw_variables(network, SHAPE)
    tensors = to_tensors(variables, network, SHAPE, vit_names.vit(network, names))
    assert equal(converted(tensors), variables)


def test_a_cut_of_an_import_is_that_of_its_network(tmp_path):
    found = load(saved(REFERENCES.tensors("timm_vit"), "timm_vit", tmp_path))
    gone = ("stage1/unit1",)
    less = models.build(models.defaults("vit", **SIZE, cut=gone), image_shape=SHAPE, num_classes=5)
    smaller = cut_variables(found.network, found.variables, gone, SHAPE)
    gates = np.array([0, 1, 1, 1], np.float32)
    x = jnp.asarray(images(16))
    wanted = logits_of(found.network, found.variables, x, gates=gates)
    np.testing.assert_allclose(logits_of(less, smaller, x), wanted, rtol=1e-4, atol=1e-5)


# --- files of Flax ---


def test_kernels_of_flax_have_their_outputs_first(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {
        "a/kernel": (2, 3),
        "b/kernel": (5, 5, 3, 4),
        "q/query/kernel": (6, 2, 3),
        "q/out/kernel": (2, 3, 6),
    }
    arrays = {k: rng.normal(size=shape) for k, shape in shapes.items()} | {"w.weight": np.ones((2, 3))}
    np.savez(tmp_path / "x.npz", step=np.int64(7), **arrays)
    found = read_checkpoint(tmp_path / "x.npz")
    assert found.values == {"step": 7}
    np.testing.assert_array_equal(found.tensors["a.kernel"], arrays["a/kernel"].T)
    np.testing.assert_array_equal(found.tensors["b.kernel"], arrays["b/kernel"].transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(
        found.tensors["q.query.kernel"], arrays["q/query/kernel"].transpose(1, 2, 0)
    )
    np.testing.assert_array_equal(found.tensors["q.out.kernel"], arrays["q/out/kernel"].transpose(2, 0, 1))
    np.testing.assert_array_equal(found.tensors["w.weight"], arrays["w.weight"])


def test_hostile_npz_files_are_refused(tmp_path):
    file = tmp_path / "x.npz"
    np.savez(file, a=np.array([{"a": 1}], object))
    with pytest.raises(ValueError, match="Python objects are not read"):
        read_checkpoint(file)
    np.savez_compressed(file, a=np.zeros(1 << 24))
    with pytest.raises(ValueError, match=r"its arrays 134,217,728; at most 16 times"):
        read_checkpoint(file)
    np.savez(file, **{"a/b": np.ones(2), "a.b": np.ones(2)})
    with pytest.raises(ValueError, match="stands twice"):
        read_checkpoint(file)
    content = bytearray(file.read_bytes())
    content[60] ^= 255
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged"):
        read_checkpoint(file)
