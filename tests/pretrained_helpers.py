"""Random weights by name, and what is compared of activations; needs no PyTorch."""

import functools
import json
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file


def draw(name, shape):
    """A float32 tensor that depends on its name: He's variance, scales of both signs, positive variances."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.int64(7)
    uniform = rng.random(shape, np.float32)
    if len(shape) > 1:
        bound = np.float32((6 / np.prod(shape[1:])) ** 0.5)
        return bound * (2 * uniform - 1)
    if name.endswith("running_var"):
        return uniform + np.float32(0.5)
    if name.endswith(("bias", "running_mean")):
        return np.float32(0.4) * uniform - np.float32(0.2)
    return (uniform + np.float32(0.5)) * np.where(rng.random(shape) < 0.2, -1, 1).astype(np.float32)


# What the two files of ``torch.save`` hold; make_pretrained_references adds a view with strides and bfloat16.
SAVED = {
    "conv.weight": draw("conv.weight", (4, 3, 3, 3)),
    "bn.running_var": draw("bn.running_var", (4,)),
}


class References:
    """Committed references: networks by ``names``; of each, what a file of it holds and what it computes."""

    def __init__(self, file):
        self._arrays = np.load(Path(__file__).parent / "data" / file)
        self.names = sorted(key.removesuffix(".facts") for key in self._arrays if key.endswith(".facts"))

    def facts(self, name):
        return json.loads(self._arrays[f"{name}.facts"].tobytes())

    def tensors(self, name):
        """Drawn tensors with the names and shapes that a file of that network has."""
        return {k: np.asarray(draw(k, tuple(shape))) for k, shape in self.facts(name)["tensors"].items()}

    def outline(self, name):
        """As ``tensors``, but each is one number in every place and takes no memory: for tests of names."""
        shapes = self.facts(name)["tensors"].items()
        return {k: np.broadcast_to(np.ravel(draw(k, (1,) * len(shape)))[0], shape) for k, shape in shapes}

    def summaries(self, name):
        return self._arrays[f"{name}.summaries"]


def saved(tensors, name, folder):
    """A file of ``tensors``, in the form of the collection that ``name`` begins with."""
    if name.startswith("google"):
        np.savez(file := folder / "x.npz", **tensors)
    else:
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, file := folder / "x.safetensors")
    return file


def images(size):
    """Two images [2, size, size, 3], or a large one; float32."""
    shape = (1 if size > 128 else 2, size, size, 3)
    return np.random.default_rng(size).normal(size=shape).astype(np.float32)


def summary(activation):
    """Root mean square, and three projections on random signs: float64 [4]. Channels come last."""
    flat = np.asarray(activation, np.float64).reshape(-1)
    signs = np.random.default_rng(flat.size).choice([-1.0, 1.0], (3, flat.size))
    return np.array([np.sqrt(np.mean(flat**2)), *(signs @ flat) / flat.size**0.5])


@functools.partial(jax.jit, static_argnums=0)
def _run(network, variables, x):
    return network.apply(variables, x, tap=lambda parts: (parts.x, parts.y))


def activations(network, variables, x):
    """Of the stem, of every unit, and the logits; numpy, in order."""
    out = _run(network, variables, jnp.asarray(x))
    stem = out.taps[network.stacks[0].name][0][0]
    units = [out.taps[u.stack.name][1][u.position] for u in network.units]
    return [np.asarray(a) for a in (stem, *units, out.logits)]
