"""Facts of a run, of a given network and of a report, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from resjax import config as configs
from resjax import models
from resjax.network.example import described
from resjax.report import found
from resjax.studies.given import GivenNetwork
from resjax.studies.run import Run, as_run
from resjax.studies.subject import Subject
from resjax.studies.words import join
from resjax.training.optimizer import NAMES
from resjax.workdir.workdir import loaded


def facts_of(run: Subject, first: Subject) -> dict[str, str]:
    """Facts of one run, or of a given network; ``first`` is the one with which the others are compared."""
    if isinstance(run, GivenNetwork):
        return _facts_of_given(run)
    return _facts_of_run(as_run(run), as_run(first))


def _facts_of_run(run: Run, first: Run) -> dict[str, str]:
    config, info = run.config, run.experiment.dataset.info
    plan = run.experiment.plan
    height, width, channels = info.image_shape
    facts = {
        "network": _network(config.model.to_dict()),
        "size": f"{run.num_parameters:,} parameters, {run.network.num_units} units",
        "data": f"{info.name}: {info.num_train:,} training and {info.num_test:,} {run.split} examples of "
        f"{height}×{width}×{channels}, {info.num_classes} classes",
        "training": f"step {run.step:,} of {plan.total:,}, batch {config.train.batch_size}, "
        f"{NAMES[config.optimizer.name]}, learning rate "
        f"{config.optimizer.learning_rate}, weight decay {config.optimizer.weight_decay}, "
        f"seed {config.seed}",
    }
    if run is not first:
        differences = configs.differences(first.config, config)
        facts[f"differs from {first.label} in"] = "; ".join(differences) or "nothing that changes results"
    imports = [start["imported"] for start in run.starts if "imported" in start]
    for source in imports:
        facts["pretrained"] = (
            f"{source['file']} ({source['layout']}), sha256 {source['sha256'][:12]}…; its step 1 is the "
            "imported network, its step 0 a random network drawn from the seed"
        )
    for made in (start["cut"] for start in run.starts if "cut" in start):
        facts["cut"] = (
            f"{join(made['units'])} of the network in {made['from']} (step {made['step']:,}), chosen by "
            f"{made['by']}{_maps_of(made)}; its step 1 is the network without them, its step 0 a random "
            "network of this kind drawn from the seed"
        )
    if taught := [start["teacher"] for start in run.starts if "teacher" in start]:
        own, train = taught[-1], config.train
        facts["teacher"] = (
            f"step {own['step']:,} of {own['workdir']}, sha256 {own['sha256'][:12]}…; its soft targets have "
            f"the weight {train.teacher_weight:g} in the training loss, at temperature {train.temperature:g}"
        )
    if run.starts and not loaded(run.starts[-1]):
        last = run.starts[-1]
        facts["trained on"] = f"{last['device_count']} × {last['device']} ({last['machine']})"
        facts["trained at"] = f"{last['date']}, commit {short(last['commit'])}"
        facts["command"] = str(last["command"])
    facts["folder"] = str(run.workdir)
    return facts


def _maps_of(made: dict[str, Any]) -> str:
    """What stands in the place of units that were cut."""
    maps = made["map"]
    if not maps:
        return ""
    rank = f" of rank {maps['rank']}" if maps["kind"] == "linear" else ""
    return f"; {maps['kind']} maps{rank} stand in their place"


def _facts_of_given(run: GivenNetwork) -> dict[str, str]:
    given = run.given

    def name(function: Any, default: str = "none given") -> str:
        return getattr(function, "__qualname__", repr(function)) if function else default

    examples = f"{len(given.labels):,} evaluation examples"
    if run.has_training_examples:
        examples = f"{len(given.train_labels):,} training and {examples}"
    known = "given" if given.initial_variables is not None else "none given"
    return {
        "network": run.source or name(given.fn),
        "size": f"{run.num_parameters:,} parameters, {run.network.num_units} units",
        "data": f"{examples}; one input is {described(run.example)}",
        "function": name(given.fn),
        "function in training": name(given.train_fn),
        "initial variables": known,
        "loss": name(given.loss, "cross-entropy"),
        "metric": name(given.metric, "share of wrong predictions"),
    }


def facts_of_report(made: Mapping[str, Any]) -> dict[str, str]:
    """Facts of the analysis itself, from ``resjax.workdir.provenance.provenance()``."""
    packages = ", ".join(f"{name} {version}" for name, version in made["packages"].items())
    return {
        "made": f"{made['date']}, resjax {made['resjax']}, commit {short(made['commit'])}",
        "on": f"{made['device_count']} × {made['device']} ({made['machine']})",
        "with": f"Python {made['python']}, {packages}",
    }


def short(commit: str | None) -> str:
    """The first eight characters of a commit, and whether files had changed since."""
    if not commit:
        return "unknown"
    name, _, changes = commit.partition("+")
    return name[:8] + (" with changes" if changes else "")


def title_of(labels: Sequence[str]) -> str:
    """The title of the report."""
    return f"{' and '.join(labels) if len(labels) < 3 else ', '.join(labels)}, taken apart"


def _network(model: dict[str, Any]) -> str:
    """The network's name, its depth, and each field that differs from its default."""
    usual = json.loads(configs.to_json(models.defaults(model["name"])))
    own = json.loads(json.dumps(model))
    told = [
        f"{field}={value}"
        for field, value in own.items()
        if field != "name" and (field == "depth" or value != usual.get(field))
    ]
    return f"{model['name']}({', '.join(told)})"


def record_of(run: Subject) -> dict[str, Any]:
    """What the JSON file of a study says of a run or a given network, beside its result."""
    if isinstance(run, GivenNetwork):
        return {"network": run.source, "found": found.to_json(run.found)}
    run = as_run(run)
    return {"step": run.step, "config": run.config.to_dict(), "starts": run.starts}
