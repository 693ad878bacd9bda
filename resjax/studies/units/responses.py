"""Layer responses: how strongly each layer changes the signal (He et al. 2015, §4.2 and Fig. 7).

*Question.* If a residual unit is closer to the identity than to zero, its layers need only weak responses. He
et al. plot the standard deviation of the response of every 3×3 convolution, "after BN and before other
nonlinearity (ReLU/addition)", in the order of the layers and sorted. They find smaller responses in residual
networks than in plain ones, and smaller ones in deeper residual networks.

*Which layers.* Every layer of stem and units with a kernel (convolutions and dense layers of any library), in
the order of the calls; not the classifier, and nothing below a module called ``shortcut``. If a normalization
in the same unit takes the layer's output *itself*, its output is the response; where a ReLU, a sum or nothing
follows, the response is the layer's own output. In a network that was found in a function, layers are all
products with a parameter that are not on a shortcut, named by the path of that parameter; a scale behind one
is part of its response (``resjax.discovery.layers``). A post-activation unit therefore gives what the paper
measured. In a pre-activation unit the next layer's BatchNorm normalizes all convolutions but the last, which
enters the sum as it is. In the plain twin of such a unit the next unit's BatchNorm follows, so the scale of
the last response is arbitrary.

*Decisions.* The deviation is one number over examples, positions and channels, about their common mean, so a
BatchNorm's bias counts. BatchNorm uses running statistics: on the training data, a BatchNorm layer has a
deviation of about √(mean γ² + variance of β) over channels, which measures mostly γ.

*Beside initialization.* The study shows the same network at initialization (``resjax.studies.initial``).
There γ = 1 and β = 0 make every normalized response 1, whatever the depth and with or without shortcuts, up
to what differs between the batches behind the statistics; where γ starts at 0, it is 0. So a normalized
response tells what training did to γ and β.

*Reading it.* Sorted curves compare networks of different depth by their level; the order shows where a stage
begins. Small responses already predict that deletions do little harm. Compare only layers that are normalized
in the same way: an output without normalization has no scale of its own.

*Cost.* One forward pass; one compilation. The study does both twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resjax.models.layers import BatchNorm
from resjax.network import Network, Variables
from resjax.network.cut import beside_branch
from resjax.network.example import one_example
from resjax.network.parts import part_of
from resjax.network.periods import Place, by_unit, scan_places
from resjax.network.refusal import Refusal
from resjax.studies import pointing, style
from resjax.studies.batches import BATCH_SIZE, Progress, per_example
from resjax.studies.costs import Cost, evaluated
from resjax.studies.examples import checked_inputs, num_examples, tracing
from resjax.studies.initial import drawn
from resjax.studies.intervals import student
from resjax.studies.options import Options
from resjax.studies.paths.path_walk import wide
from resjax.studies.result import Result
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.words import around, count, factor, join, numbers

NORMS = (BatchNorm, nn.BatchNorm, nn.LayerNorm, nn.GroupNorm)
# The path of a module, or the names that a network reports, one for each unit of a part.
Layer = str | tuple[str, ...]
NO_KERNEL = "no layer of its stem and units has a kernel"
NORMALIZED = "output of the normalization that takes the layer's output itself; else the layer's"
WITH_SCALE = "the layer's output behind the bias, scale or normalization that takes it itself"


@dataclasses.dataclass(frozen=True)
class Responses(Result):
    """The response of every weight layer in front of the head."""

    layer: tuple[str, ...]  # in the order of the calls, like 'stage2/unit3/conv1'
    normalized: Annotated[np.ndarray, "layer"]  # bool, whether the response is a normalization's
    std: Annotated[np.ndarray, "layer"]  # standard deviation over examples, positions, channels
    residual: bool  # whether some unit has a shortcut
    num_examples: int
    # 95 % interval over images; None in files of earlier versions.
    interval: Annotated[np.ndarray | None, "layer", "end"] = None


def responses(
    network: Network,
    variables: Variables,
    images: Any,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> Responses:
    """The standard deviation of each layer's response, as He et al. 2015, Fig. 7; see ``Inference``.

    Raises:
      ValueError: images of a wrong form.
      Refusal: no layer of stem and units has a kernel.
    """
    images = checked_inputs(network, images)
    with tracing(images):
        layers = layers_of(network, variables, images)
    if not layers:
        raise Refusal(NO_KERNEL)
    run = partial(_record, network, variables)
    moments = per_example(run, images, None, batch_size, progress)
    std, interval = deviation_of(moments.astype(np.float64))
    return Responses(
        layer=tuple(layers),
        normalized=np.array(list(layers.values())),
        std=std,
        interval=interval,
        residual=any(stack.unit.residual for stack in network.stacks),
        num_examples=num_examples(images),
        choices={
            "response": WITH_SCALE if network.opaque else NORMALIZED,
            "deviation": "over examples, positions and channels together",
            "layers": "all with a kernel but the classifier and those on shortcuts",
            "BatchNorm": "running statistics",
            "intervals": "over images",
        },
    )


def deviation_of(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Deviation [layer] and its 95 % interval over images [layer, end], from the mean and the mean square of
    each image [layer, 2, N].

    The variance is m₂ − m₁², so an image with a mean of a and a mean square of b moves it by b − 2 m₁ a: the
    standard error is that of the mean of these (delta method). NaN for a single image.
    """
    a, b = moments.swapaxes(0, 1)
    mean, count = a.mean(-1), a.shape[-1]
    std = np.sqrt(np.maximum(b.mean(-1) - mean**2, 0))
    if count < 2:
        return std, np.full((len(std), 2), np.nan)
    error = np.std(b - 2 * mean[:, None] * a, axis=-1, ddof=1) / np.sqrt(count)
    error = np.where(std > 0, error / np.where(std > 0, 2 * std, 1), 0)
    return std, np.stack(student(std, error, count - 1), -1)


