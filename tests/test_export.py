"""Exported networks: cut ones in torchvision's names, and programs that JAX alone runs."""

import functools
import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from network_helpers import draw, logits_of
from run_helpers import tiny_run
from script_helpers import environment, run_each

import resjax
from resjax import data, models
from resjax.network.cut import cut_variables
from resjax.pretrained import load, read
from resjax.pretrained.export import export
from resjax.pretrained.layouts.torch_classes import building
from resjax.pretrained.serving import forward_program
from resjax.workdir.atomic import write

SHAPE = (8, 8, 3)
SMALL = {"stage_sizes": (3, 2), "placement": "post", "transition": "projection", "widths": (2, 4)}


def built(shape=SHAPE, name="resnet", **fields):
    network = models.build(models.defaults(name, **fields), image_shape=shape, num_classes=7)
    return network, draw(network, shape)


def images(shape=SHAPE, n=3):
    return np.random.default_rng(0).normal(size=(n, *shape)).astype(np.float32)


def close(a, b):
    np.testing.assert_allclose(a, b, atol=3e-6 * float(np.max(np.abs(b))), rtol=0)


def test_units_of_a_cut_network_are_counted_anew(tmp_path):
    gone = ("stage1/unit2", "stage2/unit2")
    whole, variables = built(**SMALL)
    network, _ = built(**SMALL, cut=gone)
    smaller = cut_variables(whole, variables, gone, SHAPE)
    export(whole, variables, SHAPE, tmp_path / "whole.safetensors")
    export(network, smaller, SHAPE, tmp_path / "cut.safetensors")
    wanted = {}
    for name, tensor in read(tmp_path / "whole.safetensors").tensors.items():
        if not name.startswith(("layer1.1.", "layer2.1.")):
            wanted[name.replace("layer1.2.", "layer1.1.")] = tensor
    found = read(tmp_path / "cut.safetensors").tensors
    assert set(found) == set(wanted) and "layer1.1.conv2.weight" in found
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    again = load(tmp_path / "cut.safetensors", image_size=8)
    assert tuple(again.model.stage_sizes) == (2, 1)
    close(logits_of(again.network, again.variables, images()), logits_of(network, smaller, images()))


TRANSITION = r"shortcut without a branch, and stage2/unit1 begins with that of a unit .*: cut other units"
LEFT = {
    "a transition": ({"cut": ("stage2/unit1",)}, TRANSITION),
    "a padding": ({"cut": ("stage2/unit1",), "transition": "pad_subsample"}, TRANSITION),
    "the last transition": ({"cut": ("stage2/unit1", "stage2/unit2")}, "and the head begins with that of a"),
    "a map": ({"cut": ("stage1/unit2",), "map": "affine"}, "no maps, and stage1/unit2 .* without --map"),
    "a map before the head": ({"cut": ("stage2/unit2",), "map": "linear"}, "no maps, and the head begins"),
    "no stage": ({"cut": ("stage1/unit1", "stage1/unit2", "stage1/unit3")}, "stage 1 has none left: cut one"),
}


@pytest.mark.parametrize("what", slow_but(LEFT, "a transition", "a map", "no stage"))
def test_what_torchvision_lacks_is_refused_and_nothing_is_written(what, tmp_path):
    fields, said = LEFT[what]
    network, variables = built(**SMALL | fields)
    with pytest.raises(ValueError, match=f"{said}.* or write it for JAX, --export=FILE"):
        export(network, variables, SHAPE, tmp_path / "new/x.safetensors")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_gates_of_stochastic_depth_are_in_the_weights(tmp_path):
    network, variables = built(**SMALL, unit_dropout="linear", cut=("stage1/unit2",))
    assert not np.all(network.test_gates == 1)
    before = jax.tree.map(np.array, variables)
    export(network, variables, SHAPE, tmp_path / "x.safetensors")
    again = load(tmp_path / "x.safetensors", image_size=8)
    close(logits_of(again.network, again.variables, images()), logits_of(network, variables, images()))
    assert jax.tree.all(jax.tree.map(np.array_equal, before, variables))


