"""Writes tests/data/pretrained.npz, pretrained_vit.npz, pretrained_conv.npz and two files of ``torch.save``.

Run with torch 2.13.0, torchvision 0.28.0, timm 1.0.31 and transformers 5.23.0 (5.24.0 for the second and the
third): python tests/make_pretrained_references.py [pretrained|pretrained_vit|pretrained_conv]. For each
network of ``SMALL`` in ``torch_models``, ``torch_vits`` or ``torch_convs``: the names and shapes of its
tensors, and ``pretrained_helpers.summary`` of the outputs of its stem and blocks and of its logits.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch_convs
import torch_models
import torch_vits
from pretrained_helpers import SAVED, images, summary

DATA = Path(__file__).parent / "data"


def main(wanted):
    """Writes everything, or the networks of one file."""
    if wanted in ("", "pretrained"):
        _write("pretrained", torch_models.SMALL, _build)
        _write_saved()
    if wanted in ("", "pretrained_vit"):
        _write("pretrained_vit", torch_vits.SMALL, torch_vits.build)
    if wanted in ("", "pretrained_conv"):
        _write("pretrained_conv", torch_convs.SMALL, torch_convs.build)


def _build(name):
    model, looked_at, size = torch_models.build(name)
    return model, looked_at, size, model.state_dict(), {}


def _write(file, names, build):
    arrays = {}
    for name in names:
        model, looked_at, size, tensors, fields = build(name)
        facts = {"size": size, "tensors": {k: list(v.shape) for k, v in tensors.items()}}
        if fields:
            facts["fields"] = fields
        arrays[f"{name}.facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        found = torch_models.activations(model, looked_at, images(size))
        arrays[f"{name}.summaries"] = np.stack([summary(a) for a in found]).astype(np.float32)
        print(name, len(tensors), len(found))
    DATA.mkdir(exist_ok=True)
    np.savez_compressed(DATA / f"{file}.npz", **arrays)


def _write_saved():
    tensors = {k: torch.from_numpy(v) for k, v in SAVED.items()}
    state = torch.nn.Module().state_dict()
    for key, tensor in tensors.items():
        state[f"module.{key}"] = tensor
    state["module.view.weight"] = tensors["conv.weight"].permute(1, 0, 3, 2)[1:, ::2]
    state["module.half"] = torch.nn.Parameter(tensors["bn.running_var"].to(torch.bfloat16))
    whole = {"state_dict": state, "epoch": 3, "best": tensors["bn.running_var"].sum()}
    torch.save(whole, DATA / "pretrained_zip.pth")
    torch.save(whole, DATA / "pretrained_legacy.th", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main("".join(sys.argv[1:]))
