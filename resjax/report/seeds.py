"""Seeds as the unit: runs that differ only in their seed form a group, and the report speaks of the group.

One trained network shows what happened once. Only further seeds show how much of it belongs to the recipe,
and how much to this draw of initial weights and batches: intervals over images or over draws of units do not
contain that spread. So a group has one label. Its numbers are means with a 95 % interval over seeds
(Student's t, n − 1 degrees of freedom), and its findings say in how many of the seeds they hold.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resjax import config as configs
from resjax.studies.result import Result
from resjax.studies.run import Run
from resjax.studies.words import join
from resjax.workdir.workdir import short_names

Groups = Mapping[str, Sequence[str]]
"""{label of the group: labels of its runs, two or more}."""


class Seeds(dict[str, Result]):
    """{label of the run: result} of several runs that differ only in their seed."""


Pooled = Mapping[str, Any]
"""{label: the result of one run, or ``Seeds``}, which is how studies are shown."""


def groups_of(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The groups among ``runs``.

    Runs are of one group if their configurations differ in ``seed`` alone (fields that can't affect results
    aside), all of their seeds are different, and they are at the same step. Imported and cut networks are
    never grouped, because their seed does not say how they were trained.
    """
    alike: dict[str, list[Run]] = {}
    for run in runs:
        if run.from_scratch:
            alike.setdefault(_recipe(run), []).append(run)
    groups = [own for own in alike.values() if len({run.config.seed for run in own}) == len(own) > 1]
    grouped = [run for own in groups for run in own]
    single = [run.workdir for run in runs if run not in grouped]
    stems = [_common([run.workdir for run in own]) for own in groups]
    if len({*stems, *single}) < len(stems) + len(single):  # the names of folders do not tell groups apart
        labels = [f"{own[0].label} to {own[-1].label}" for own in groups]
    else:
        labels = short_names([*stems, *single])[: len(stems)]
    return {label: [run.label for run in own] for label, own in zip(labels, groups, strict=True)}


def _recipe(run: Run) -> str:
    """Equal for runs that may form a group."""
    fields = configs.affecting(run.config)
    del fields["seed"]
    return json.dumps([run.step, fields], sort_keys=True)


def _common(paths: Sequence[Path]) -> Path:
    """What the paths of a group have in common: runs/a/seed0 and runs/a/seed1 → runs/a."""
    parts = []
    for own in zip(*(path.parts for path in paths), strict=False):
        start = os.path.commonprefix(own)  # noqa: RUF071 (of characters, on purpose)
        if len(set(own)) > 1:  # without a cut number, the word "seed" and what joins them
            start = re.sub(r"[-_. =]*(\b|(?<=[-_. ]))(seed|s)?[-_. =]*\d*$", "", start, flags=re.IGNORECASE)
        parts += [start] if start else []
    return Path(*parts)


def pool(results: Mapping[str, Result], groups: Groups) -> dict[str, Result | Seeds]:
    """{label of a run: result} with the results of each group as one entry, in the order of the runs.

    A group of which only one run has a result is shown as that run.
    """
    group_of = {run: label for label, runs in groups.items() for run in runs}
    pooled: dict[str, Result | Seeds] = {}
    for label, result in results.items():
        group = group_of.get(label, label)
        own = Seeds({run: results[run] for run in groups.get(group, ()) if run in results})
        if len(own) > 1:
            pooled[group] = own
        else:
            pooled[label] = result
    return pooled


def explained(groups: Groups) -> str:
    """How the report shows its groups, in words; '' without any."""
    if not groups:
        return ""
    members = join([f"{label} ({len(runs)} runs: {', '.join(runs)})" for label, runs in groups.items()])
    return (
        f"Runs that differ only in their seed are shown as one: {members}. Their numbers are means over "
        "seeds with the 95 % interval of the mean (Student's t). Two numbers joined by a dash, such as "
        "16–19, are the smallest and the largest of the seeds. In figures, thin lines are single seeds and "
        "thick lines their means. Where a study shades no band itself, a band is the 95 % interval of the "
        "mean."
    )


def by_run(label: str, result: Any) -> dict[str, Any]:
    """{label of the run: result} of one entry of ``Pooled``."""
    return dict(result) if isinstance(result, Seeds) else {label: result}


def first_of(results: Pooled) -> dict[str, Any]:
    """One result of each entry: the first seed's of each group."""
    return {label: next(iter(by_run(label, result).values())) for label, result in results.items()}


def runs_in(results: Pooled) -> dict[str, Any]:
    """{label of the run: result} of all entries."""
    return {run: one for label, result in results.items() for run, one in by_run(label, result).items()}


def have_seeds(results: Pooled) -> bool:
    """Whether some entry is a group."""
    return any(isinstance(result, Seeds) for result in results.values())
