"""The opponent in PyTorch: lesions and path gradients as one writes them around a module, one pass each.

    python benchmarks/lesion_torch.py WORK.npz

Answers requests on stdin, one study a line, with ``{"seconds": …, "answers": …}`` on stdout; ``lesion.py``
starts it and says what is in WORK.npz. It needs PyTorch and numpy and imports nothing of resjax. A deleted
block is replaced by a module that has its shortcut alone, so that the branch is not computed; blocks change
places in their ``nn.Sequential``; a path is a forward pass with detached ways and its backward pass. No
gradient of a parameter is asked for. The memory format is the faster one of contiguous and channels_last. It
runs on the GPU where there is one, in float32 without TF32.
"""

import json
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def now():
    """Seconds on the clock, when all that was asked for is done."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Block(nn.Module):
    """conv BN ReLU conv BN beside a shortcut, ReLU behind the sum; new channels are padded on both sides."""

    def __init__(self, before, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.changes, self.half = stride != 1, (channels - before) // 2

    def branch(self, x):
        return self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))

    def way(self, x):
        if not self.changes:
            return x
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.half, self.half))

    def forward(self, x):
        return torch.relu(self.branch(x) + self.way(x))


class WithoutBranch(nn.Module):
    """What is left of a block whose branch is deleted."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return torch.relu(self.block.way(x))


class OnePath(nn.Module):
    """A block whose gradient goes through one of its two ways only."""

    def __init__(self, block, through_branch):
        super().__init__()
        self.block, self.through_branch = block, through_branch

    def forward(self, x):
        branch, way = self.block.branch, self.block.way
        if self.through_branch:
            return torch.relu(branch(x) + way(x).detach())
        with torch.no_grad():
            f = branch(x)
        return torch.relu(f + way(x))


class ResNet(nn.Module):
    """ResNet 6n + 2 for 32×32 images."""

    def __init__(self, n, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        before = 16
        for stage, channels in enumerate((16, 32, 64), 1):
            blocks = []
            for i in range(n):
                blocks.append(Block(before, channels, 2 if stage > 1 and i == 0 else 1))
                before = channels
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, classes)

    def stem(self, x):
        return torch.relu(self.bn1(self.conv1(x)))

    def head(self, x):
        return self.linear(x.mean((2, 3)))

    def forward(self, x):
        return self.head(self.layer3(self.layer2(self.layer1(self.stem(x)))))


class Studies:
    """Every study on the images of WORK.npz."""

    def __init__(self, work):
        state = {k[7:]: torch.from_numpy(v) for k, v in work.items() if k.startswith("tensor/")}
        n = len({k.split(".")[1] for k in state if k.startswith("layer1.")})
        model = ResNet(n, len(state["linear.bias"]))
        missing = model.load_state_dict(state, strict=False)
        if missing.unexpected_keys or any("tracked" not in k for k in missing.missing_keys):
            raise ValueError(f"tensors do not fit: {missing}")
        self.model = model.eval().requires_grad_(False).to(DEVICE)
        self.labels = torch.from_numpy(work["labels"]).long().to(DEVICE)
        path_images = torch.from_numpy(work["path_images"]).to(DEVICE)
        self.path_images = path_images.permute(0, 3, 1, 2).contiguous()
        self.path_labels = torch.from_numpy(work["path_labels"]).long().to(DEVICE)
        self.size = int(work["batch_size"])
        self.deleted, self.order, self.paths = work["deleted"], work["order"], work["paths"]
        images = torch.from_numpy(work["images"]).to(DEVICE).permute(0, 3, 1, 2)
        self.forms = {}
        for form in (torch.contiguous_format, torch.channels_last):
            self.images = images.contiguous(memory_format=form)
            self.model.to(memory_format=form)
            self.scores()
            start = now()
            for _ in range(2):
                self.scores()
            self.forms[form] = (now() - start) / 2
        best = min(self.forms, key=self.forms.get)
        self.images = images.contiguous(memory_format=best)
        self.path_images = self.path_images.contiguous(memory_format=best)
        self.model.to(memory_format=best)
        self.layers = [self.model.layer1, self.model.layer2, self.model.layer3]
        self.blocks = [(layer, i) for layer in self.layers for i in range(n)]
        self.whole = [layer[i] for layer, i in self.blocks]

    @torch.inference_mode()
    def scores(self):
        """[mean loss, error] of the model as it is."""
        logits = torch.cat([self.model(x) for x in self.images.split(self.size)])
        loss = functional.cross_entropy(logits, self.labels)
        return [loss.item(), (logits.argmax(1) != self.labels).double().mean().item()]

    def arranged(self, blocks):
        """Puts these blocks into the model."""
        for (layer, i), block in zip(self.blocks, blocks, strict=True):
            layer[i] = block

    def measured(self, arrangements):
        found = []
        for blocks in arrangements:
            self.arranged(blocks)
            found.append(self.scores())
        self.arranged(self.whole)
        return found

    def forward(self):
        return [self.scores()]

    def delete_each(self):
        whole, n = self.whole, len(self.whole)
        rows = [[WithoutBranch(b) if i == out else b for i, b in enumerate(whole)] for out in range(n)]
        return self.measured([whole, *rows])

    def delete_k(self):
        return self.measured(
            [WithoutBranch(b) if out else b for b, out in zip(self.whole, row, strict=True)]
            for row in self.deleted
        )

    def reorder(self):
        return self.measured([self.whole[i] for i in row] for row in self.order)

    def exact_spectrum(self):
        """‖c_k‖ for every length k: all cotangents carried back through one block after the other."""
        h, inputs = self.model.stem(self.path_images), []
        for block in self.whole:
            inputs.append(h)
            h = block(h)
        h.requires_grad_()
        loss = functional.cross_entropy(self.model.head(h), self.path_labels)
        by_length = list(torch.autograd.grad(loss, h))
        for block, x in zip(reversed(self.whole), reversed(inputs), strict=True):
            x = x.detach().requires_grad_()
            branch, way = block.branch(x), block.way(x)
            open_ = (branch + way > 0).float()
            new = [None] * (len(by_length) + 1)
            for k, c in enumerate(by_length):
                c = c * open_
                short = torch.autograd.grad(way, x, c, retain_graph=True)[0] if block.changes else c
                long = torch.autograd.grad(branch, x, c, retain_graph=True)[0]
                new[k] = short if new[k] is None else new[k] + short
                new[k + 1] = long
            by_length = new
        image = self.path_images.detach().requires_grad_()
        stem = self.model.stem(image)
        return [torch.autograd.grad(stem, image, c, retain_graph=True)[0].norm().item() for c in by_length]

    def sampled_spectrum(self):
        """Norms of the gradients along named paths."""
        found = []
        for row in self.paths:
            ways = [OnePath(b, bool(through)) for b, through in zip(self.whole, row, strict=True)]
            self.arranged(ways)
            image = self.path_images.detach().requires_grad_()
            loss = functional.cross_entropy(self.model(image), self.path_labels)
            found.append(torch.autograd.grad(loss, image)[0].norm().item())
        self.arranged(self.whole)
        return found


def main():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    studies = Studies(dict(np.load(sys.argv[1])))
    forms = {str(form): seconds for form, seconds in studies.forms.items()}
    facts = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
        "forward_seconds": forms,
    }
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        start = now()
        answers = getattr(studies, line.strip())()
        seconds = now() - start
        print(json.dumps({"seconds": seconds, "answers": answers}), flush=True)


if __name__ == "__main__":
    main()
