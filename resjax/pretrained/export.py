"""Write a run's network, cut or whole, for those who use it elsewhere.

``python -m resjax.pretrained.export --workdir=DIR --out=FILE`` writes FILE.safetensors for PyTorch. Its
tensors have torchvision's names and shapes, so ``model.load_state_dict(safetensors.torch.load_file(FILE))``
works with a ResNet, VGG or AlexNet of torchvision. Vision transformers, ConvNeXt, MLP-Mixer and ConvMixer
have timm's names. The units of a cut network are counted anew, and the command prints the lines of Python
that build a network with as many units. ResNets for small images fit PyTorch classes whose layers have the
same names (the classifier is called ``fc``).

``--export=FILE`` writes the forward pass of any network as StableHLO, weights included, for processes that
have only JAX (``resjax.pretrained.serving``). It takes standardized images, float32 [batch, H, W, C]; with
``--pixels``, it takes pixels, uint8, and standardizes them as in the run.
"""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.export import Exported
from safetensors.numpy import save_file

from resjax import command
from resjax.models.convmixer import ConvMixerUnit
from resjax.models.convnext import ConvNextUnit
from resjax.models.mixer import TokenMixing
from resjax.models.residual import ResidualUnit
from resjax.models.transformer import Mlp, NormedUnit
from resjax.network import Network, Variables
from resjax.network.cut import UnitAfter
from resjax.network.example import described
from resjax.network.unit import Unit
from resjax.pretrained.convert import to_tensors
from resjax.pretrained.layouts.torch_classes import building, completed, names_of
from resjax.pretrained.serving import forward_program
from resjax.workdir.atomic import replacing, write
from resjax.workdir.paths import writable_file


def export(
    network: Network,
    variables: Variables,
    image_shape: tuple[int, int, int],
    path: str | Path,
    facts: dict[str, str] | None = None,
) -> None:
    """Writes ``variables`` of ``network`` as safetensors, float32; ``facts`` become the file's metadata.

    The folder of ``path`` is created. The gates that stochastic depth has outside training are multiplied
    into the layer that ends each branch, because PyTorch's classes have no gates.

    Raises:
      ValueError: torchvision has no network of this kind, nor timm.
    """
    names = names_of(network)
    tensors = to_tensors(_without_gates(network, variables), network, image_shape, names)
    tensors = completed(tensors, network, image_shape)
    with replacing(Path(path)) as file:
        save_file(tensors, file, metadata={"format": "pt", **(facts or {})})


def _without_gates(network: Network, variables: Variables) -> Variables:
    """Variables with which ``network`` computes the same with gates of 1."""
    if network.test_gates is None:
        return variables
    params = jax.tree.map(np.array, variables["params"])
    for unit, gate in zip(network.units, np.asarray(network.test_gates), strict=True):
        for array in _last_layer(unit.stack.unit, params[unit.part]).values():
            array[unit.row] *= gate
    return {**variables, "params": params}


def _last_layer(unit: Unit, params: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of the linear layer that ends the branch of ``unit``."""
    if isinstance(unit, UnitAfter):
        return _last_layer(unit.unit, params["unit"])
    if isinstance(unit, ResidualUnit):
        return params[f"bn{len(unit.layers)}"]
    if isinstance(unit, ConvNextUnit):
        return params["outer"]
    if isinstance(unit, ConvMixerUnit):
        return params["depthwise"]["bn"]
    if isinstance(unit, NormedUnit):
        branch = params["branch"]
        if isinstance(unit.branch, TokenMixing):
            return branch["mlp"]["outer"]
        return branch["outer" if isinstance(unit.branch, Mlp) else "out"]
    raise ValueError(
        "a layer of attention and MLP that is one unit has no last layer into which the gate of stochastic "
        "depth could be multiplied; use model.grain='unit', or write the network for JAX, --export=FILE"
    )


def _main(argv: list[str]) -> None:
    command.no_arguments(argv)
    files = {flag.name: flag.value for flag in (_OUT, _EXPORT) if flag.value is not None}
    if not files:
        raise command.Misuse(
            "name the file to write: --out=FILE.safetensors for PyTorch, --export=FILE.jaxexport for JAX, "
            "or both"
        )
    if _PIXELS.value and "export" not in files:
        raise command.Misuse("--pixels is about the inputs of --export=FILE, which is missing")
    paths = {name: writable_file(file, f"--{name}") for name, file in files.items()}
    from resjax.data import standardize
    from resjax.studies.run import load_run

    run = load_run(_WORKDIR.value or "", allow_code=_ALLOW_CODE.value or [])
    network, variables, shape = run.network, run.variables, run.image_shape
    if "out" in files:
        facts = {"step": str(run.step), "config": json.dumps(run.config.to_dict())}
        export(network, variables, shape, paths["out"], facts)
        print(f"written: {files['out']} ({run.num_parameters:,} parameters, step {run.step:,})")
        if lines := building(network, shape, files["out"]):
            print(lines)
    if "export" in files:
        prepare = functools.partial(standardize, constants=run.experiment.task.constants)
        example = jax.ShapeDtypeStruct((1, *shape), jnp.uint8 if _PIXELS.value else jnp.float32)
        program = forward_program(network, variables, example, prepare if _PIXELS.value else None)
        write(paths["export"], bytes(program.serialize()))
        print(_program_told(files["export"], program, run.step))


def _program_told(file: str, program: Exported, step: int) -> str:
    """What was written, and the lines that load it."""
    (images,), (logits,) = program.in_avals, program.out_avals
    kind = "pixels" if images.dtype == jnp.uint8 else "standardized images"
    return (
        f"written: {file} (StableHLO for {', '.join(program.platforms)}, step {step:,})\n"
        f"its input: {kind}, {described(images)}; its output: logits, {described(logits)}\n"
        "import jax.export, pathlib\n"
        f"net = jax.export.deserialize(bytearray(pathlib.Path({file!r}).read_bytes()))\n"
        "logits = jax.jit(net.call)(images)"
    )


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
    _OUT = flags.DEFINE_string("out", None, "the file to write for PyTorch, FILE.safetensors")
    about = "the file to write for JAX alone, FILE.jaxexport: the forward pass as StableHLO, weights included"
    _EXPORT = flags.DEFINE_string("export", None, about)
    about = "the program of --export takes pixels, uint8, and standardizes them as in the run"
    _PIXELS = flags.DEFINE_bool("pixels", False, about)
    _ALLOW_CODE = command.define_allow_code()
    flags.mark_flag_as_required("workdir")
    command.run(_main)