class _Recorder:
    """Keeps (output, response) of each layer of one part of a network while the part runs, in order."""

    def __init__(self, part: Mapping[str, Any]) -> None:
        self.params = part.get("params", {})
        self.seen: dict[Layer, tuple[jax.Array | None, jax.Array]] = {}

    def report(self, layer: Layer, response: jax.Array, normalized: bool) -> None:
        self.seen[layer] = None if normalized else response, response

    def __call__(self, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y, path = call(*args, **kwargs), context.module.path
        if context.method_name != "__call__" or beside_branch(path):
            return y
        own: Any = self.params
        for name in path:
            own = own.get(name, {})
        if "kernel" in own:
            self.seen["/".join(path)] = y, y
        elif isinstance(context.module, NORMS):
            for layer, (output, _) in self.seen.items():
                if args[0] is output:  # the same array: nothing in between
                    self.seen[layer] = output, y
        return y


def _run(
    network: Network, variables: Variables, images: Any, seen: dict[str, dict[Layer, bool]]
) -> jax.Array:
    """Mean and mean square of all responses [layer, 2, B]; fills ``seen``, {part: {layer: normalized?}}."""
    count = num_examples(images)

    def recorded(name: str, part: Mapping[str, Any], run: Callable[[], Any]) -> Any:
        recorder = _Recorder(part)
        opaque = network.opaque
        with network.reporting(recorder.report) if opaque else nn.intercept_methods(recorder):
            h = run()
        seen[name] = {layer: y is not output for layer, (output, y) in recorder.seen.items()}
        moments = [jnp.zeros((0, 2, count))]
        for _, y in recorder.seen.values():
            y = y.astype(wide(y)).reshape(len(y), -1)
            moments.append(jnp.stack([jnp.mean(y, 1), jnp.mean(jnp.square(y), 1)])[None])
        return h, jnp.concatenate(moments)

    variables = network.bound(variables, images)
    stem = part_of(variables, "stem")
    h, of_stem = recorded("stem", stem, lambda: network.run_stem(variables, images)[0])

    def step(place: Place, h: Any, own: Any) -> Any:
        apply: Any = partial(place.stack.unit.apply, own[0], h, own[1], method="parts")
        return recorded(place.stack.part, own[0], lambda: apply().y)

    places = network.places(variables)
    _, found = scan_places(places, step, h, [(place.variables, place.gates) for place in places])
    of_units = by_unit(places, [moments.reshape(-1, 2, count) for moments in found])
    return jnp.concatenate([of_stem, of_units])


@partial(jax.jit, static_argnums=0)
def _record(network: Network, variables: Variables, images: Any) -> jax.Array:
    return _run(network, variables, images, {})


def layers_of(network: Network, variables: Variables, example: Any) -> dict[str, bool]:
    """{layer: whether a normalization follows it} in order, for inputs like ``example``; computes nothing."""
    seen: dict[str, dict[Layer, bool]] = {}
    x = one_example(example)
    jax.eval_shape(lambda v, x: _run(network, v, x, seen), variables, x)
    parts = [("stem", 0, seen["stem"]), *((u.name, u.row, seen[u.part]) for u in network.units)]
    return {_name(part, row, layer): own[layer] for part, row, own in parts for layer in own}


def _name(part: str, row: int, layer: Layer) -> str:
    return f"{part}/{layer}".rstrip("/") if isinstance(layer, str) else layer[row]


# --- what the report shows ---


def plot(results: Mapping[str, Responses]) -> style.Figure:
    """Deviations in the order of the layers, and sorted from the largest to the smallest.

    Markers and solid lines show normalized layers, crosses and dashed lines the others.
    """
    fig, (order, ranked) = style.panels(2, height=0.6, sharey=not style.is_narrow())
    for i, label, r, pale in drawn(results):
        color = style.color(i)
        kinds = ("normalized", f"{style.marker(i)}-", "-"), ("raw", "x", "--")
        for (kind, fmt, line), which in zip(kinds, (r.normalized, ~r.normalized), strict=True):
            if which.any():
                std = np.where(r.std > 0, r.std, np.nan)[which]
                look: dict[str, Any] = {"color": color, **pale}
                name = f"{label}, {kind}".strip(", ")
                order.plot(1 + np.flatnonzero(which), std, fmt, ms=4, label=name, **look)
                ranked.plot(1 + np.arange(len(std)), -np.sort(-std), line, **look)
    for label, r in results.items():
        pointing.along(order, label, r.layer, 1 + np.arange(len(r.layer)), layers=True)
    order.set(xlabel="layer, in the order of the network", ylabel="deviation of the response")
    ranked.set(xlabel="layer, from the largest deviation")
    for ax in (order, ranked):
        ax.set_yscale("log")
        style.integer_ticks(ax)
    style.legend_above(fig, order)
    return fig


# Medians that differ by a smaller factor are called alike.
ALIKE = 1.1


def _comparable(results: Mapping[str, Responses]) -> bool:
    """Whether every network has normalized responses, so that only these are compared."""
    return all(r.normalized.any() for r in results.values())


def _level(r: Responses, same: bool) -> float:
    """The median deviation, with ``same`` of the normalized layers."""
    return float(np.median(r.std[r.normalized] if same else r.std))


def _there(r: Responses, same: bool) -> str:
    """' (at init 1.0)', or '' where it was not measured."""
    return "" if r.initial is None else f" (at init {factor(_level(r.initial, same))})"


def headline(results: Mapping[str, Responses]) -> str:
    """Which networks have the weaker responses."""
    same = _comparable(results)
    what = "normalized layers" if same else "layers"
    levels = {k: _level(r, same) for k, r in results.items()}
    before = {k: _there(r, same) for k, r in results.items()}
    if len(levels) == 1:
        ((label, level),) = levels.items()
        text = f"half of the {what} of {label} respond with a deviation of {factor(level)} or more"
        return text + before[label]
    residual = [levels[k] for k, r in results.items() if r.residual]
    plain = [levels[k] for k, r in results.items() if not r.residual]
    small, large = (pick(levels, key=levels.__getitem__) for pick in (min, max))
    if levels[large] <= ALIKE * levels[small]:
        text = f"the {what} of {join(list(levels))} respond alike (median deviation {factor(levels[small])})"
        unlike = ", unlike in the post-activation networks of He et al. 2015"
        return text + unlike if residual and plain else text
    who, how = small, f"more weakly than those of {large}"
    if residual and plain:
        who, how = "the residual networks", "neither more weakly nor more strongly than the plain"
        if max(residual) < min(plain):
            how = "more weakly than the plain, as in He et al. 2015"
        elif min(residual) > max(plain):
            how = "more strongly than the plain, unlike in He et al. 2015"
    told = join([f"{factor(level)} in {label}{before[label]}" for label, level in levels.items()])
    return f"the {what} of {who} respond {how} (median deviation {told})"


def points(label: str, r: Responses) -> list[str]:
    told = []
    for which, name in ((r.normalized, "normalized"), (~r.normalized, "not normalized")):
        if which.any():
            std = r.std[which]
            low, median, high = map(factor, np.percentile(std, (0, 50, 100)))
            largest = r.layer[np.flatnonzero(which)[std.argmax()]]
            what = count(len(std), f"{name} response")
            text = f"{what} of median {median}{_ends(r, which)}, from {low} to {high} (largest in {largest})"
            if r.initial is not None:
                low, there, high = map(factor, np.percentile(r.initial.std[which], (0, 50, 100)))
                text += f"; at initialization of median {there}, from {low} to {high}"
            told.append(text)
    return [f"{label}: {'; '.join(told)}."]


def _ends(r: Responses, which: np.ndarray) -> str:
    """An interval of the median over layers: the medians of the layers' ends. It is the widest possible, that
    of layers whose errors rise and fall together."""
    return "" if r.interval is None else around(np.median(r.interval[which], 0))


def notes(results: Mapping[str, Responses]) -> list[str]:
    mixed = not _comparable(results) and any(r.normalized.any() for r in results.values())
    text = (
        "Not all of these networks normalize, so all layers are compared; without normalization the size of "
        "a response depends on the scale of the weights."
    )
    return [text] if mixed else []


def table(result: Responses) -> Columns:
    ends = result.interval
    return {
        "layer": result.layer,
        "normalized": ["yes" if normalized else "no" for normalized in result.normalized],
        "deviation": numbers(result.std),
        **({} if ends is None else {"95 %": [" to ".join(numbers(pair)) for pair in ends]}),
    }


def summary(r: Responses) -> dict[str, str]:
    some = bool(r.normalized.any())
    text = factor(_level(r, some)) + _there(r, some)
    return {"response, median" if some else "raw response, median": text}


def unsuited(run: Subject) -> str | None:
    """Why the layers of a run can't be seen, or None."""
    return None if layers_of(run.network, run.variables, run.example) else NO_KERNEL


def measure(bench: Bench) -> Responses:
    size, progress = bench.options.batch_size, bench.progress
    return responses(*bench.evaluation()[:3], batch_size=size, progress=progress)


def cost(run: Subject, options: Options) -> Cost:
    return Cost(forward=evaluated(run, options), compilations=6)


STUDY = Study(
    name="responses",
    title="How strongly each layer responds",
    question=(
        "How much does each layer change? The standard deviation of the output of each convolution or dense "
        "layer is shown, after normalization and before the ReLU or the sum: a residual network whose units "
        "are near the identity needs only small responses. How large are they before training?"
    ),
    code="resjax.analysis.responses(*run.evaluation(10_000)[:3])",
    result=Responses,
    control=True,
    unsuited=unsuited,
    measure=measure,
    cost=cost,
    plot=plot,
    headline=headline,
    points=points,
    notes=notes,
    table=table,
    summary=summary,
)
