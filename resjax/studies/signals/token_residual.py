"""What the tokens of a transformer do not share, carried through its units without cancellation.

Tokens [T, D] are written as X_i = x + e^λ·U_i: a common row x, and a residual of logarithmic scale λ. Where
the residual is 10⁻¹⁰⁰⁰ of x, floating-point numbers can't hold X, but they hold x, U and λ. The functions
here compute the x, U and λ behind a part of a unit, as it would map X_i in exact arithmetic:

    LayerNorm   1/s_i − 1/s is written as (s² − s_i²) / (s s_i (s + s_i)), whose numerator is linear in U
    attention   in softmax_j(Q_i·K_j / √d), terms that are the same for all j cancel, and those that are the
                same for all i give one row p of weights for all tokens. The rest is of second order, so the
                attention is 1pᵀ + e^{2λ}·G. With V = 1vᵀ + e^λ·V', the residual of its output is e^{3λ}·G V'
    MLP         g(a + δ) − g(a) = δ ∫₀¹ g'(a + sδ) ds, by Gauss-Legendre quadrature

Everything is float64 in numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.special import ndtr, softmax

EPSILON = 1e-6  # of LayerNorm
_LINEAR = 1e-12  # below it, exp(t) − 1 is t
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
Weights = Mapping[str, Any]
"""Of one unit, {module: {'kernel': …, 'bias': …}} as in the variables of ``resjax.models.transformer``."""


class Tokens(NamedTuple):
    """X_i = common + e^scale · residual_i; the mean of the residuals is 0."""

    common: np.ndarray  # [D]
    residual: np.ndarray  # [T, D]
    scale: float

    @classmethod
    def of(cls, tokens: np.ndarray) -> Self:
        """From tokens [T, D]."""
        tokens = np.asarray(tokens, float)
        return cls(np.zeros(tokens.shape[1]), tokens, 0.0).centred()

    @property
    def whole(self) -> np.ndarray:
        """[T, D], the tokens; the residual may be lost in rounding."""
        return self.common + np.exp(self.scale) * self.residual

    @property
    def relative(self) -> float:
        """log₁₀ of the norm of the residual ÷ that of the tokens, in the norm of Dong et al. 2021."""
        with np.errstate(divide="ignore"):
            log = self.scale + np.log(composite(self.residual)) - np.log(composite(self.whole))
        return float(log / np.log(10))

    def centred(self) -> Self:
        """The same tokens, with residuals of mean 0 and of size 1, unless all are 0."""
        mean = self.residual.mean(0)
        residual = self.residual - mean
        size = float(np.abs(residual).max())
        common = self.common + np.exp(self.scale) * mean
        if not size:
            return type(self)(common, residual, -np.inf)
        return type(self)(common, residual / size, self.scale + float(np.log(size)))

    def plus(self, other: Tokens) -> Self:
        """The sum of both, token by token."""
        top = max(self.scale, other.scale)
        if top == -np.inf:
            return type(self)(self.common + other.common, self.residual, top)
        parts = (np.exp(own.scale - top) * own.residual for own in (self, other))
        return type(self)(self.common + other.common, sum(parts, np.zeros(1)), top).centred()


def composite(v: np.ndarray) -> float:
    """√(‖·‖₁ ‖·‖_∞) of a matrix: the largest sums of a column and of a row of absolute values."""
    v = np.abs(v)
    return float(np.sqrt(v.sum(0).max() * v.sum(1).max()))


def layer_norm(tokens: Tokens, weights: Weights) -> Tokens:
    """LayerNorm of each token."""
    small = np.exp(tokens.scale)
    x, u = (v - v.mean(-1, keepdims=True) for v in (tokens.common, tokens.residual))
    own = np.mean(x * x) + EPSILON
    # (s_i² − s²) / small, of the variances of token i and of the common row.
    change = 2 * np.mean(x * u, -1) + small * np.mean(u * u, -1)
    s, each = np.sqrt(own), np.sqrt(own + small * change)
    residual = u / each[:, None] - x * (change / (s * each * (s + each)))[:, None]
    gain, bias = weights["scale"], weights["bias"]
    return Tokens(x / s * gain + bias, residual * gain, tokens.scale)


def attention(tokens: Tokens, weights: Weights, heads: int) -> Tokens:
    """Multi-head self-attention."""
    count, width = tokens.residual.shape
    small = np.exp(tokens.scale)
    both = np.vstack([tokens.common, tokens.residual]) @ weights["qkv"]["kernel"]
    both[0] += weights["qkv"]["bias"]
    split = both.reshape(1 + count, 3, heads, width // heads)
    (q, dq), (k, dk), (v, dv) = ((split[0, i], split[1:, i]) for i in range(3))
    del k  # the same for all tokens that are looked at
    root = np.sqrt(width // heads)
    p = softmax(small * np.einsum("hd,jhd->hj", q, dk) / root, axis=1)
    second = np.einsum("ihd,jhd->hij", dq, dk) / root
    grown = second if small**2 < _LINEAR else np.expm1(small**2 * second) / small**2
    mean = np.einsum("hj,hij->hi", p, grown)[..., None]
    g = p[:, None] * (grown - mean) / (1 + small**2 * mean)
    common = v + small * np.einsum("hj,jhd->hd", p, dv)
    residual = np.einsum("hij,jhd->ihd", g, dv)
    out = weights["out"]["kernel"]
    common, residual = (
        common.reshape(width) @ out + weights["out"]["bias"],
        residual.reshape(count, width) @ out,
    )
    return Tokens(common, residual, 3 * tokens.scale).centred()


def mlp(tokens: Tokens, weights: Weights) -> Tokens:
    """Two layers with the exact GELU between them."""
    inner, outer = weights["inner"], weights["outer"]
    at = tokens.common @ inner["kernel"] + inner["bias"]
    change = tokens.residual @ inner["kernel"]
    small, slope = np.exp(tokens.scale), np.zeros_like(change)
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        z = at + (1 + node) / 2 * small * change
        slope += weight / 2 * (ndtr(z) + z * np.exp(-z * z / 2) / np.sqrt(2 * np.pi))
    common = (at * ndtr(at)) @ outer["kernel"] + outer["bias"]
    return Tokens(common, (change * slope) @ outer["kernel"], tokens.scale).centred()
