"""Against PyTorch itself, element by element; they run only where torch (for some, timm …) is installed."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pretrained_helpers import activations, images  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch_models import LARGE, SMALL, build  # noqa: E402
from torch_models import activations as torch_activations  # noqa: E402

from resjax import models  # noqa: E402
from resjax.pretrained import load, recognize  # noqa: E402
from resjax.pretrained.convert import to_variables  # noqa: E402
from resjax.pretrained.export import export  # noqa: E402
from resjax.pretrained.torch_files import read_torch  # noqa: E402

PACKAGES = {"timm": "timm", "torchvision": "torchvision", "chenyaofo": "torchvision",
            "huggingface": "transformers", "akamaster": "torch"}  # fmt: skip


def built(name):
    pytest.importorskip(PACKAGES[name.partition("_")[0]])
    return build(name)


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGE)])
def test_every_activation_is_that_of_pytorch(name, tmp_path):
    model, looked_at, size = built(name)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "x.pth")
    found = load(tmp_path / "x.pth", image_size=size)
    wanted = torch_activations(model, looked_at, images(size))
    ours = activations(found.network, found.variables, images(size))
    assert len(wanted) == len(ours) == found.network.num_units + 2
    for a, b in zip(ours, wanted, strict=True):
        b = b.reshape(a.shape) if a.ndim == 2 else b
        assert a.shape == b.shape
        assert np.max(np.abs(a - b)) <= 2e-5 * (np.sqrt(np.mean(b**2)) + np.max(np.abs(b)))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int64", "uint8", "bool"])
def test_whatever_torch_saves_is_read_exactly(tmp_path, zipped, dtype):
    base = (torch.arange(60) % 7).reshape(3, 4, 5).to(getattr(torch, dtype))
    saved = {
        "whole": base,
        "view": base[1:, ::2].transpose(0, 2),
        "scalar": base[0, 0, 3],
        "empty": base[:0],
        "parameter": torch.nn.Parameter(base, requires_grad=False),
        "list": [base[2], {"deep": (base[0], 5, "text", None, 1.5)}],
        "dtype": torch.float32,
        "size": base.shape,
        "device": torch.device("cpu"),
    }
    torch.save(saved, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    found = read_torch(tmp_path / "x.pt")

    def same(a, b):
        b = b.detach().to(torch.float64).numpy()
        assert a.dtype.name == dtype and a.shape == b.shape
        np.testing.assert_array_equal(a.astype(np.float64), b)

    for key in ("whole", "view", "scalar", "empty", "parameter"):
        same(found[key], saved[key])
    same(found["list"][0], saved["list"][0])
    same(found["list"][1]["deep"][0], base[0])
    assert found["list"][1]["deep"][1:] == (5, "text", None, 1.5)
    assert found["size"] == (3, 4, 5) and found["dtype"] is None and found["device"] is None


def test_whole_models_and_programs_are_refused(tmp_path):
    model = torch.nn.Linear(2, 3)
    for zipped in (True, False):
        torch.save(model, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=r"save the state_dict\(\)"):
            read_torch(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["torchvision_bottleneck", "torchvision_alexnet", "torchvision_vgg11"])
def test_pytorch_takes_back_what_is_exported(name, tmp_path):
    model, _, size = built(name)
    tensors = {k: v.numpy() for k, v in model.state_dict().items()}
    layout = recognize(tensors)
    shape = (size, size, 3)
    network = models.build(layout.model, image_shape=shape, num_classes=layout.num_classes)
    variables = to_variables(tensors, network, shape, layout.naming(network))
    export(network, variables, shape, tmp_path / "x.safetensors")
    back = load_file(tmp_path / "x.safetensors")
    names = list(model.state_dict())
    model.load_state_dict({k: torch.zeros_like(v) for k, v in model.state_dict().items()})
    model.load_state_dict(back)  # strict: PyTorch itself fills in num_batches_tracked
    assert set(names) - set(back) == {k for k in names if k.endswith("num_batches_tracked")}
    assert all(np.array_equal(model.state_dict()[k].numpy(), tensors[k]) for k in back)
