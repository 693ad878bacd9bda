"""Networks at initialization: ``python docs/results/at_init.py [--parts=…] [--data=…] [--data_dir=DIR]``.

Parts, each with a file of numbers at_init_<part>.json beside this one, and all but the last with a picture:
  gradients        norms of every kernel's gradient, depth 20, 56, 110, with and without shortcuts, BatchNorm
  branch_variance  Var(branch) ÷ Var(shortcut) in each unit at depth 110, with and without BatchNorm
  shattering       correlation of gradients at different inputs, fully connected, to depth 50, and at 110
  zero_init        deletion of random sets of units from networks whose branches start at 0
Verdicts are computed from the limits of claims.json, which were fixed before anything was measured, and from
95 % intervals over seeds: "undecided" where an interval crosses a limit.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from resjax import command, data, models
from resjax.analysis import plot
from resjax.network import Network
from resjax.studies.intervals import bootstrap
from resjax.studies.judged import MET, MISSED, UNDECIDED, judged
from resjax.studies.options import ClaimOptions
from resjax.studies.result import Result
from resjax.studies.signals import branch_variance as branch_variance_study
from resjax.studies.signals import gradients as gradients_study
from resjax.studies.signals import shattering
from resjax.studies.signals.norms_over_training import evenness
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance

HERE = Path(__file__).parent
SEEDS, BATCH = (0, 1, 2), 128
_ROWS = {
    claim["row"]: claim["limits"] for claim in json.loads((HERE / "claims.json").read_text("utf-8"))["claims"]
}
LIMITS = {
    "slope of log ratio against log place": tuple(_ROWS[21]["slope"]),  # the law 1/l
    "un-normalized: ratio and growth, relative to constancy and to 2": _ROWS[21]["percent"] / 100,
    "plain: rate of decay, relative to ln 2": _ROWS[23]["percent"] / 100,
    "residual with BatchNorm ÷ plain, correlation at depth 24": float(_ROWS[23]["times"]),
}
Examples = tuple[np.ndarray, np.ndarray]
Found = tuple[dict[str, Any], dict[str, Result]]


def network(images: np.ndarray, **fields: Any) -> Network:
    """A pre-activation network of the CIFAR form."""
    c = models.defaults("resnet", **{"placement": "pre", "transition": "pad_subsample", **fields})
    return models.build(c, image_shape=images.shape[1:], num_classes=10)


def spread(values: list[float]) -> dict[str, Any]:
    """Mean, 95 % interval (Student's t) and range over seeds."""
    low, high = bootstrap(np.array(values))
    ends = {"interval": [float(low), float(high)], "range": [min(values), max(values)]}
    return {"mean": float(np.mean(values)), **ends, "n": len(values)}


WORDS = {MET: "shown", MISSED: "contradicted", UNDECIDED: "undecided"}


def verdict(found: dict[str, Any], least: float = -np.inf, most: float = np.inf) -> str:
    """Whether what ``spread`` found lies between two limits."""
    return WORDS[judged(*found["interval"], least=least, most=most)]


def gradients(examples: Examples) -> Found:
    """First ÷ last quarter of the kernels, by depth; the picture is depth 110 at the first seed."""
    images, _ = examples
    kinds = {
        "residual": {"shortcut": "identity", "norm": True},
        "plain": {"shortcut": "none", "norm": True},
        "residual, no BatchNorm": {"shortcut": "identity", "norm": False},
        "plain, no BatchNorm": {"shortcut": "none", "norm": False},
    }
    table: dict[str, Any] = {}
    shown: dict[str, Result] = {}
    for label, kind in kinds.items():
        table[label] = {}
        for depth in (20, 56, 110):
            net = network(images, depth=depth, **kind)
            results = [
                gradients_study.gradients(
                    net, net.init(jax.random.key(s), images.shape[1:]), *examples, batch_size=BATCH
                )
                for s in SEEDS
            ]
            ratios = [float(evenness(r.mean[0])) for r in results]
            table[label][depth] = {"first ÷ last layers": spread(ratios)}
            print(label, depth, table[label][depth], flush=True)
        shown[label] = results[0]
    return {"by kind and depth": table}, shown


def branch_variance(examples: Examples) -> Found:
    """The law 1/l with BatchNorm, and a constant ratio and doubling without it, depth 110.

    Padded and projected: the shortcuts where a stage begins.
    """
    images, _ = examples
    low, high = LIMITS["slope of log ratio against log place"]
    kinds: dict[str, dict[str, Any]] = {
        "BatchNorm, padded": {},
        "BatchNorm, projected": {"transition": "projection"},
        "no BatchNorm": {"norm": False},
        "no BatchNorm, 4× wider": {"norm": False, "widen": 4},
    }
    shown: dict[str, Result] = {}
    numbers: dict[str, Any] = {}
    verdicts: dict[str, Any] = {}
    for label, kind in kinds.items():
        net = network(images, depth=110, **kind)
        batch = BATCH // 4 if "widen" in kind else BATCH
        results = []
        for seed in SEEDS:
            variables = net.init(jax.random.key(seed), images.shape[1:])
            some = images[: 2 * batch]
            results.append(branch_variance_study.branch_variance(net, variables, some, batch_size=batch))
        shown[label] = results[0]
        numbers[label] = {}
        for stage in results[0].stages:
            if "norm" in kind:
                found, verdicts_here = _doubling(results, stage)
                verdicts.update({f"{k}: {label}, {stage}": v for k, v in verdicts_here.items()})
            else:
                found = {"slope": spread([r.slope(0, stage).slope for r in results])}
                verdicts[f"1/l: {label}, {stage}"] = verdict(found["slope"], low, high)
            numbers[label][stage] = found
            print(label, stage, found, flush=True)
    return {"by kind and stage": numbers, "verdicts": verdicts}, shown


def _doubling(results: list[Any], stage: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Numbers of the equal units of a stage, without its first, which has the variance of fewer channels."""
    limit = LIMITS["un-normalized: ratio and growth, relative to constancy and to 2"]
    growths, changes, singles, near, constant = [], [], [], [], []
    for r in results:
        own = r.of_stage(stage) & (r.position > 1)
        ratio = r.ratio[0].mean(0)[own]
        growth = (r.output[0].mean(0) / r.shortcut[0].mean(0))[own]
        growths.append(_geometric(growth))
        # Does the ratio change along the stage? Its second half ÷ its first.
        half = len(ratio) // 2
        changes.append(_geometric(ratio[half:]) / _geometric(ratio[:half]))
        doubles, stays = abs(growth / 2 - 1) <= limit, abs(ratio / np.median(ratio) - 1) <= limit
        near.append(float(doubles.mean()))
        constant.append(float(stays.mean()))
        singles.append(float((doubles & stays).mean()))
    numbers = {
        "growth of a unit, geometric mean over units": spread(growths),
        "ratio, second half ÷ first half of the stage": spread(changes),
        "share of units whose growth is within 20 % of 2": spread(near),
        "share of units whose ratio is within 20 % of the median": spread(constant),
        "share of units with both": spread(singles),
        "units": len(ratio),
    }
    growth, change, _, _, both, _ = numbers.values()
    return numbers, {
        "doubling on average": verdict(growth, 2 * (1 - limit), 2 * (1 + limit)),
        "constant ratio on average": verdict(change, 1 - limit, 1 + limit),
        "doubling and constant ratio in 9 of 10 single units": verdict(both, 0.9),
    }


def _geometric(values: np.ndarray) -> float:
    return float(np.exp(np.mean(np.log(values))))


def shattered(_: Examples) -> Found:
    """The claim as ``python -m resjax.claims --names=shattering`` has it, 20 networks a kind."""
    results = shattering.STUDY.measure(ClaimOptions(), _tell)
    deeper = {
        label: shattering.shattering(**kind, depths=(50, 110), shown_depth=110, progress=_tell)
        for label, kind in shattering.NETWORKS.items()
    }
    rates = {label: r.exponential() for label, r in results.items()}
    limit = LIMITS["plain: rate of decay, relative to ln 2"]
    far = LIMITS["residual with BatchNorm ÷ plain, correlation at depth 24"]
    verdicts, ratios, ends = {}, {}, {}
    residual = results["residual, BatchNorm"]
    for label, r in results.items():
        if not r.residual:
            fit, ends[label] = rates[label][1], _over_networks(_rate, r)
            found = verdict({"interval": ends[label] / np.log(2)}, 1 - limit, 1 + limit)
            straight = "shown" if fit >= shattering.GOOD_FIT else "contradicted"
            claim = f"{label}: log correlation linear in depth, rate within 25 % of ln 2"
            verdicts[claim] = found if straight == "shown" else straight
            times, noise = shattering.ratio(residual, r)
            interval = [times, np.inf] if noise else _over_networks(_times, residual, r).tolist()
            claim = f"residual, BatchNorm: more than 10 times {label} at depth 24"
            verdicts[claim] = verdict({"interval": interval}, far)
            ratios[label] = {"at least": times} if noise else {"times": times, "interval": interval}
    numbers = {
        "rate and r² of the exponential": {k: list(v) for k, v in rates.items()},
        "interval of the rate over networks": {k: v.tolist() for k, v in ends.items()},
        "correlation at depth 24 and its interval": {
            k: shattering.at_shown_depth(r) for k, r in results.items()
        },
        "correlation at depth 110 and its interval": {
            k: shattering.at_shown_depth(r) for k, r in deeper.items()
        },
        "residual, BatchNorm ÷ plain at depth 24 (at least, where the plain one is noise)": ratios,
        "verdicts": verdicts,
    }
    return numbers, results


def _rate(r: shattering.Shattering) -> float:
    return r.exponential()[0]


def _times(r: shattering.Shattering, other: shattering.Shattering) -> float:
    return shattering.ratio(r, other)[0]


def _over_networks(statistic: Callable[..., float], *results: shattering.Shattering) -> np.ndarray:
    """Percentile bootstrap 95 % interval over the networks of each kind."""
    rng, made = np.random.default_rng(0), []
    for _ in range(500):
        drawn = []
        for r in results:
            rows = rng.integers(0, len(r.correlation), len(r.correlation))
            drawn.append(dataclasses.replace(r, correlation=r.correlation[rows]))
        made.append(statistic(*drawn))
    return np.nanquantile(made, (0.025, 0.975))


def _tell(done: int, of: int) -> None:
    print(f"{done}/{of}", flush=True)


def zero_init(examples: Examples) -> Found:
    """Bit for bit: logits before and after random sets of units are deleted, in both modes."""
    images = jnp.asarray(examples[0][:64])
    kinds = {
        "zero γ (Goyal et al. 2017), post-activation": {"placement": "post", "zero_gamma": True},
        "SkipInit (De & Smith 2020), ReZero": {"norm": False, "branch_scale": "skipinit"},
        "Fixup (Zhang et al. 2019)": {
            "norm": False,
            "placement": "post",
            "branch_scale": "fixup",
        },
        "control: branches that do not start at 0": {},
    }
    sets = 20
    table = {}
    for label, kind in kinds.items():
        net = network(examples[0], depth=56, **kind)
        variables = net.init(jax.random.key(0), images.shape[1:])
        run = jax.jit(
            lambda gates, train, net=net, variables=variables: (
                net.apply(variables, images, gates=gates, train=train).logits
            ),
            static_argnums=1,
        )
        rng = np.random.default_rng(0)
        table[label] = {}
        for train in (False, True):
            intact = run(jnp.ones(net.num_units), train)
            equal = [
                bool((run(jnp.asarray(gates, jnp.float32), train) == intact).all())
                for gates in rng.integers(0, 2, (sets, net.num_units))
            ]
            table[label]["train" if train else "inference"] = f"{sum(equal)} of {sets} sets equal"
    whole = {"train": f"{sets} of {sets} sets equal", "inference": f"{sets} of {sets} sets equal"}
    verdicts = {
        k: "shown" if v == whole else "contradicted" for k, v in table.items() if not k.startswith("control")
    }
    return {"depth 56, random halves of the units deleted": table, "verdicts": verdicts}, {}


def short(values: Any) -> Any:
    """The same with five digits a number."""
    return json.loads(json.dumps(values), parse_float=lambda digits: float(f"{float(digits):.5g}"))


PARTS: dict[str, Callable[[Examples], Found]] = {
    "gradients": gradients,
    "branch_variance": branch_variance,
    "shattering": shattered,
    "zero_init": zero_init,
}


def main(argv: list[str]) -> None:
    if len(argv) > 1 or set(_NAMES.value) - set(PARTS):
        raise app.UsageError(f"--parts={','.join(_NAMES.value)}; allowed: {', '.join(PARTS)}")
    c = data.defaults()
    c.name, c.data_dir = _DATA.value, _DIR.value
    arrays = data.load(c)
    assert isinstance(arrays, data.Arrays)
    constants = data.statistics(arrays, "channel")
    first = slice(0, 2 * BATCH)
    images = np.asarray(data.standardize(jnp.asarray(arrays.train_images[first]), constants))
    for name in _NAMES.value:
        numbers, results = PARTS[name]((images, arrays.train_labels[first]))
        record = {
            "made": {k: v for k, v in provenance().items() if k != "command"},
            "command": f"python docs/results/at_init.py --parts={name} --data={c.name}",
            "data": f"the first {2 * BATCH} training images of {c.name}, batches of {BATCH}",
            "seeds": list(SEEDS),
            "limits": LIMITS,
            **numbers,
            "results": short({label: r.to_json() for label, r in results.items()}),
        }
        write(HERE / f"at_init_{name}.json", json.dumps(record) + "\n")
        if results:
            plot(results).savefig(HERE / f"at_init_{name}.png", dpi=150)
        print(json.dumps({name: numbers}, indent=1, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    _NAMES = flags.DEFINE_list("parts", list(PARTS), f"of {', '.join(PARTS)}")
    _DATA = flags.DEFINE_string("data", "cifar10", "a small data set; digits needs no preparation")
    _DIR = flags.DEFINE_string("data_dir", "", "where prepared sets lie")
    command.run(main)
