"""Vision transformers against PyTorch itself; these run only where torch, timm, … are installed."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from marks import slow_but  # noqa: E402
from network_helpers import draw, logits_of  # noqa: E402
from pretrained_helpers import activations, images  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from torch_models import activations as torch_activations  # noqa: E402
from torch_vits import LARGE, SMALL, build  # noqa: E402

from resjax import models  # noqa: E402
from resjax.network.cut import cut_variables  # noqa: E402
from resjax.pretrained import load  # noqa: E402
from resjax.pretrained.export import export  # noqa: E402
from resjax.pretrained.layouts.torch_classes import building  # noqa: E402
from resjax.pretrained.positions import resized  # noqa: E402

PACKAGES = {"timm": "timm", "torchvision": "torchvision", "huggingface": "transformers", "google": "timm"}


def built(name):
    pytest.importorskip(PACKAGES[name.partition("_")[0]])
    return build(name)


def saved(arrays, name, folder):
    if name.startswith("google"):
        np.savez(file := folder / "x.npz", **arrays)
    else:
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, file := folder / "x.safetensors")
    return file


@pytest.mark.parametrize("name", slow_but([*SMALL, *LARGE], *SMALL))
def test_every_unit_is_that_of_pytorch(name, tmp_path):
    model, looked_at, size, arrays, fields = built(name)
    found = load(saved(arrays, name, tmp_path), **fields)
    assert found.image_shape == (size, size, 3)
    wanted = torch_activations(model, looked_at, images(size))
    ours = activations(found.network, found.variables, images(size))
    assert len(wanted) == len(ours) == found.network.num_units + 2
    for a, b in zip(ours, wanted, strict=True):
        assert a.shape == b.shape
        assert np.max(np.abs(a - b)) <= 2e-5 * (np.sqrt(np.mean(b**2)) + np.max(np.abs(b)))


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
    shape, fields = (24, 16, 3), dict(FORMS[form])
    gone = fields.pop("cut", ())
    size = {"size": "digits", "patch": 4, "width": 64, "depth": 3, "heads": 2, "mlp_width": 80}
    whole, network = (
        models.build(models.defaults("vit", **size, **fields, **more), image_shape=shape, num_classes=7)
        for more in ({}, {"cut": gone})
    )
    variables = cut_variables(whole, draw(whole, shape), gone, shape)
    file = str(tmp_path / "it's cut.safetensors")
    export(network, variables, shape, file)
    scope: dict = {}
    exec(building(network, shape, file), scope)  # as pasted
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    with torch.no_grad():
        wanted = scope["model"](torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    ours = logits_of(network, variables, x)
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=2e-5 * float(np.max(np.abs(wanted))))


@pytest.mark.parametrize("grid", [(24, 24), (7, 7), (9, 20)])
def test_positions_are_resampled_as_in_timm(grid):
    pytest.importorskip("timm")
    from timm.layers import resample_abs_pos_embed

    at = np.random.default_rng(0).normal(size=(14, 14, 8)).astype(np.float32)
    given = torch.from_numpy(at).reshape(1, 196, 8)
    wanted = resample_abs_pos_embed(given, list(grid), num_prefix_tokens=0).numpy().reshape(*grid, 8)
    np.testing.assert_allclose(resized(at, grid), wanted, atol=1e-5)
