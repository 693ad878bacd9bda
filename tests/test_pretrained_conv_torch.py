"""ConvNeXt, MLP-Mixer and ConvMixer against PyTorch itself; these run only where torch, timm, … are
installed."""

import numpy as np
import pytest

pytest.importorskip("torch")

from marks import slow_but
from pretrained_helpers import activations, images, saved
from torch_convs import LARGE, SMALL, build
from torch_models import activations as torch_activations
from torch_models import built_as_printed, check_alike

from resjax.pretrained import load

PACKAGES = {"torchvision": "torchvision", "huggingface": "transformers"}


@pytest.mark.parametrize("name", slow_but([*SMALL, *LARGE], *SMALL))
def test_every_unit_is_that_of_pytorch(name, tmp_path):
    pytest.importorskip(PACKAGES.get(name.partition("_")[0], "timm"))
    model, looked_at, size, arrays, fields = build(name)
    found = load(saved(arrays, name, tmp_path), size, **fields)
    wanted = torch_activations(model, looked_at, images(size))
    ours = activations(found.network, found.variables, images(size))
    check_alike(ours, wanted, found.network.num_units)


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
    fields, name = dict(FORMS[form]), form.partition(" ")[0]
    gone = fields.pop("cut", ())
    x = np.random.default_rng(0).normal(size=(2, 40, 32, 4)).astype(np.float32)
    built_as_printed(name, fields, gone, x, tmp_path)
