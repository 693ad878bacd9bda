"""Against PyTorch itself, element by element; they run only where torch (for some, timm …) is installed."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pretrained_helpers import activations, images  # noqa: E402
from pretrained_references import Tensors, max_pool  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch.nn.utils import prune  # noqa: E402
from torch_models import LARGE, SMALL, build, built_as_printed, check_alike  # noqa: E402
from torch_models import activations as torch_activations  # noqa: E402

from resjax import models  # noqa: E402
from resjax.pretrained import load, read, recognize  # noqa: E402
from resjax.pretrained.convert import to_variables  # noqa: E402
from resjax.pretrained.export import export  # noqa: E402
from resjax.pretrained.finding.prefixes import equal  # noqa: E402
from resjax.pretrained.finding.reparametrized import effective  # noqa: E402
from resjax.pretrained.reading.files import read_checkpoint  # noqa: E402

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
    wanted = [b.reshape(a.shape) if a.ndim == 2 else b for a, b in zip(ours, wanted, strict=True)]
    check_alike(ours, wanted, found.network.num_units)


@pytest.mark.parametrize("layer", ["conv", "strided", "bn", "linear", "max_pool"])
def test_layers_of_the_references_are_those_of_pytorch(layer):
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8))
    t = Tensors()
    ours = {
        "conv": lambda: t.conv(x, "l", 4, bias=True),
        "strided": lambda: t.conv(x, "l", 4, 7, 2),
        "bn": lambda: t.bn(x, "l"),
        "linear": lambda: t.linear(x[:, :, 0, 0], "l", 4),
        "max_pool": lambda: max_pool(x),
    }[layer]()
    theirs = {
        "conv": torch.nn.Conv2d(3, 4, 3, padding=1),
        "strided": torch.nn.Conv2d(3, 4, 7, 2, 3, bias=False),
        "bn": torch.nn.BatchNorm2d(3),
        "linear": torch.nn.Linear(3, 4),
        "max_pool": torch.nn.MaxPool2d(2),
    }[layer].double().eval()  # fmt: skip
    theirs.load_state_dict({k.removeprefix("l."): torch.from_numpy(np.asarray(v)) for k, v in t.items()})
    given = torch.from_numpy(x[:, :, 0, 0] if layer == "linear" else x)
    np.testing.assert_allclose(ours, theirs(given).detach().numpy(), rtol=1e-12, atol=1e-12)


DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "uint8", "bool", "uint16", "uint32", "uint64",
          "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
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
    found = read_checkpoint(tmp_path / "x.pt")
    wanted = {
        **{key: saved[key] for key in ("whole", "view", "scalar", "empty", "parameter")},
        "list.0": base[2],
        "list.1.deep.0": base[0],
    }
    assert list(found.tensors) == list(wanted)
    for name, tensor in wanted.items():
        a, b = found.tensors[name], tensor.detach().to(torch.float64).numpy()
        assert a.dtype.name == dtype and a.shape == b.shape
        np.testing.assert_array_equal(a.astype(np.float64), b)
    rest = {"list.1.deep.1": 5, "list.1.deep.2": "text", "list.1.deep.4": 1.5, "size": (3, 4, 5)}
    assert found.values == {"scalar": base[0, 0, 3].item(), **rest}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("zipped", [True, False])
def test_an_optimizer_a_schedule_and_a_loss_beside_the_weights(tmp_path, zipped):
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60])
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    saved = {
        "net": model.state_dict(), "optimizer": optimizer, "schedule": schedule,
        "milestones": schedule.state_dict(), "loss": torch.nn.CrossEntropyLoss(),
        "generator": torch.Generator().get_state(),
        "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "sparse": torch.eye(2).to_sparse(), "meta": torch.ones(2, device="meta"),
        "complex": torch.ones(2) * 1j,
    }  # fmt: skip
    torch.save(saved, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(tmp_path / "x.pt")
    np.testing.assert_array_equal(found.tensors["net.weight"], model.weight.detach().numpy())
    assert found.values["milestones.milestones.30"] == 1
    for name in ("quantized", "sparse", "meta", "complex"):
        with pytest.raises(ValueError, match=f"the tensor '{name}'"):
            found.tensors[name]


@pytest.mark.parametrize("zipped", [True, False])
def test_whole_models_are_refused_with_the_command_that_saves_the_weights(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": torch.nn.Linear(2, 3)}, "x.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"torch.nn.modules.linear.Linear \(in 'model'\)") as refused:
        read_checkpoint("x.pt")
    command = str(refused.value).splitlines()[-1].strip().removeprefix('python -c "').removesuffix('"')
    exec(command)  # as pasted into a shell
    assert list(read_checkpoint("x_weights.pth").tensors) == ["weight", "bias"]


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


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_the_printed_lines_build_a_cut_network(block, tmp_path):
    pytest.importorskip("torchvision")
    fields = {"stage_sizes": (2, 1, 3, 1), "widths": (64, 128, 256, 512), "stem": "large", "block": block,
              "placement": "post", "transition": "projection", "bottleneck_stride": "3x3"}  # fmt: skip
    gone = ("stage1/unit2", "stage3/unit2")
    model = built_as_printed("resnet", fields, gone, images(64), tmp_path)
    assert type(model).__name__ == "ResNet" and [len(model.layer1), len(model.layer3)] == [1, 2]


def weight_norm(layer):
    with pytest.warns(FutureWarning, match="deprecated"):
        return torch.nn.utils.weight_norm(layer)


REPARAMETRIZED = {
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "bias pruned": lambda layer: prune.l1_unstructured(layer, "bias", 0.5),
    "weight norm": weight_norm,
    "spectral norm": torch.nn.utils.spectral_norm,
    "newer weight norm": torch.nn.utils.parametrizations.weight_norm,
    "newer spectral norm": torch.nn.utils.parametrizations.spectral_norm,
}


@pytest.mark.parametrize("kind", REPARAMETRIZED)
@pytest.mark.parametrize("make", [lambda: torch.nn.Conv2d(3, 4, 3), lambda: torch.nn.Linear(5, 4)])
def test_weights_are_those_that_pytorch_computes_from_their_parts(kind, make, tmp_path):
    torch.manual_seed(0)
    layer = REPARAMETRIZED[kind](make())
    x = torch.randn((2, 3, 8, 8) if isinstance(layer, torch.nn.Conv2d) else (2, 5))
    layer(x)  # in training, a step of the power iteration
    layer.eval()(x)
    torch.save(
        {"net": {f"l.{name}": value for name, value in layer.state_dict().items()}}, tmp_path / "x.pth"
    )
    found = effective(read_checkpoint(tmp_path / "x.pth").tensors)
    assert set(found) == {"net.l.weight", "net.l.bias"}
    for name in ("weight", "bias"):
        np.testing.assert_allclose(found[f"net.l.{name}"], getattr(layer, name).detach().numpy(), rtol=2e-6)


@pytest.mark.parametrize(
    "wrap",
    [
        torch.nn.DataParallel,
        torch.optim.swa_utils.AveragedModel,
        lambda model: torch.nn.DataParallel(torch.compile(model, backend="eager")),
        lambda model: torch.nn.ModuleDict({"net": model, "projector": torch.nn.Linear(64, 8)}),
        lambda model: torch.nn.Sequential(torch.nn.Flatten(), model),
    ],
)
def test_a_network_is_found_within_the_wrappers_of_pytorch(wrap, tmp_path):
    model, _, _ = built("akamaster_resnet20")
    own = {name: value.numpy() for name, value in model.state_dict().items()}
    torch.save({"state_dict": wrap(model).state_dict(), "epoch": 3}, tmp_path / "x.pth")
    source = read(tmp_path / "x.pth")
    assert equal(source.tensors, own) and source.layout.model.depth == 20
