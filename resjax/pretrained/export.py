"""Write a run's network for PyTorch: ``python -m resjax.pretrained.export --workdir=DIR --out=FILE``.

FILE is safetensors. Its tensors have torchvision's names and shapes, so ``model.load_state_dict(
safetensors.torch.load_file(FILE))`` works with a ResNet-50, VGG or AlexNet of torchvision. Networks for small
images fit PyTorch classes whose layers have the same names (the classifier is called ``fc``).
"""

import json
from pathlib import Path

from absl import flags
from safetensors.numpy import save_file

from resjax import command
from resjax.network import Network, Variables
from resjax.pretrained.convert import to_tensors
from resjax.pretrained.layouts import naming
from resjax.workdir.atomic import replacing
from resjax.workdir.paths import writable_file


def export(
    network: Network,
    variables: Variables,
    image_shape: tuple[int, int, int],
    path: str | Path,
    facts: dict[str, str] | None = None,
) -> None:
    """Writes ``variables`` of ``network`` as safetensors, float32; ``facts`` become the file's metadata.

    The folder of ``path`` is created.

    Raises:
      ValueError: torchvision has no network of this kind.
    """
    tensors = to_tensors(variables, network, image_shape, naming.torchvision(network))
    with replacing(Path(path)) as file:
        save_file(tensors, file, metadata={"format": "pt", **(facts or {})})


def _main(argv: list[str]) -> None:
    command.no_arguments(argv)
    directory, out = _WORKDIR.value or "", writable_file(_OUT.value or "", "--out")
    from resjax.studies.run import load_run

    run = load_run(directory, allow_code=_ALLOW_CODE.value or [])
    facts = {"step": str(run.step), "config": json.dumps(run.config.to_dict())}
    export(run.network, run.variables, run.image_shape, out, facts)
    print(f"written: {_OUT.value} ({run.num_parameters:,} parameters, step {run.step:,})")


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
    _OUT = flags.DEFINE_string("out", None, "the file to write, FILE.safetensors")
    _ALLOW_CODE = command.define_allow_code()
    flags.mark_flags_as_required(["workdir", "out"])
    command.run(_main)
