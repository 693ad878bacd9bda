"""Describe a network: ``python -m resjax.describe --config=digits [--all] [--json]``.

Prints a table of all layers, and their cost if they shared no parameters or were dense. Below it: how often
the channels double and the sides halve, and the dense layers' share of the parameters. It needs no training,
no data, and no memory for parameters. ``resjax.models.layer_table`` has the formulas. Fields of the
configuration can be changed as in training, e.g. ``--config.model.depth=110``.
"""

import dataclasses
import itertools
import json
import os
from collections.abc import Iterable
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from rich import box
from rich.console import Console
from rich.table import Table

from resjax import command, data, models
from resjax.models.layer_table import Growth, LayerRow, Pair, growth, layer_table, totals

# Characters per line of output to a file or pipe, enough for the table.
PIPE_WIDTH = 140
COLUMNS = ("layer", "kind", "output", "kernel", "stride", "parameters", "unshared", "dense", "sees", "field",
           "MACs")  # fmt: skip


def describe(config: ConfigDict) -> tuple[data.Info, list[LayerRow]]:
    """The data set of ``config``, and the layers of its network on these data.

    Raises:
      ValueError, FileNotFoundError: as ``models.build`` and ``data.info``.
    """
    info = data.info(config.data)
    network = models.build(config.model, image_shape=info.image_shape, num_classes=info.num_classes)
    return info, layer_table(network, info.image_shape)


def as_json(config: ConfigDict, info: data.Info, rows: list[LayerRow]) -> str:
    """The whole table as JSON: model, image_shape, num_classes, layers (one entry each), totals, growth."""
    document = {
        "model": config.model.to_dict(),
        "image_shape": info.image_shape,
        "num_classes": info.num_classes,
        "layers": [{"name": row.name, **dataclasses.asdict(row)} for row in rows],
        "totals": totals(rows)._asdict(),
        "growth": growth(rows, info.image_shape)._asdict(),
    }
    return json.dumps(document, indent=2)


def as_table(title: str, rows: list[LayerRow], *, every: bool = False, tight: bool = False) -> Table:
    """The table for a terminal; consecutive or alternating equal units share one entry unless ``every``.

    Columns are one blank apart if ``tight``, else two.
    """
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_footer=True,
        padding=(0, 0) if tight else (0, 1, 0, 0),
    )
    all_rows = totals(rows)
    feet = {
        "layer": "total",
        "parameters": f"{all_rows.parameters:,}",
        "unshared": _about(all_rows.locally_connected),
        "dense": _about(all_rows.dense),
        "field": _pair(all_rows.receptive_field),
        "MACs": _about(all_rows.multiply_adds),
    }
    for head in COLUMNS:
        justify: Any = "left" if head in ("layer", "kind") else "right"
        table.add_column(head, feet.get(head, ""), justify=justify, no_wrap=True)
    runs = _runs(rows) if not every else [(unit, unit, 1) for unit in _units(rows)]
    for i, (first, last, step) in enumerate(runs):
        stage = first[0].unit.partition("/")[0]
        following = runs[i + 1][0][0].unit.partition("/")[0] if i + 1 < len(runs) else ""
        for j, (a, z) in enumerate(zip(first, last, strict=True)):
            ends = stage != following and j == len(first) - 1
            table.add_row(*_cells(a, z, step), end_section=ends)
    return table


def as_text(g: Growth) -> str:
    """Doublings, halvings, and the share of the dense layers, one line each."""
    lines = [
        f"channels: {_arrows(map(str, g.channels))}; {_times('doubled', g.doublings)} in "
        f"{g.convolutions:,} convolution{'' if g.convolutions == 1 else 's'}",
        f"sides: {_arrows(map(_pair, g.sides))}; {_times('halved', g.halvings)}",
    ]
    share = g.dense / g.parameters if g.parameters else 0.0
    lines.append(f"dense layers: {g.dense:,} of {g.parameters:,} parameters, {100 * share:.1f} %")
    return "\n".join(lines[0 if g.convolutions else 2 :])


def _arrows(values: Iterable[str]) -> str:
    return " → ".join(values)


