"""The path from ImageNet-size JPEG files to a training step, measured on a set that this script makes.

    python benchmarks/imagenet_pipeline.py SOURCE.npz DATA_DIR [--parts decode,memory] [--json PATH]

SOURCE.npz holds real images, ``train_images`` uint8 [N, 32, 32, 3] say, of which ``imagenet_pictures.py``
makes the JPEG files; DATA_DIR gets them as TFDS stores imagenet2012. Parts:
  decode  pictures a second on one core: our crops against the same crops of Pillow without draft mode and of
          simplejpeg (libjpeg-turbo; left out if it is not installed), which take turns on the same files
  memory  twelve training epochs through the worker processes: pictures a second, and the memory of all
          processes (each shared page counted once) while they run
  test    every test picture once, each the same as its own central crop
  train   steps of ResNet-50 on the stream, with standardizing, flips and an evaluation
With --json, memory's curve goes to PATH with the ending .png.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagenet_pictures
import numpy as np
from PIL import Image
from rich.console import Console

from resjax import config as configs
from resjax import data
from resjax.data.decode import FORMATS, center_crop, crop_box, opened, train_crop

SIZE = 224
CONSOLE = Console(highlight=False)


def dataset(data_dir: Path, workers: int, size: int = SIZE) -> data.Stream:
    c = data.defaults()
    c.name, c.data_dir, c.image_size = "imagenet2012", str(data_dir), size
    c.crop, c.workers = "inception", workers
    stream = data.load(c)
    assert isinstance(stream, data.Stream)
    return stream


def decode(data_dir: Path, pictures: int = 100, rounds: int = 9) -> dict[str, Any]:
    """Pictures a second of one core, by what is asked and by decoder."""
    source = dataset(data_dir, 0).train
    files = [source[i][0] for i in range(pictures)]
    contenders = _contenders()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, work in contenders.items():
            start = time.process_time()
            for i, file in enumerate(files):
                work(file, np.random.default_rng(i))
            seconds[name].append(time.process_time() - start)
    rates = {name: [pictures / s for s in all_[1:]] for name, all_ in seconds.items()}
    return {
        "pictures": pictures,
        "mean bytes": float(np.mean([len(f) for f in files])),
        "ImageNet's mean bytes": imagenet_pictures.TARGET_BYTES,
        "pictures a second of CPU time": {
            name: {"median": float(np.median(v)), "range": [min(v), max(v)]} for name, v in rates.items()
        },
        "versions": _versions(),
    }


def _contenders() -> dict[str, Callable[[bytes, np.random.Generator], Any]]:
    def pillow_image(file: bytes) -> Image.Image:
        return Image.open(io.BytesIO(file), formats=FORMATS)

    def pillow_pixels(file: bytes, _: np.random.Generator) -> Any:
        return np.asarray(pillow_image(file))

    def cropped(image: Image.Image, rng: np.random.Generator, size: int) -> Any:
        box = crop_box(image.size, "inception", rng)
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))

    def pillow(size: int) -> Any:
        return lambda file, rng: cropped(pillow_image(file), rng, size)

    def ours(size: int, crop: str) -> Any:
        def work(file: bytes, rng: np.random.Generator) -> Any:
            with opened(file, "a picture") as image:
                if crop == "central":
                    return center_crop(image, size)
                return train_crop(image, size, crop, rng)

        return work

    found = {
        "pixels only: Pillow": pillow_pixels,
        "inception crop of 224: ours": ours(SIZE, "inception"),
        "inception crop of 224: Pillow without draft": pillow(SIZE),
        "inception crop of 128: ours": ours(128, "inception"),
        "inception crop of 128: Pillow without draft": pillow(128),
        "resize crop of 224: ours": ours(SIZE, "resize"),
        "central crop of 224: ours": ours(SIZE, "central"),
    }
    try:
        import simplejpeg
    except ImportError:
        CONSOLE.print("simplejpeg is not installed: left out")
        return found

    def turbo(size: int) -> Any:
        """The quickest way that was found: decode small if that is enough, hand on what the crop needs."""

        def work(file: bytes, rng: np.random.Generator) -> Any:
            height, width, _, _ = simplejpeg.decode_jpeg_header(file)
            box = crop_box((width, height), "inception", rng)
            shrink = min(1.0, size / min(box[2] - box[0], box[3] - box[1]))
            least = {"min_width": width * shrink, "min_height": height * shrink}
            pixels = simplejpeg.decode_jpeg(file, **{k: math.ceil(v) for k, v in least.items()})
            scale = pixels.shape[1] / width
            left, top, right, bottom = (v * scale for v in box)
            x, y = (
                max(0, int(left) - 4),
                max(0, int(top) - 4),
            )  # bilinear filters look beyond the box
            part = Image.fromarray(pixels[y : int(bottom) + 5, x : int(right) + 5])
            inside = (left - x, top - y, min(right - x, part.width), min(bottom - y, part.height))
            return np.asarray(part.resize((size, size), Image.Resampling.BILINEAR, box=inside))

        return work

    return {
        **found,
        "pixels only: simplejpeg": lambda file, _: simplejpeg.decode_jpeg(file),
        "pixels only: simplejpeg, fast and rougher": lambda file, _: simplejpeg.decode_jpeg(
            file, fastdct=True, fastupsample=True
        ),
        "inception crop of 224: simplejpeg": turbo(SIZE),
        "inception crop of 128: simplejpeg": turbo(128),
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("pillow", "simplejpeg"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    from PIL import features

    turbo = features.version_feature("libjpeg_turbo")
    return {**found, "libjpeg-turbo in Pillow": str(turbo)}


def memory(data_dir: Path, workers: int = 2, epochs: int = 12, batch: int = 32) -> dict[str, Any]:
    """Pictures a second through the workers, and the memory of all processes."""
    stream = dataset(data_dir, workers)
    batches = stream.train_batches(0, batch)
    count = epochs * stream.info.num_train // batch
    curve = []
    for i in range(count):
        next(batches)
        if i == 0:
            start = time.perf_counter()
        if i % 2 == 0:
            curve.append((i * batch, _megabytes()))
    seconds = time.perf_counter() - start
    seen, mb = (np.array(v, float) for v in zip(*curve, strict=True))
    own = seen >= seen[-1] / 3  # by then, every buffer has been filled
    slope, offset = np.polyfit(seen[own] / stream.info.num_train, mb[own], 1)
    return {
        "workers": workers,
        "batch": batch,
        "pictures an epoch": stream.info.num_train,
        "pictures": count * batch,
        "pictures a second of wall time": (count - 1) * batch / seconds,
        "megabytes, from a third of the run on": {
            "median": float(np.median(mb[own])),
            "smallest": float(mb[own].min()),
            "largest": float(mb[own].max()),
            "slope, megabytes an epoch": float(slope),
            "deviation from the line": float(
                np.std(mb[own] - slope * seen[own] / stream.info.num_train - offset)
            ),
        },
        "curve": [[int(n), round(m, 1)] for n, m in curve],
    }


def _megabytes() -> float:
    """Memory of this process and its children; shared pages count once in all (PSS of Linux)."""
    me = Path("/proc/self")
    pids = [me, *(Path("/proc") / pid for pid in _children())]
    total = 0
    for pid in pids:
        try:
            rollup = (pid / "smaps_rollup").read_text()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def _children() -> list[str]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += (task / "children").read_text().split()
    return found


def plot(found: dict[str, Any], path: Path) -> None:
    from resjax.studies import style

    with style.theme():
        fig, ax = style.axes()
        seen, mb = zip(*found["curve"], strict=True)
        ax.plot(np.array(seen) / found["pictures an epoch"], mb, color=style.color(0))
        ax.set(xlabel="epochs of training batches", ylabel="memory of all processes (MB)")
        ax.set_ylim(0, 1.15 * max(mb))
        fig.savefig(path, dpi=150, facecolor="white")


def test(data_dir: Path, batch: int = 64) -> dict[str, Any]:
    """Whether the evaluation sees every test picture once, each as its central crop; counts."""
    stream = dataset(data_dir, 2)
    seen = wrong = padding = 0
    for one in stream.test_batches(batch):
        real = one["mask"] == 1
        padding += int((~real).sum())
        for image, label in zip(one["image"][real], one["label"][real], strict=True):
            encoded, own = stream.test[int(stream.test_indices[seen])]
            with opened(encoded, "a picture") as picture:
                wrong += int(label != own or (image != center_crop(picture, SIZE)).any())
            seen += 1
    return {"test pictures": len(stream.test), "seen": seen, "different": wrong, "filling": padding}


def train(data_dir: Path, size: int = 96, batch: int = 16, steps: int = 3) -> dict[str, Any]:
    """Some steps of ResNet-50 from the stream; what the log says."""
    from resjax.train import train_and_evaluate
    from resjax.workdir.writers import read_records

    c = configs.load_file(Path(__file__).parents[1] / "configs/imagenet_resnet50.py")
    c.model.dtype = "float32"
    c.data.data_dir, c.data.image_size, c.data.workers = str(data_dir), size, 2
    c.train.batch_size, c.train.duration = batch, f"{steps} steps"
    c.train.steps_per_dispatch = 1
    c.optimizer.warmup, c.optimizer.learning_rate = "0 steps", 0.1 * batch / 256
    c.eval.batch_size, c.log.every = 50, "1 steps"
    c.eval.every = c.checkpoint.every = f"{steps} steps"
    with tempfile.TemporaryDirectory() as folder:
        state = train_and_evaluate(c, Path(folder) / "run")
        records = read_records(Path(folder) / "run")
    kept = ("step", "loss", "error", "test_loss", "test_error", "images_per_second")
    return {
        "network": f"ResNet-50, {size}×{size}, batch {batch}",
        "steps": int(state.step),
        "records": [{k: r[k] for k in kept if k in r} for r in records],
    }


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "decode": decode,
    "memory": memory,
    "test": test,
    "train": train,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="an .npz file with train_images, uint8 [N, h, w, 3]")
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--pictures", type=int, nargs=2, default=[2400, 400], help="train, test")
    parser.add_argument("--json", type=Path, help="results; parts that it holds and were not run stay")
    args = parser.parse_args()
    names = args.parts.split(",")
    if unknown := set(names) - set(PARTS):
        parser.error(f"--parts={', '.join(unknown)}; allowed: {', '.join(PARTS)}")

    imagenet_pictures.make(args.source, args.data_dir, *args.pictures)
    record = json.loads(args.json.read_text()) if args.json and args.json.is_file() else {}
    for name in names:
        CONSOLE.rule(name)
        found = PARTS[name](args.data_dir)
        CONSOLE.print_json(json.dumps({k: v for k, v in found.items() if k != "curve"}))
        if args.json:
            from resjax.workdir.atomic import write
            from resjax.workdir.provenance import provenance

            made = {k: v for k, v in provenance().items() if k != "command"}
            record[name] = {"made": made, **found}
            write(args.json, json.dumps(record, indent=1) + "\n")
            if name == "memory":
                plot(found, args.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
