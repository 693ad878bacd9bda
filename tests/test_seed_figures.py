"""The figure of a group of seeds: thin lines, their mean, the interval of the mean."""

import dataclasses
import importlib

import numpy as np
import pytest
from report_helpers import curve, deletions
from scipy import stats

from resjax.report import compare, overlay
from resjax.report.seeds import Seeds
from resjax.studies import style
from resjax.studies.catalogue import STUDIES
from resjax.studies.study import Study
from resjax.studies.words import percent


def drawn(study, results):
    with style.theme():
        return overlay.draw(study, results)


def test_a_figure_has_a_thin_line_for_each_seed_and_their_mean():
    seeds = Seeds({f"d{i}": curve(0.1, e) for i, e in enumerate((0.1, 0.2, 0.6))})
    one = curve(0.3, 0.31)
    figure = drawn(STUDIES["curves"], {"deep": seeds, "flat": one})
    single = drawn(STUDIES["curves"], {"deep": curve(0.1, 0.1), "flat": one})
    ax, alone = figure.axes[1], single.axes[1]
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines["deep, test"].get_ydata()) == pytest.approx([90, 30])
    thin = [line for line in ax.lines if line.get_label() == "_seed"]
    assert [line.get_ydata()[-1] for line in thin] == pytest.approx(
        [10, 20, 60]
    )  # training is the same in all
    assert {line.get_color() for line in thin} == {lines["deep, test"].get_color()}
    assert thin[0].get_linewidth() < lines["flat, test"].get_linewidth() < lines["deep, test"].get_linewidth()
    usual = next(line for line in alone.lines if line.get_label() == "flat, test")
    assert lines["flat, test"].get_linewidth() == usual.get_linewidth()
    texts = [[t.get_text() for t in f.legends[0].get_texts()] for f in (figure, single)]
    assert texts[0] == texts[1]  # one entry for each group


def test_the_mean_is_geometric_on_a_logarithmic_axis_and_the_band_is_the_interval():
    study = dataclasses.replace(STUDIES["lesion"], plot=lines_of)
    seeds = Seeds({"d0": deletions([0.1] * 3), "d1": deletions([0.4] * 3)})
    linear, log = drawn(study, {"deep": seeds}).axes
    assert list(linear.lines[0].get_ydata()) == pytest.approx([0.25] * 3)
    assert list(log.lines[0].get_ydata()) == pytest.approx([0.2] * 3)
    (band,) = linear.collections
    low, high = stats.t.interval(0.95, 1, 0.25, 0.15)
    corners = band.get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == pytest.approx((low, high))
    assert linear.get_ylim()[0] > low  # the band doesn't widen the axes


def lines_of(results):
    fig, (left, right) = style.panels(2)
    for i, (label, r) in enumerate(results.items()):
        for ax in (left, right):
            ax.plot(np.arange(len(r.error)), r.error, color=style.color(i), label=label)
    right.set_yscale("log")
    return fig


def test_bars_maps_and_numbers_in_a_figure():
    def plot(results):
        fig, (left, right) = style.panels(2)
        for i, r in enumerate(results.values()):
            left.bar([i], r.error[:1])
            left.annotate(f"error {percent(r.error[0])}", (i, 0))
        first = next(iter(results.values()))
        right.imshow(first.error[None])
        right.set_title("units")
        return fig

    study = dataclasses.replace(STUDIES["lesion"], plot=plot)
    a = Seeds({"a0": deletions([0.1, 0.3]), "a1": deletions([0.2, 0.5])})
    left, right = drawn(study, {"a": a, "b": deletions([0.7, 0.7])}).axes
    assert [bar.get_height() for bar in left.patches] == pytest.approx([0.15, 0.7])
    assert [text.get_text() for text in left.texts] == ["error 10.0–20.0 %", "error 70.0 %"]
    np.testing.assert_allclose(right.images[0].get_array(), [[0.15, 0.4]])


def test_where_panels_depend_on_the_seed_all_runs_are_drawn():
    def plot(results):
        fig, axes = style.panels(sum(len(r.error) for r in results.values()))
        axes[0].set_title(", ".join(results))
        return fig

    study = dataclasses.replace(STUDIES["lesion"], plot=plot)
    seeds = Seeds({"a0": deletions([0.1]), "a1": deletions([0.1, 0.2])})
    assert drawn(study, {"a": seeds, "b": deletions([0.1, 0.2])}).axes[0].get_title() == "a0, a1, b"


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_shows_groups(name):
    """Results made by hand need not be alike, as those of seeds are; nothing may fail."""
    study: Study = STUDIES[name]
    cases = importlib.import_module(f"golden_cases.{name}").CASES.values()
    by_hand = [one for case in cases for one in case.values() if not isinstance(one, Seeds)]
    last = by_hand[-1]
    same = Seeds({"s0": last, "s1": last, "s2": last})
    said, alone = (compare.finding(study, {"net": one}) for one in (same, last))
    if study.over_seeds is None and study.headline is None:
        assert said.headline.replace("net (3 of 3 seeds)", "net").casefold() == alone.headline.casefold()
    for results in ({"a": Seeds({f"a{i}": r for i, r in enumerate(by_hand[:3])}), "b": last}, {"a": same}):
        assert compare.finding(study, results).headline.endswith(".")
        table = compare.table(study, results)
        assert {len(row) for row in table.rows} <= {len(table.columns)}
        assert set(compare.summary(study, results)) <= set(results)
        drawn(study, results)


def test_points_whose_place_depends_on_the_seed_have_a_mean_of_both():
    def plot(results):
        fig, ax = style.axes()
        for r in results.values():
            ax.plot(r.kl, r.error, "x")
            ax.plot(np.arange(len(r.error)), r.error)
        return fig

    study = dataclasses.replace(STUDIES["lesion"], plot=plot)
    seeds = Seeds({"d0": deletions([0.1, 0.3]), "d1": deletions([0.4, 0.5])})
    (ax,) = drawn(study, {"deep": seeds}).axes
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    np.testing.assert_allclose(crosses[0].get_xydata(), [[0.125, 0.25], [0.2, 0.4]])
    assert [line.get_markeredgewidth() > 0 for line in crosses] == [True] * 3
    assert not ax.collections  # no interval where x differs, nor of two points
