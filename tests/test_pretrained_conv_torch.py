"""ConvNeXt, MLP-Mixer and ConvMixer against PyTorch itself; these run only where torch, timm, … are
installed."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from marks import slow_but  # noqa: E402
from network_helpers import draw, logits_of  # noqa: E402
from pretrained_helpers import activations, images  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from torch_convs import LARGE, SMALL, build  # noqa: E402
from torch_models import activations as torch_activations  # noqa: E402

from resjax import models  # noqa: E402
from resjax.network.cut import cut_variables  # noqa: E402
from resjax.pretrained import load  # noqa: E402
from resjax.pretrained.export import export  # noqa: E402
from resjax.pretrained.layouts.torch_classes import building  # noqa: E402

PACKAGES = {"torchvision": "torchvision", "huggingface": "transformers"}


def saved(arrays, name, folder):
    if name.startswith("google"):
        np.savez(file := folder / "x.npz", **arrays)
    else:
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, file := folder / "x.safetensors")
    return file


@pytest.mark.parametrize("name", slow_but([*SMALL, *LARGE], *SMALL))
def test_every_unit_is_that_of_pytorch(name, tmp_path):
    pytest.importorskip(PACKAGES.get(name.partition("_")[0], "timm"))
    model, looked_at, size, arrays, fields = build(name)
    found = load(saved(arrays, name, tmp_path), size, **fields)
    wanted = torch_activations(model, looked_at, images(size))
    ours = activations(found.network, found.variables, images(size))
    assert len(wanted) == len(ours) == found.network.num_units + 2
    for a, b in zip(ours, wanted, strict=True):
        assert a.shape == b.shape
        assert np.max(np.abs(a - b)) <= 2e-5 * (np.sqrt(np.mean(b**2)) + np.max(np.abs(b)))


CONVNEXT = {"patch": 4, "stage_sizes": (2, 2, 3, 1), "widths": (4, 6, 8, 10)}
MIXER = {"size": "digits", "width": 10, "depth": 3, "token_width": 7, "mlp_width": 29, "patch": 8}
CONVMIXER = {"width": 6, "depth": 2, "kernel": 3, "patch": 4}
FORMS = {
    "convnext": CONVNEXT | {"layer_scale": 0.3, "cut": ("stage1/unit2", "stage3/unit1")},
    "convnext without stages": CONVNEXT | {"cut": ("stage2/unit1", "stage2/unit2", "stage4/unit1")},
    "convnext v2": CONVNEXT | {"version": "v2", "norm_epsilon": 1e-5, "cut": ("stage2/unit1",)},
    "convnext norm first": CONVNEXT | {"norm_first": True, "layer_scale": 0.0, "patch": 1},
    "convnext of others": CONVNEXT | {"head_norm_epsilon": 1e-2, "unit_dropout": "linear"},
    "mixer": MIXER | {"cut": ("stage1/unit1", "stage1/unit4"), "unit_dropout": "uniform"},
    "mixer of others": MIXER | {"cut": ("stage1/unit1", "stage1/unit2"), "activation": "gelu_tanh"},
    "convmixer": CONVMIXER | {"unit_dropout": "linear"},
    "convmixer relu": CONVMIXER | {"activation": "relu", "patch": 1},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_printed_lines_build_the_exported_network(form, tmp_path):
    pytest.importorskip("timm")
    shape, fields, name = (40, 32, 4), dict(FORMS[form]), form.partition(" ")[0]
    gone = fields.pop("cut", ())
    whole, network = (
        models.build(models.defaults(name, **fields, **more), image_shape=shape, num_classes=7)
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
