"""A tiny language model as a network: tokens and a mask in, logits of the next token at every position."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from network_helpers import initial

from resjax.network import Network, Stack, Unit
from resjax.network.losses import over_positions

WORDS, LENGTH, WIDTH, EXAMPLES = 7, 5, 6, 11


class Embedding(nn.Module):
    """{"tokens": int [B, T], "mask": bool [B, T]} → [B, T, width], 0 where the mask is False."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Embed(WORDS, WIDTH)(x["tokens"]) * x["mask"][..., None]


class Mixing(Unit):
    """Adds a function of the mean over all earlier positions."""

    def setup(self):
        self.dense = nn.Dense(WIDTH)

    def split(self, x, train):
        count = 1 + jnp.arange(x.shape[1], dtype=x.dtype)[None, :, None]
        return x, jnp.tanh(self.dense(jnp.cumsum(x, 1) / count))


class Head(nn.Module):
    @nn.compact
    def __call__(self, h, train):
        return nn.Dense(WORDS)(nn.LayerNorm()(h))


NETWORK = Network(Embedding(), (Stack("mixing", Mixing(), 3, 1),), Head())


def missed_top_two(logits, labels):
    """A metric: the share of an example's positions whose next token is not among the two most likely."""
    best = jax.lax.top_k(logits, 2)[1]
    return over_positions(~jnp.any(best == labels[..., None], -1), labels)


def summed_surprise(logits, labels):
    """A loss: −log p summed over the positions that count, [B]."""
    log_p = jax.nn.log_softmax(logits)
    own = jnp.take_along_axis(log_p, jnp.maximum(labels, 0)[..., None], -1)[..., 0]
    return -jnp.sum(jnp.where(labels >= 0, own, 0), -1)


@functools.cache
def variables():
    """Far from their initial values, so that units matter."""
    drawn = initial(NETWORK, texts()[0], seed=1)
    return jax.tree.map(
        lambda v: np.asarray(1.7 * v + 0.05 * np.sin(np.arange(v.size)).reshape(v.shape)), drawn
    )


def texts(seed=0):
    """Inputs, and the next token at every position: −1 behind the text and at its last token."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, WORDS, (EXAMPLES, LENGTH))
    mask = np.arange(LENGTH) < rng.integers(2, LENGTH + 1, EXAMPLES)[:, None]
    following = np.append(tokens[:, 1:], np.zeros((EXAMPLES, 1), int), 1)
    counted = np.append(mask[:, 1:], np.zeros((EXAMPLES, 1), bool), 1)
    return {"tokens": tokens, "mask": mask}, np.where(counted, following, -1)
