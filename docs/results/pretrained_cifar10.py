"""Pretrained CIFAR-10 networks on the 10,000 test images: ``python docs/results/pretrained_cifar10.py FILE
WORKDIR [FILE WORKDIR …]``.

WORKDIR is what ``python -m resjax.pretrained FILE --workdir=WORKDIR`` made. Writes pretrained_cifar10.json:
the exact number of errors, versions and machine; and if PyTorch is installed, its predictions for the same
images, and each image on which the two disagree.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from resjax.pretrained import read
from resjax.studies.intervals import wilson
from resjax.studies.run import Run, load_run
from resjax.workdir.provenance import provenance

HERE = Path(__file__).parent


def logits_of(run: Run, images: np.ndarray) -> np.ndarray:
    """Ours, float32 [N, classes]."""
    apply = jax.jit(lambda variables, x: run.network.apply(variables, x).logits)
    return np.concatenate([apply(run.variables, images[i : i + 500]) for i in range(0, 10_000, 500)])


def torch_logits(file: str, blocks: int, images: np.ndarray) -> np.ndarray:
    """PyTorch's own layers with the tensors of ``file``, float32 [N, classes]."""
    sys.path.insert(0, str(HERE.parents[1] / "tests"))
    import torch
    from torch_models import CifarResNet

    model = CifarResNet(blocks, "A", "linear").eval()
    state = {name: torch.from_numpy(tensor.copy()) for name, tensor in read(file).tensors.items()}
    report = model.load_state_dict(state, strict=False)
    assert not report.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in report.missing_keys)
    x = torch.from_numpy(images.copy()).permute(0, 3, 1, 2)
    with torch.no_grad():
        return np.concatenate([model(x[i : i + 500]).numpy() for i in range(0, 10_000, 500)])


def result_of(file: str, workdir: str) -> dict:
    """One network's entry."""
    run = load_run(workdir)
    images, labels = run.examples("test", 10_000)
    ours = logits_of(run, images)
    wrong = int(np.sum(ours.argmax(-1) != labels))
    low, high = wilson(wrong / len(labels), len(labels))
    entry = {
        "imported": run.starts[0]["imported"],
        "parameters": run.num_parameters,
        "images": len(labels),
        "errors": wrong,
        "error_percent": 100 * wrong / len(labels),
        "interval_95_percent": [round(100 * float(low), 2), round(100 * float(high), 2)],
    }
    try:
        import torch
    except ImportError:
        return {**entry, "pytorch": "not installed: not compared"}
    theirs = torch_logits(file, (run.config.model.depth - 2) // 6, images)
    differ = np.flatnonzero(ours.argmax(-1) != theirs.argmax(-1))
    best = np.sort(ours, axis=-1)
    entry["pytorch"] = {
        "version": torch.__version__,
        "errors": int(np.sum(theirs.argmax(-1) != labels)),
        "images_predicted_differently": differ.tolist(),
        "largest_difference_of_a_logit": float(np.max(np.abs(ours - theirs))),
        "smallest_margin_between_two_best_logits": float(np.min(best[:, -1] - best[:, -2])),
    }
    return entry


if __name__ == "__main__":
    pairs = list(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    results = {Path(file).stem: result_of(file, workdir) for file, workdir in pairs}
    made = {k: v for k, v in provenance().items() if k != "command"}
    out = HERE / "pretrained_cifar10.json"
    out.write_text(json.dumps({"made": made, "results": results}, indent=1) + "\n")
    print(out.read_text())