LARGE = {
    "shape": (64, 64, 3), "stage_sizes": (2, 1, 1, 1), "placement": "post", "transition": "projection",
    "widths": (64, 128, 256, 512), "stem": "large", "bottleneck_stride": "3x3",
}  # fmt: skip
CIFAR = {**SMALL, "stage_sizes": (2, 2, 1), "widths": (16, 32, 64)}
RESNET = "import safetensors.torch, torchvision.models.resnet as resnet\nmodel = resnet.ResNet(resnet."
OTHERS = {
    "BasicBlock": (LARGE | {"cut": ("stage1/unit1",)}, f"{RESNET}BasicBlock, layers=[1, 1, 1, 1], num_clas"),
    "Bottleneck": (
        LARGE | {"block": "bottleneck"},
        f"{RESNET}Bottleneck, layers=[2, 1, 1, 1], num_classes=7)",
    ),
    "the stride of the paper": (LARGE | {"block": "bottleneck", "bottleneck_stride": "1x1"}, "no network of"),
    "padding": (LARGE | {"transition": "pad_subsample"}, "no network of this form"),
    "a small stem": (LARGE | {"stem": "small"}, "no network of this form"),
    "grey images": (
        LARGE | {"shape": (64, 64, 1)},
        "bn1, layer1 (2), layer2 (1), layer3 (1), layer4 (1) and",
    ),
    "CIFAR": (
        CIFAR | {"cut": ("stage1/unit1", "stage2/unit2")},
        "import safetensors.torch, pytorch_cifar_models.resnet as resnet"
        "  # github.com/chenyaofo/pytorch-cifar-models\n"
        "model = resnet.CifarResNet(resnet.BasicBlock, layers=[1, 1, 1], num_classes=7)\n"
        "model.eval().load_state_dict(safetensors.torch.load_file('a b.safetensors'))",
    ),
    "CIFAR, narrow": (SMALL, "conv1, bn1, layer1 (3), layer2 (2) and fc"),
    "CIFAR, wide": (CIFAR | {"widen": 2}, "no network of this form"),
    "CIFAR, three layers": (CIFAR | {"block_layers": 3}, "no network of this form"),
    "CIFAR, hidden layers": (CIFAR | {"head_widths": (5,)}, "no network of this form"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_the_lines_that_build_the_network(what):
    fields, said = OTHERS[what]
    shape, name = fields.get("shape", SHAPE), fields.get("name", "resnet")
    own = {k: v for k, v in fields.items() if k not in ("shape", "name")}
    network = models.build(models.defaults(name, **own), image_shape=shape, num_classes=7)
    lines = building(network, shape, "a b.safetensors")
    assert said in lines and ("import" in said) == ("import" in lines)


def test_a_chain_has_no_lines():
    network = models.build(models.defaults("vgg"), image_shape=(32, 32, 3), num_classes=7)
    assert building(network, (32, 32, 3), "x") == ""


class Foreign(nn.Module):
    """A network as others write it."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3))(x)
        for _ in range(3):
            x = x + nn.Conv(4, (3, 3))(nn.relu(x))
        return nn.Dense(5)(x.mean((1, 2)))


def foreign():
    variables = Foreign().init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    found = resjax.discover(Foreign().apply, variables, images())
    return found.network, found.variables


FORMS = {
    "cut, in a loop": lambda: built(**SMALL | {"stage_sizes": (4, 2)}, cut=("stage1/unit2", "stage2/unit1")),
    "maps": lambda: built(**SMALL, cut=("stage1/unit2", "stage2/unit2"), map="linear", map_rank=2),
    "pre-activation, stochastic depth": lambda: built(depth=8, unit_dropout="linear", dtype="bfloat16"),
    "large stem": lambda: built(name="imagenet_resnet", depth=18, shape=(32, 32, 3)),
    "LeNet": lambda: built(name="lenet5", shape=(32, 32, 1)),
    "AlexNet": lambda: built(name="alexnet", shape=(64, 64, 3)),
    "VGG": lambda: built(name="vgg", configuration="A", fc_width=8, shape=(32, 32, 3)),
    "discovered": foreign,
}
SHAPES = {"large stem": (32, 32, 3), "LeNet": (32, 32, 1), "AlexNet": (64, 64, 3), "VGG": (32, 32, 3)}
QUICK = ("maps",)
# What a server runs; JAX's own dependencies are all that it has.
SERVER = """
import json, pathlib, sys
import jax, jax.export, numpy as np

for file, inputs, outputs in json.loads(sys.argv[1]):
    net = jax.export.deserialize(bytearray(pathlib.Path(file).read_bytes()))
    x = np.load(inputs)
    logits = [np.asarray(jax.jit(net.call)(x[:n])) for n in (2, 5)]
    np.savez(outputs, *logits)
assert not {"resjax", "flax", "optax"} & set(sys.modules)
"""


def served(programs, folder):
    """{name: logits of its first 2 and of its 5 inputs}, from a process that imports JAX alone."""
    jobs = []
    for i, (program, x) in enumerate(programs.values()):
        write(folder / f"{i}.jaxexport", bytes(program.serialize()))
        np.save(folder / f"{i}.npy", x)
        jobs.append([str(folder / f"{i}{end}") for end in (".jaxexport", ".npy", ".npz")])
    command = [sys.executable, "-c", SERVER, json.dumps(jobs)]
    subprocess.run(command, cwd=folder, env=environment(), check=True)
    return {
        name: list(np.load(out).values()) for name, (_, _, out) in zip(programs, jobs, strict=True)
    }  # fmt: skip


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_process_that_has_jax_alone_computes_the_logits(every, tmp_path):
    made = {name: make() for name, make in FORMS.items() if every or name in QUICK}
    inputs = {name: images(SHAPES.get(name, SHAPE), 5) for name in made}
    programs = {
        name: (forward_program(network, variables, inputs[name][:2]), inputs[name])
        for name, (network, variables) in made.items()
    }
    constants = data.Statistics(*(np.float32(v).reshape(1, 1, 1, -1) for v in ([9, 99, 50], [20, 30, 40], 0)))
    pixels = np.random.default_rng(1).integers(0, 256, (5, *SHAPE), np.uint8)
    network, variables = made["maps"]
    example = jax.ShapeDtypeStruct((1, *SHAPE), jnp.uint8)
    prepare = functools.partial(data.standardize, constants=constants)
    programs["pixels"] = forward_program(network, variables, example, prepare), pixels
    made["pixels"], inputs["pixels"] = made["maps"], (pixels - constants.mean) / constants.std
    found = served(programs, tmp_path)
    assert set(found) == set(made) and len(made) == (9 if every else 2)
    for name, (network, variables) in made.items():
        wanted = logits_of(network, variables, jnp.asarray(inputs[name], jnp.float32))
        for logits, n in zip(found[name], (2, 5), strict=True):
            assert logits.dtype == np.float32 and logits.shape == (n, wanted.shape[1])
            close(logits, wanted[:n])


def test_the_program_is_for_every_device_and_names_no_files():
    network, variables = built(**SMALL | {"widths": (4, 32)})
    text = jax.jit(lambda x: network.apply(variables, x).logits).lower(images()).as_text()
    assert "lhs_dilate = [2" in text  # the form for CPUs
    limit = jax.config.jax_traceback_in_locations_limit
    program = forward_program(network, variables, SHAPE)
    assert "lhs_dilate = [2" not in program.mlir_module()
    assert program.platforms == ("cpu", "cuda", "tpu")
    (inputs,), (logits,) = program.in_avals, program.out_avals
    assert str(inputs.shape) == "(batch, 8, 8, 3)" and str(logits.shape) == "(batch, 7)"
    stored = bytes(program.serialize())
    assert b".py" not in stored and __file__.encode() not in stored
    assert bytes(forward_program(network, variables, SHAPE).serialize()) == stored
    assert jax.config.jax_traceback_in_locations_limit == limit


@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch):
    run = tiny_run(tmp_path / "my run", placement="post", transition="projection", cut=("stage1/unit2",))
    own = ("resjax.pretrained.export", f"--workdir={run.workdir}")
    commands = [
        (*own, "--out=x.safetensors", "--export=new/x.jaxexport", "--pixels"),
        (*own, "--export=y.jaxexport"),
        own,
        (*own, "--out=z.safetensors", "--pixels"),
    ]
    (tmp_path / "said").mkdir()
    both, one, none, wrong = run_each(commands, tmp_path / "said", cwd=tmp_path)
    assert both.returncode == one.returncode == 0, (both, one)
    assert "layer1 (2), layer2 (2) and fc" in both.stdout and "uint8 [batch, 8, 8, 1]" in both.stdout
    assert "standardized images, float32 [batch, 8, 8, 1]; its output: logits, float32" in one.stdout
    assert none.returncode == wrong.returncode == 2 and not (tmp_path / "z.safetensors").exists()
    assert none.stderr.startswith("error: name the file to write: --out=FILE.safetensors for PyTorch")
    assert "--export=FILE, which is missing" in wrong.stderr
    pixels = run.experiment.dataset.test_images[:5]
    standardized = data.standardize(jnp.asarray(pixels), run.experiment.task.constants)
    wanted = logits_of(run.network, run.variables, standardized)
    monkeypatch.chdir(tmp_path)
    for said, given in ((both, pixels), (one, standardized)):
        scope = {"images": given}
        exec(said.stdout[said.stdout.index("import jax.export") :], scope)  # as pasted
        close(scope["logits"], wanted)
