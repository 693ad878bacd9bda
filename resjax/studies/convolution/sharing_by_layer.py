"""Does sharing help in late layers, as in early ones?

*Question.* "A feature that is useful in one place is useful in others": the argument for sharing weights is
plain for an edge, but it is made for the features of later layers too. Does a network get worse if one of its
layers loses its sharing, and does it matter whether that layer is an early or a late one?

*Method.* One network of three 3×3 layers with ReLU (2×2 max pooling behind the first) and a classifier. In
turn, one layer keeps its windows but has weights of its own at every position (``nn.ConvLocal``); all else is
equal, the number of units too. A last network shares nowhere. Each is trained on the same n examples, in the
settings of ``sample_size``: digits that stay centred, that are moved in the test only, and that are moved in
training too. The result is the test error minus that of the network that shares everywhere.

*Protocol.* Draws and training are those of ``sample_size``, but each network has its own learning rate for
each n and each kind of training, chosen on training images that are held out (``tuned``). Differences are
paired by seed and averaged over n: a Student interval over seeds for each layer and setting.

*Reading it.* Above 0: the sharing of this layer helps. Without its sharing a layer also has more parameters
(H'·W' times as many), which is the point of the argument; ``equal_parameters`` holds them equal. Behind the
pooling, layers 2 and 3 see maps with a quarter of the positions, where there is less to share. Digits have
few high-order features: what holds here need not hold for photos.

*Cost.* 5 networks · 2 kinds of training · sizes · (rates · choice_seeds + seeds) small trainings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resjax.models.local import chain
from resjax.studies import style
from resjax.studies.batches import Progress
from resjax.studies.convolution import equal_parameters
from resjax.studies.convolution.few_examples import Examples, field, num_classes, standardized_digits
from resjax.studies.convolution.tuned import Tuned, by_examples
from resjax.studies.intervals import bootstrap
from resjax.studies.options import ClaimOptions
from resjax.studies.study import Claim
from resjax.studies.words import count, percent

SHARED = "all shared"
UNSHARED = {
    SHARED: (),
    "layer 1 unshared": (0,),
    "layer 2 unshared": (1,),
    "layer 3 unshared": (2,),
    "all unshared": (0, 1, 2),
}
"""{label: layers without sharing, from 0}."""
SIZES = (200, 1000)


def sharing_by_layer(
    train: Examples,
    test: Examples,
    *,
    sizes: Sequence[int] = SIZES,
    channels: tuple[int, int, int] = (8, 16, 16),
    margin: int = 1,
    **how: Any,
) -> dict[str, Tuned]:
    """Trains a network of three layers with all layers shared, with one of them unshared, and with none
    shared, on n examples each.

    Args:
      train, test, sizes, margin, **how: see ``tuned.by_examples``.
      channels: of the three layers.

    Returns:
      {label of ``UNSHARED``: result}.
    """
    shape, classes = field(train, margin), num_classes(train, test)
    networks = {
        label: chain(
            ["locally connected" if i in layers else "convolution" for i in range(3)],
            channels,
            image_shape=shape,
            num_classes=classes,
        )
        for label, layers in UNSHARED.items()
    }
    return by_examples(networks, train, test, sizes=sizes, margin=margin, **how)


def measure(options: ClaimOptions, progress: Progress | None) -> dict[str, Tuned]:
    small: dict[str, Any] = (
        {"sizes": (100,), "seeds": 2, "steps": 40, "rates": (0.003,), "choice_seeds": 1}
        if options.smoke
        else {}
    )
    results = sharing_by_layer(*standardized_digits(), seed=options.seed, progress=progress, **small)
    for result in results.values():
        result.choices["data"] = "scikit-learn's digits, standardized by all training images"
    return results


# --- what the report shows ---


def plot(results: Mapping[str, Tuned]) -> style.Figure:
    """Test error minus that of the first network, with its interval over seeds; a panel for each setting."""
    first, *others = results.values()
    names = list(results)[1:]
    fig, panels = style.panels(len(first.setting), height=0.7, sharey=True)
    for k, (ax, setting) in enumerate(zip(panels, first.setting, strict=True)):
        ax.axhline(0, color="gray", lw=1, ls="--")
        for j, n in enumerate(first.size if others else ()):
            off = 100 * np.array([(r.test_error - first.test_error)[k, j] for r in others])
            mean, ends = off.mean(-1), np.stack(bootstrap(off))
            x = np.arange(len(others)) + 0.16 * (j - (len(first.size) - 1) / 2)
            look: dict[str, Any] = {"color": style.color(j), "fmt": style.marker(j), "capsize": 2}
            ax.errorbar(x, mean, np.abs(ends - mean), label=f"{n:,} examples", **look)
        ax.set_xticks(range(len(names)), [name.replace(" unshared", "") for name in names])
        ax.set(title=setting, xlabel="unshared")
    for ax in panels if style.is_narrow() else panels[:1]:
        ax.set_ylabel("more test error (points)")
    style.legend_above(fig, panels[0], columns=2)
    return fig


def headline(results: Mapping[str, Tuned]) -> str:
    """In which layers the loss of sharing raises the test error, setting by setting."""
    if len(results) < 2:
        return "one network alone says nothing about sharing"
    base = next(iter(results.values()))
    others = list(results.items())[1:]
    sides = [equal_parameters.sides(r.test_error, base.test_error) for _, r in others]
    names = [name for name, _ in others]
    words = [[equal_parameters.LOWER[side[k]] for side in sides] for k in range(len(base.setting))]
    parts = [
        f"for {setting} images {equal_parameters.grouped(names, verdicts)}"
        for setting, verdicts in zip(base.setting, words, strict=True)
    ]
    return f"without sharing, the test error is {'; '.join(parts)}"


def points(label: str, r: Tuned) -> list[str]:
    return equal_parameters.points(label, r)


def notes(results: Mapping[str, Tuned]) -> list[str]:
    """Every network against the first: mean differences over sizes, with their intervals over seeds."""
    (shared, base), *others = results.items()
    over = f"mean over {count(len(base.size), 'size')} and {count(base.gap.shape[-1], 'seed')}"
    return [
        f"Test error of {name} minus {shared} in points, {over}: "
        f"{equal_parameters.differences(r.setting, r.test_error, base.test_error)}."
        for name, r in others
    ]


def summary(r: Tuned) -> dict[str, str]:
    return {
        f"test error, {setting}, mean over sizes": percent(error)
        for setting, error in zip(r.setting, r.test_error.mean((1, 2)), strict=True)
    }


STUDY = Claim(
    name="sharing_by_layer",
    title="Does sharing help in late layers too?",
    question=(
        "A convolution uses one set of weights at all positions. Is that right for edges only, or for the "
        "features of later layers too? One layer of three loses its sharing: it keeps its windows, with "
        "weights of its own at every position. Shown is how much the test error rises, for digits that stay "
        "centred, are moved in the test alone, or are moved in training too."
    ),
    code=(
        "from resjax.studies.convolution.few_examples import standardized_digits\n"
        "resjax.analysis.sharing_by_layer(*standardized_digits())"
    ),
    labels="network",
    result=Tuned,
    measure=measure,
    plot=plot,
    headline=headline,
    points=points,
    notes=notes,
    table=equal_parameters.table,
    summary=summary,
)