def _times(done: str, number: int) -> str:
    """'never halved', 'halved once', 'halved twice', 'halved 3 times'."""
    often = {1: "once", 2: "twice"}.get(number, f"{number} times")
    return f"{done} {often}" if number else f"never {done}"


def _cells(first: LayerRow, last: LayerRow, step: int) -> tuple[str, ...]:
    name = first.name
    if first.unit != last.unit:
        stage, _, number = first.unit.rpartition("unit")
        between = "–" if step == 1 else f", {int(number) + step} … "
        name = f"{stage}unit{number}{between}{last.unit.rpartition('unit')[2]}/{first.layer}"
    fields = list(dict.fromkeys((_pair(first.receptive_field), _pair(last.receptive_field))))
    return (
        name,
        first.kind,
        "×".join(map(str, first.output_shape)),
        "" if first.kernel is None else "×".join(map(str, first.kernel)),
        "" if first.stride is None else _pair(first.stride),
        f"{first.parameters:,}" if first.parameters else "",
        _about(first.locally_connected),
        _about(first.dense),
        f"{first.connections:,}",
        "–".join(fields),
        _about(first.multiply_adds),
    )


def _units(rows: list[LayerRow]) -> list[list[LayerRow]]:
    return [list(group) for _, group in itertools.groupby(rows, lambda row: row.unit)]


def _runs(rows: list[LayerRow]) -> list[tuple[list[LayerRow], list[LayerRow], int]]:
    """First and last of equal units of one stage, and their distance: 1 for neighbours, 2 where units of two
    kinds alternate. Equal units differ in name and receptive field only."""

    def form(unit: list[LayerRow]) -> Any:
        stage = unit[0].unit.partition("/")[0]
        return stage, [dataclasses.replace(r, unit="", receptive_field=(0, 0)) for r in unit]

    units = _units(rows)
    forms, runs, start = [form(unit) for unit in units], [], 0
    while start < len(units):
        step, times = 1, _times_repeated(forms[start:], 1)
        if times == 1 and (alternating := _times_repeated(forms[start:], 2)) > 1:
            step, times = 2, alternating
        for i in range(start, start + step):
            runs.append((units[i], units[i + step * (times - 1)], step))
        start += step * times
    return runs


def _times_repeated(forms: list[Any], period: int) -> int:
    """How often the first ``period`` entries stand one behind the other at the start."""
    equal = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(forms, forms[period:], strict=False))
    return 1 + len(list(equal)) // period


def _pair(value: Pair) -> str:
    return str(value[0]) if value[0] == value[1] else f"{value[0]}×{value[1]}"


def _about(number: int) -> str:
    """A number in at most seven characters: 14,450 stays, 14,450,688 is 14.45 M; '' for 0."""
    if number < 100_000:
        return f"{number:,}" if number else ""
    for unit in ("k", "M", "G", "T", "P"):
        number_in_unit = number / 1000 ** (1 + "kMGTP".index(unit))
        if number_in_unit < 999.95 or unit == "P":
            return f"{number_in_unit:.4g} {unit}"
    raise AssertionError("unreachable")


def _main(argv: list[str]) -> None:
    command.no_arguments(argv)
    config = _CONFIG.value
    info, rows = describe(config)
    if _JSON.value:
        print(as_json(config, info, rows))
        return
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    height, width, channels = info.image_shape
    title = (
        f"{config.model.name}, {info.name}: images {height}×{width}×{channels}, {info.num_classes:,} classes"
    )
    console.print(as_table(title, rows, every=_ALL.value, tight=console.width < PIPE_WIDTH))
    console.print(as_text(growth(rows, info.image_shape)), highlight=False)
    console.print(LEGEND)


LEGEND = """\
unshared, dense: parameters if a convolution had different weights at every position; if it were fully
connected. sees: inputs of one output. field: side of its receptive field in pixels. MACs: multiply-adds of
one image, forward. A row of several units has the numbers of each."""


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", help_string=command.CONFIG_HELP)
    _ALL = flags.DEFINE_bool("all", False, "list every unit, equal units too")
    _JSON = flags.DEFINE_bool("json", False, "JSON, with every unit, instead of a table")
    flags.mark_flag_as_required("config")
    command.run(_main)
