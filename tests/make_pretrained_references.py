"""Writes tests/data/pretrained.npz, and two files as ``torch.save`` makes them.

Run with torch 2.13.0, torchvision 0.28.0, timm 1.0.31 and transformers 5.23.0: python
tests/make_pretrained_references.py. For each network of ``torch_models.SMALL``: the names and shapes of its
tensors, and ``pretrained_helpers.summary`` of the outputs of its stem and blocks and of its logits.
"""

import json
from pathlib import Path

import numpy as np
import torch
from pretrained_helpers import SAVED, images, summary
from torch_models import SMALL, activations, build

DATA = Path(__file__).parent / "data"


def main():
    """Writes everything."""
    arrays = {}
    for name in SMALL:
        model, looked_at, size = build(name)
        tensors = {k: list(v.shape) for k, v in model.state_dict().items()}
        facts = {"size": size, "tensors": tensors}
        arrays[f"{name}.facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        found = activations(model, looked_at, images(size))
        arrays[f"{name}.summaries"] = np.stack([summary(a) for a in found]).astype(np.float32)
        print(name, len(tensors), len(found))
    DATA.mkdir(exist_ok=True)
    np.savez_compressed(DATA / "pretrained.npz", **arrays)

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
    main()
