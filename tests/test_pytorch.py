"""``resjax.pytorch``: units of PyTorch models. They run where torch and torchax are installed."""

import copy
import importlib.util
import sys

import jax
import numpy as np
import pytest

import resjax
from resjax import pytorch
from resjax.analysis import lesion

installed = all(map(importlib.util.find_spec, ("torch", "torchax")))
needs_torch = pytest.mark.skipif(not installed, reason="torch or torchax is not installed")
pytestmark = pytest.mark.usefixtures("rank_promotion")


@pytest.fixture
def rank_promotion():
    """torchax broadcasts as PyTorch does, without naming the axes."""
    with jax.numpy_rank_promotion("allow"):
        yield


def test_without_torch_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"needs torch and torchax.*pip install torch"):
        pytorch.take(None, None)


def last_layers(name, model):
    """For each unit, the parameters with which its branch ends: with zeros there, the branch is 0."""
    if name == "resnet18":
        blocks = [b for i in range(1, 5) for b in getattr(model, f"layer{i}")]
        return [(b.bn2.weight, b.bn2.bias) for b in blocks]
    if name == "convnext_tiny":
        return [(b.layer_scale,) for i in (1, 3, 5, 7) for b in model.features[i]]
    ends = [end for b in model.encoder.layers for end in (b.self_attention.out_proj, b.mlp[3])]
    return [(end.weight, end.bias) for end in ends]


def logits_of(model, x):
    import torch

    with torch.no_grad():
        return model.eval()(x).numpy()


def drawn(name):
    """A network of torchvision without zeros, which would hide differences, and images for it."""
    torchvision = pytest.importorskip("torchvision")
    import torch

    torch.manual_seed(0)
    size = {"image_size": 64} if name == "vit_b_16" else {}
    model = getattr(torchvision.models, name)(num_classes=10, **size)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if "running_var" in key:
                value.uniform_(0.5, 1.5)
            elif "running_mean" in key or "heads" in key or "layer_scale" in key:
                value.normal_(std=0.1)
    return model, torch.randn(2, 3, 64, 64)


@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize(("name", "units"), [("resnet18", 8), ("convnext_tiny", 18), ("vit_b_16", 24)])
def test_a_network_of_torchvision_is_taken_apart(name, units):
    import torch

    model, x = drawn(name)
    found = resjax.discover(*pytorch.take(model, x))
    assert len(found.units) == units == found.network.num_units
    assert model.training  # as it was
    images, run = x.numpy(), jax.jit(found.network.apply)
    wanted = logits_of(model, x)
    np.testing.assert_allclose(run(found.variables, images).logits, wanted, atol=1e-5, rtol=1e-5)
    for i in (1, units - 1):
        edited = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in last_layers(name, edited)[i]:
                parameter.zero_()
        without = logits_of(edited, x)
        gates = np.where(np.arange(units) == i, 0.0, 1.0)
        assert np.max(np.abs(without - wanted)) > 1e-3
        got = run(found.variables, images, gates=gates).logits
        np.testing.assert_allclose(got, without, atol=2e-5, rtol=2e-5)


def residual(torch):
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8)

        def forward(self, x):
            return x + torch.relu(self.norm(self.first(x)))

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Linear(4, 8)
            self.blocks = torch.nn.ModuleList([Block() for _ in range(3)])
            self.head = torch.nn.Linear(8, 5)

        def forward(self, x, scale=None):
            h = self.stem(x if scale is None else x * scale)
            for block in self.blocks:
                h = block(h)
            return self.head(h)

    torch.manual_seed(1)
    net = Net()
    net.stem.weight.requires_grad_(False)  # a frozen parameter is a parameter
    net(torch.randn(32, 4))  # running statistics that are not 0 and 1
    return net


@needs_torch
@pytest.mark.slow
def test_units_deletions_gradients_and_the_way_back():
    import torch

    model, x = residual(torch), torch.randn(6, 4)
    fn, variables, example = pytorch.take(model, x)
    found = resjax.discover(fn, variables, example)
    assert [u.name for u in found.units] == ["blocks/0", "blocks/1", "blocks/2"]
    assert {u.shortcut for u in found.units} == {"identity"}
    assert "weight" in variables["params"]["stem"]
    assert set(found.variables["batch_stats"]) == {"blocks.0"}
    np.testing.assert_allclose(fn(variables, example), logits_of(model, x), atol=1e-6)
    labels = np.arange(6) % 5
    result = lesion(found.network, found.variables, example, labels)
    for i in range(3):
        edited = copy.deepcopy(model)
        with torch.no_grad():
            edited.blocks[i].norm.weight.zero_()
            edited.blocks[i].norm.bias.zero_()
        wrong = np.argmax(logits_of(edited, x), -1) != labels
        assert result.error[i] == pytest.approx(wrong.mean())

    def loss(params):
        return (found.network.apply({**found.variables, "params": params}, example).logits ** 2).sum()

    gradients = found.unstack({**found.variables, "params": jax.grad(loss)(found.variables["params"])})
    (model.eval()(x) ** 2).sum().backward()
    ours = gradients["params"]["blocks"]["1"]["first"]["weight"]
    np.testing.assert_allclose(ours, model.blocks[1].first.weight.grad.numpy(), rtol=1e-4, atol=1e-6)
    halved = jax.tree.map(lambda v: v / 2, found.variables)
    model.load_state_dict(pytorch.state_dict(found.unstack(halved)), strict=False)
    np.testing.assert_allclose(logits_of(model, x), fn(found.unstack(halved), example), atol=1e-6)


@needs_torch
@pytest.mark.slow
def test_several_inputs_outputs_with_logits_and_shared_weights():
    import torch

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = residual(torch)
            self.net.blocks[2].first = self.net.blocks[0].first

        def forward(self, x, scale):
            return type("Output", (), {"logits": self.net(x, scale)})()

    model, x, scale = Wrapped().eval(), torch.randn(6, 4), torch.rand(6, 1)
    with torch.no_grad():
        wanted = model(x, scale).logits.numpy()
    for example in ((x, scale), {"x": x, "scale": scale}):
        fn, variables, arrays = pytorch.take(model, example)
        assert set(variables["params"]["net"]["blocks"]) == {"0", "1", "2"}
        assert "first" not in variables["params"]["net"]["blocks"]["2"]
        np.testing.assert_allclose(fn(variables, arrays), wanted, atol=1e-6)
