"""A folder as a checkpoint: the one file in it, or the shards that an index lists."""

import json
import os
from pathlib import Path

from resjax.data.files import NotRegular, read_bytes
from resjax.pretrained.reading.formats import JOIN, quoted, recognize, shown

INDEX = ".index.json"
# What Hugging Face's libraries look for, in their order. The same network may be there twice.
_USUAL = (
    "model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}",
)  # fmt: skip
_ENDINGS = (".safetensors", ".pth", ".pt", ".th", ".ckpt", ".bin", ".tar", ".pkl", ".model", ".weights")
_DEPTH, _ENTRIES, _SHOWN = 4, 10_000, 12
_LONGEST_INDEX = 1 << 24  # bytes, for some 200,000 tensors


def checkpoint_in(folder: Path) -> Path:
    """The checkpoint in a folder: a file, or an index of several.

    Raises:
      ValueError: it holds several, which are listed, or none, or is of another program.
    """
    _refuse_others(folder)
    for name in _USUAL:
        if (folder / name).is_file():
            return folder / name
    refused = {path: _why_not(path) for path in _candidates(folder)}
    found = [path for path, why in refused.items() if not why]
    if len(found) == 1:
        return found[0]
    if found:
        listed = "\n  ".join(f"{quoted(path)}  ({path.stat().st_size:,} bytes)" for path in found[:_SHOWN])
        more = f"\n  and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ValueError(
            f"{folder} holds {len(found)} checkpoints; give one of them as FILE:\n  {listed}{more}"
        )
    if refused:
        raise ValueError(f"{folder} holds no checkpoint that can be read: {next(iter(refused.values()))}")
    there = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    shown = ", ".join(there[:_SHOWN]) + (f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else "")
    raise ValueError(
        f"{folder} holds no checkpoint of safetensors or torch.save. It holds: {shown or 'nothing'}. "
        "Give the file itself as FILE, whatever its ending"
    )


def shards(index: Path) -> dict[Path, list[str]]:
    """Each shard of an index, and the names of the tensors in it.

    Raises:
      ValueError: the file is no index.
      FileNotFoundError: shards are missing; the message names them.
    """
    if (size := index.stat().st_size) > _LONGEST_INDEX:
        raise ValueError(f"{index} has {size:,} bytes; an index of at most {_LONGEST_INDEX:,} is read")
    try:
        content = read_bytes(index)
        names = dict(json.loads(content)["weight_map"])
        if not names or not all(isinstance(name, str) for name in (*names, *names.values())):
            raise ValueError("its weight_map names no files")
    except NotRegular:
        raise
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if not content.startswith(b"{"):
            recognize(index)  # says what it is instead
        raise ValueError(f"{index} is no index of shards ({type(error).__name__}: {error})") from error
    found: dict[Path, list[str]] = {}
    for tensor, name in names.items():
        if Path(name).name != name or name in ("", "..") or not name.isprintable():
            raise ValueError(f"{index} names the shard {shown(name)}, which is not a file beside it")
        found.setdefault(index.parent / name, []).append(tensor)
    missing = [shown(path.name) for path in found if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"{index} lists {len(found)} shards, and {len(missing)} are missing: {', '.join(missing[:5])}. "
            f"Download them to {index.parent}"
        )
    return found


def _candidates(folder: Path) -> list[Path]:
    """Files with the ending of a checkpoint, in this folder or up to three below, by name."""
    found, seen = [], 0
    for root, folders, files in os.walk(folder):
        depth = len(Path(root).relative_to(folder).parts)
        folders[:] = (
            sorted(name for name in folders if not name.startswith(".")) if depth < _DEPTH - 1 else []
        )
        seen += len(files)
        found += [Path(root) / name for name in sorted(files) if name.lower().endswith(_ENDINGS)]
        if seen > _ENTRIES:
            break
    return found


def _why_not(path: Path) -> str:
    """Why a file can't be read; "" if its first bytes are those of a checkpoint."""
    try:
        recognize(path)
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def _refuse_others(folder: Path) -> None:
    """Says what the folder is, if another program wrote it as a whole."""

    def has(*names: str) -> bool:
        return any((folder / name).exists() for name in names)

    if has("config.json") and has("checkpoints") and has("runs.json"):
        raise ValueError(
            f"{folder} is a workdir of resjax already: analyze it with\n"
            f"  python -m resjax.analyze --workdir={quoted(folder)}"
        )
    if has("saved_model.pb") or any(folder.glob("*.ckpt*.index")):
        what = "holds a TensorFlow model"
    elif has("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt"):
        what = "is a checkpoint of Orbax, which does not show its network"
    else:
        what = ""
    if what:
        raise ValueError(
            f"{folder} {what}: analyze the network as a JAX function with python -m resjax.analyze "
            "--network=MODULE:FUNCTION (docs/discover.md)"
        )
    if has(".metadata") and any(folder.glob("*.distcp")):
        command = f"{JOIN} {quoted(folder)} weights.pth"
        raise ValueError(f"{folder} is a distributed checkpoint of PyTorch: join its parts:\n  {command}")
    if has("zero_to_fp32.py"):
        raise ValueError(
            f"{folder} is a checkpoint of DeepSpeed: join it with\n"
            f"  cd {quoted(folder)} && python zero_to_fp32.py . weights"
        )
    if has("data.pkl") and has("data"):
        raise ValueError(
            f"{folder} is an unpacked PyTorch file: pack it again with\n"
            f"  cd {quoted(folder.absolute().parent)} && zip -0 -r {quoted(folder.absolute().name)}.pth "
            f"{quoted(folder.absolute().name)}"
        )
