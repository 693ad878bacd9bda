"""Shattered gradients: shortcuts that keep them just more and just less than ten times as alike;
intervals that reach 0; fits just good enough and just not; rates just within and just beyond 25
% of halving; two depths and three."""

import numpy as np

from resjax.studies.signals.shattering import Shattering

SPREAD = np.array([-0.9, -0.3, 0.1, 1.1]) / 10  # of four networks, of mean 0
LN2 = np.log(2)


def result(correlation, depth=(1, 2, 4, 7), shown=-2, lost=0, residual=True, norm=False, beta=1.0):
    """Four networks around the correlation of each depth; the last ``lost`` depths are noise around it."""
    depth, mean = np.array(depth), np.array(correlation, float)
    rows = mean * (1 + SPREAD[:, None] * (1 + 0.2 * np.arange(len(mean))))
    if lost:
        rows[:, -lost:] += 30 * mean[-lost:] * SPREAD[:, None]
    distance = np.array([0, 0.9, 2.0, 2.2, 4.0])
    return Shattering(
        depth=depth,
        correlation=rows,
        shown_depth=int(depth[shown]),
        distance=distance,
        by_distance=mean[shown] ** (distance / 2) + SPREAD[:, None] * distance,
        residual=residual,
        norm=norm,
        beta=beta,
        choices={},
    )


def law(rate, **more):
    return result(0.9 * np.exp(-rate * np.array([1, 2, 4, 7])), **more)


def three(at_end, depth=(1, 3, 5), **more):
    """Of three depths, the last one shown."""
    return result([0.7, 0.3, at_end], depth, -1, **more)


def bent(much):
    """An exponential with a wave that no law has."""
    wave = much * np.array([0.3, -0.5, 0.4, -0.2])
    return result(np.exp(-0.4 * np.array([1, 2, 4, 7]) + wave))


BETWEEN = law(0.5)
BETWEEN.correlation[:, 2] += 3 * SPREAD  # the depth behind it counts no more
PLAIN, NORMED, KEPT = ({"residual": r, "norm": n} for r, n in ((0, 0), (0, 1), (1, 1)))
CASES = {
    "all kinds": {
        "plain": result([0.81, 0.52, 0.31, 0.16], **PLAIN),
        "plain, BatchNorm": law(0.72, **NORMED),
        "residual": law(0.31),
        "residual, BatchNorm": result(0.8 * np.array([1, 2, 4, 7]) ** -0.4, **KEPT),
        "residual, BatchNorm, β = 0.1": law(0.02, norm=True, beta=0.1),
    },
    "both far": {
        "plain": three(0.0396, **PLAIN),
        "plain, BatchNorm": three(0.004, **NORMED),
        "residual, BatchNorm": three(0.4, **KEPT),
    },
    "one far": {
        "plain": three(0.0404, **PLAIN),
        "plain, BatchNorm": three(0.004, (1, 2, 6), **NORMED),
        "residual, BatchNorm": three(0.4, **KEPT),
    },
    "none far": {"plain": three(0.0404, **PLAIN), "kept": three(0.4, **KEPT)},
    "far, noise": {"plain": three(0.004, lost=1, **PLAIN), "kept": three(0.4, **KEPT)},
    "nothing but noise": {"plain": three(0.02, lost=3, **PLAIN)},
    "not far, noise": {"plain": three(0.02, lost=2, **PLAIN), "kept": three(0.4, **KEPT)},
    "not to compare": {
        "halving, just": law(1.24 * LN2),
        "faster": law(1.26 * LN2),
        "halving, just, from below": law(0.76 * LN2),
        "slower": law(0.74 * LN2),
        "rising": law(-0.03),
        "rising like a power": result(0.2 * np.array([1, 2, 4, 7]) ** 0.3),
        "good fit": bent(0.3),
        "bad fit": bent(0.4),
        "three depths": law(0.5, lost=1),
        "two depths": law(0.5, lost=2),
        "noise in between": BETWEEN,
    },
}
