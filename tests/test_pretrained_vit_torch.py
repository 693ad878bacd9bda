"""Vision transformers against PyTorch itself; these run only where torch, timm, … are installed."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from marks import slow_but  # noqa: E402
from pretrained_helpers import activations, images, saved  # noqa: E402
from torch_models import activations as torch_activations  # noqa: E402
from torch_models import built_as_printed, check_alike  # noqa: E402
from torch_vits import LARGE, SMALL, build  # noqa: E402

from resjax.pretrained import load  # noqa: E402
from resjax.pretrained.positions import resized  # noqa: E402

PACKAGES = {"timm": "timm", "torchvision": "torchvision", "huggingface": "transformers", "google": "timm"}


def built(name):
    pytest.importorskip(PACKAGES[name.partition("_")[0]])
    return build(name)


@pytest.mark.parametrize("name", slow_but([*SMALL, *LARGE], *SMALL))
def test_every_unit_is_that_of_pytorch(name, tmp_path):
    model, looked_at, size, arrays, fields = built(name)
    found = load(saved(arrays, name, tmp_path), **fields)
    assert found.image_shape == (size, size, 3)
    wanted = torch_activations(model, looked_at, images(size))
    ours = activations(found.network, found.variables, images(size))
    check_alike(ours, wanted, found.network.num_units)


FORMS = {
    "cut": {"cut": ("stage1/unit2", "stage1/unit3", "stage1/unit4")},
    "deit3": {"layer_scale": 0.3, "cut": ("stage1/unit5",)},
    "mae": {"pool": "patches", "norm_epsilon": 1e-5},
    "gap": {"pool": "mean", "positions": "sincos"},
    "clip": {"input_norm": True, "activation": "quick_gelu", "norm_epsilon": 1e-5},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_printed_lines_build_the_exported_network(form, tmp_path):
    pytest.importorskip("timm")
    fields = dict(FORMS[form])
    size = {"size": "digits", "patch": 4, "width": 64, "depth": 3, "heads": 2, "mlp_width": 80}
    x = np.random.default_rng(0).normal(size=(2, 24, 16, 3)).astype(np.float32)
    gone = fields.pop("cut", ())
    built_as_printed("vit", size | fields, gone, x, tmp_path)


@pytest.mark.parametrize("grid", [(24, 24), (7, 7), (9, 20)])
def test_positions_are_resampled_as_in_timm(grid):
    pytest.importorskip("timm")
    from timm.layers import resample_abs_pos_embed

    at = np.random.default_rng(0).normal(size=(14, 14, 8)).astype(np.float32)
    given = torch.from_numpy(at).reshape(1, 196, 8)
    wanted = resample_abs_pos_embed(given, list(grid), num_prefix_tokens=0).numpy().reshape(*grid, 8)
    np.testing.assert_allclose(resized(at, grid), wanted, atol=1e-5)
