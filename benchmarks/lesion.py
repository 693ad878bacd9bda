"""Lesions and path gradients of a trained network against PyTorch, one study after the other.

    python benchmarks/lesion.py FILE IMAGES.npz [--torch-python PATH] [--images 128] [--rounds 3] [--json P]
    python benchmarks/lesion.py --depth=110 IMAGES.npz …

FILE is a CIFAR ResNet of the akamaster collection (see docs/pretrained.md); --depth makes one of any depth
6n + 2 instead, with random weights and the BatchNorm statistics that these images give, for timings do not
depend on weights. IMAGES.npz has ``images`` uint8 [N, 32, 32, 3] and ``labels``. Five studies on the same
images, with the same units deleted or moved and the same paths:

* ``delete_each``: each of n units in turn, and the whole network;
* ``delete_k``: random sets of 2, 5 and 10 units;
* ``reorder``: random swaps, all swaps of neighbours, shuffles, the reversal;
* ``exact_spectrum``: the gradient by path length, all paths;
* ``sampled_spectrum``: the gradient along one random path of each length.

The opponent, ``lesion_torch.py``, runs in a process of its own (any interpreter that has PyTorch; without
--torch-python, this project is timed alone), in its faster memory format. Both use all cores, or the one GPU,
in float32 without TF32; they wait while the other one runs, and take turns; the first round, which compiles,
is reported apart. Answers must agree: losses to 1e-3 of their size, errors to one image; norms of gradients
to 1e-2, for a ReLU whose input rounds to the other side of 0 changes them. ``forward`` is one pass through
the whole network; the floor of deleting each unit is (n + 1)/2 of ours. The results are written after each
study.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from results import save
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save_file

from resjax import config as configs
from resjax import models, pretrained
from resjax.pretrained.convert import to_tensors
from resjax.pretrained.layouts import naming
from resjax.studies.batches import padded_batches
from resjax.studies.lesions.batch_statistics import reestimate
from resjax.studies.lesions.deletions import deletions
from resjax.studies.lesions.lesion import lesion
from resjax.studies.lesions.reorder import reorder
from resjax.studies.lesions.sets import delete_subsets
from resjax.studies.paths.path_exact import path_spectrum
from resjax.studies.paths.path_sampled import path_norms
from resjax.training.cores import share_cores_to_analyse

KS, DRAWS = (2, 5, 10), 8
SWAPS, ORDERS = (1, 5), 4
STUDIES = ("delete_each", "delete_k", "reorder", "exact_spectrum", "sampled_spectrum")
Studies = dict[str, Callable[[], Any]]


def random_network(depth: int, images: np.ndarray, path: Path) -> Path:
    """Writes a network with random weights as akamaster's are.

    Its BatchNorm statistics are of ``images``, uint8, standardized by their own mean and deviation.
    """
    shape = (32, 32, 3)
    fields = {"placement": "post", "transition": "pad_subsample", "pad_centre": True}
    network = models.build(
        models.defaults("resnet", depth=depth, **fields), image_shape=shape, num_classes=10
    )
    variables = network.init(jax.random.key(0), shape)
    x = ((images / 255 - images.mean() / 255) / (images.std() / 255)).astype(np.float32)
    variables = reestimate(network, variables, x[:128])
    save_file(to_tensors(variables, network, shape, naming.residual(network, naming.CIFAR)), path)
    return path


def own_studies(
    net: pretrained.Pretrained, x: np.ndarray, y: np.ndarray, size: int, path_size: int
) -> tuple[Studies, dict[str, np.ndarray]]:
    """{study: a function that returns its answers}, and what the opponent needs to do the same."""
    network, variables = net.network, jax.device_put(net.variables)
    options: dict[str, Any] = {"batch_size": size}
    args = (network, variables, x, y)
    on_paths = (network, variables, x[:path_size], y[:path_size])
    few = (network, variables, x[:1], y[:1])  # what is drawn does not depend on the images
    deleted = deletions(*few, ks=KS, draws=DRAWS).deleted
    order = reorder(*few, swaps=SWAPS, draws=ORDERS).order
    rng, n = np.random.default_rng(0), network.num_units
    paths = np.array([rng.permutation(n) < k for k in range(1, n + 1)])
    forward = jax.jit(lambda v, x: network.apply(v, x).logits)

    def whole() -> list[Any]:
        logits = [forward(variables, batch.images) for batch in padded_batches(x, y, size)]
        found = np.concatenate(jax.device_get(logits))[: len(y)].astype(np.float64)
        top = found - found.max(1, keepdims=True)
        loss = np.log(np.exp(top).sum(1)) - top[np.arange(len(y)), y]
        return [[loss.mean(), np.mean(found.argmax(1) != y)]]

    def each() -> list[Any]:
        r = lesion(*args, **options)
        return [[r.intact_loss, r.intact_error], *np.stack([r.loss, r.error], 1).tolist()]

    def scores(result: Any) -> list[Any]:
        return np.stack([result.loss, result.error], 1).tolist()

    studies: Studies = {
        "forward": whole,
        "delete_each": each,
        "delete_k": lambda: scores(delete_subsets(*args, deleted, **options)),
        "reorder": lambda: scores(reorder(*args, swaps=SWAPS, draws=ORDERS, **options)),
        "exact_spectrum": lambda: path_spectrum(*on_paths, batch_size=path_size).norm[0, 0].tolist(),
        "sampled_spectrum": lambda: path_norms(*on_paths, paths).tolist(),
    }
    same = {"deleted": deleted, "order": order, "paths": paths, "batch_size": np.array(size),
            "images": x, "labels": y, "path_images": x[:path_size], "path_labels": y[:path_size]}  # fmt: skip
    return studies, same


class Torch:
    """The opponent's process."""

    def __init__(self, python: str, work: Path) -> None:
        script = Path(__file__).with_name("lesion_torch.py")
        self._process = subprocess.Popen(
            [python, str(script), str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts = self._read()

    def __call__(self, study: str) -> tuple[float, Any]:
        assert self._process.stdin
        self._process.stdin.write(study + "\n")
        self._process.stdin.flush()
        said = self._read()
        return said["seconds"], said["answers"]

    def _read(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("PyTorch's process ended; its message is above")
        return json.loads(line)

    def close(self) -> None:
        self._process.communicate()


def own(studies: Studies, study: str) -> tuple[float, Any]:
    start = time.perf_counter()
    answers = studies[study]()
    return time.perf_counter() - start, answers


def check(study: str, ours: Any, theirs: Any, number: int) -> float:
    """The largest difference of losses or norms, relative to the largest; an error where answers differ."""
    a, b = np.array(ours), np.array(theirs)
    allowed = 1e-3 if a.ndim == 2 else 1e-2
    if a.shape != b.shape:
        raise RuntimeError(f"{study}: {a.shape} answers against {b.shape}")
    if a.ndim == 2:
        if (wrong := np.abs(a[:, 1] - b[:, 1]).max() * number) > 1.5:
            raise RuntimeError(f"{study}: errors differ by {wrong:.0f} images")
        a, b = a[:, 0], b[:, 0]
    difference = float(np.max(np.abs(a - b) / np.maximum(np.abs(b), 1e-3 * np.abs(b).max())))
    if not difference < allowed:
        raise RuntimeError(f"{study}: answers differ by {difference:.2g}")
    return difference


def compete(
    studies: Studies, torch: Torch | None, rounds: int, number: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each study: first seconds, seconds of each later round, ratios, and how well answers agree."""
    contenders: dict[str, Callable[[str], tuple[float, Any]]] = {"resjax": partial(own, studies)}
    if torch:
        contenders["torch"] = torch
    for study in studies:
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds + 1):
            answers = {}
            for name, contender in contenders.items():
                seconds, answers[name] = contender(study)
                times[name].append(seconds)
        row: dict[str, Any] = {
            "first_seconds": {name: values[0] for name, values in times.items()},
            "seconds": {name: values[1:] for name, values in times.items()},
        }
        if torch:
            row["difference"] = check(study, answers["resjax"], answers["torch"], number)
            ratios = np.divide(times["torch"][1:], times["resjax"][1:])
            row["ratio"] = float(np.median(ratios))
            row["ratio_range"] = [float(ratios.min()), float(ratios.max())]
        yield study, row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", help="trained network")
    parser.add_argument("data", type=Path, help=".npz with images and labels")
    parser.add_argument("--depth", type=int, help="a network with random weights instead of FILE")
    parser.add_argument("--torch-python", help="interpreter that has PyTorch")
    parser.add_argument("--studies", nargs="*", default=STUDIES, choices=STUDIES)
    parser.add_argument("--images", type=int, default=128, help="for lesions")
    parser.add_argument("--path-images", type=int, default=32, help="for path gradients")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write the results")
    args = parser.parse_args()

    if (args.file is None) == (args.depth is None):
        parser.error("name FILE or --depth, one of them")
    if args.depth and (args.depth < 26 or args.depth % 6 != 2):
        parser.error(f"--depth={args.depth}; allowed: 6n + 2, from 26 (up to {max(KS)} units are deleted)")

    # Both contenders share a GPU's memory, and compute in float32.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax.config.update("jax_default_matmul_precision", "highest")
    config = configs.default()
    config.data.image_size, config.train.batch_size = 32, args.batch
    share_cores_to_analyse(config)  # as the command does
    with np.load(args.data) as data:
        images = data["images"][: args.images]
        labels = data["labels"][: args.images].astype(np.int32)
    with tempfile.TemporaryDirectory() as folder:
        file = args.file or random_network(args.depth, images, Path(folder) / "net.safetensors")
        compare(args, file, images, labels, Path(folder))


def compare(
    args: argparse.Namespace, file: Path, images: np.ndarray, labels: np.ndarray, folder: Path
) -> None:
    """All studies of the network in ``file``, as a table and as JSON."""
    net, name = pretrained.load(file), args.file.name if args.file else f"random-{args.depth}"
    if net.layout.name != "akamaster":
        raise SystemExit(f"{name} is of {net.layout.name}; the opponent is built for akamaster's")
    x = ((images / 255 - net.layout.mean) / net.layout.std).astype(np.float32)
    studies, same = own_studies(net, x, labels, args.batch, args.path_images)
    studies = {k: v for k, v in studies.items() if k in ("forward", *args.studies)}
    tensors = {f"tensor/{k}": v for k, v in pretrained.read(file).items()}
    work = folder / "work.npz"
    np.savez(work, **same, **tensors)
    torch = Torch(args.torch_python, work) if args.torch_python else None
    n = net.network.num_units
    networks = {
        "delete_each": n + 1,
        "delete_k": len(same["deleted"]),
        "reorder": len(same["order"]),
    }
    record = {
        "file": name,
        "units": n,
        "images": len(x),
        "path_images": args.path_images,
        "networks": networks,
        "torch": torch.facts if torch else None,
    }
    rows: dict[str, Any] = {}
    medians: dict[str, float] = {}
    passes: dict[str, float] = {}
    for study, row in compete(studies, torch, args.rounds, len(x)):
        rows[study], medians[study] = row, float(np.median(row["seconds"]["resjax"]))
        if study in networks:
            passes[study] = medians[study] / (medians["forward"] * networks[study])
        save(args.json, record | {"studies": rows, "forwards_a_network": passes})
    if torch:
        torch.close()

    table = Table("study", title=f"{name}, {n} units, {len(x)} images, medians")
    for column in (
        "PyTorch, s",
        "resjax, s",
        "ratio (range)",
        "first time, s",
        "answers differ by",
    ):
        table.add_column(column, justify="right")
    for study, row in rows.items():
        theirs = f"{np.median(row['seconds']['torch']):.2f}" if torch else "–"
        ratio = "{:.2f}× ({:.2f} to {:.2f})".format(row["ratio"], *row["ratio_range"]) if torch else "–"
        difference = f"{row['difference']:.1e}" if torch else "–"
        first = f"{row['first_seconds']['resjax']:.1f}"
        table.add_row(study, theirs, f"{medians[study]:.2f}", ratio, first, difference)
    console = Console()
    console.print(table)
    costs = ", ".join(f"{study} {cost:.2f}" for study, cost in passes.items())
    console.print(f"our own forward passes a network: {costs}; the floor of delete_each is 0.50")
    if args.json:
        console.print(f"written: {args.json}")


if __name__ == "__main__":
    main()
