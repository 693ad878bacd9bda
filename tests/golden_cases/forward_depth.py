"""The depth of the forward pass: depths at a third of the branches and just beyond, an interval that holds a
third, an error of just one point more, units that were not all dropped, and a network at initialization."""

import dataclasses

import numpy as np

from resjax.studies.paths.forward_depth import ForwardDepth


def result(error, n=9, intact=0.05, images=100_000, measured=None, classes=10):
    """``error`` of nested paths of 0, 1, … branches, then the intact error; the other cuts need more."""
    own = np.array([*error, *[intact] * (n + 1 - len(error))], float)
    later = np.array([*error[:1] * 2, *own[1:-1]], float)
    errors = np.stack([own, np.sqrt(own * later), later])
    errors[:, -1] = intact
    if measured is not None:
        errors[2, : n - measured] = np.nan
    away = np.abs(errors - intact)
    sizes = np.repeat([1, 2, 3, 5, 7], 3)
    random = np.clip(0.9 - 0.1 * sizes + np.tile([0, 0.03, 0.01], 5), intact, 0.9)
    return ForwardDepth(
        unit=tuple(f"stage1/unit{i + 1}" for i in range(n)),
        dropped=np.arange(n if measured is None else measured),
        error=errors,
        lost=np.maximum(errors - intact, 0) + 0.002 * (away > 0),
        agreement=1 - np.minimum(1.1 * away, 0.9),
        kl=4 * away**2,
        kl_error=away / 50,
        cosine=1 - away,
        cosine_error=away / 100,
        random_number=sizes,
        random_error=random,
        random_kl=2 * random,
        num_choice_examples=128,
        intact_error=intact,
        intact_loss=0.3,
        num_examples=images,
        num_classes=classes,
    )


def with_initial(trained, error):
    return dataclasses.replace(trained, initial=result(error, n=trained.most, intact=0.9))


CASES = {
    "shallow and deep, beside initialization": {
        "short": with_initial(result([0.9, 0.4, 0.055]), [0.1, 0.3, 0.5, 0.7, 0.8, 0.895]),
        "long": with_initial(result([0.9, 0.88, 0.8, 0.7, 0.5, 0.3, 0.1]), [0.9, 0.9]),
    },
    "at a third": {
        "third": result([0.9, 0.5, 0.3]),
        "more": result([0.9, 0.5, 0.3, 0.1]),
        "few images": result([0.9, 0.5, 0.08, 0.057], images=200),
    },
    "one point, and just more": {
        "point": result([0.9, 0.06], n=3, images=10**8),
        "more": result([0.9, 0.0602], n=3, images=10**8),
    },
    "units not all dropped, no branch needed, and nothing learned": {
        "partly": result([0.9, 0.4, 0.2], measured=4),
        "none needed": result([0.05]),
        "new": result([0.9, 0.9], intact=0.73),
    },
}
