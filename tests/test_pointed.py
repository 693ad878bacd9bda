"""Where units are in figures, and which numbers belong to them: as matplotlib drew them, as the data say."""

import importlib
import io
from xml.etree import ElementTree

import numpy as np
import pytest
from report_helpers import data_of, deletions

from resjax.report import compare, overlay, pointed
from resjax.report.seeds import Seeds
from resjax.studies import pointing, style
from resjax.studies.catalogue import CLAIMS, STUDIES

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
TAKE_PART = {
    "lesion", "recalibrate", "pairs", "interventions", "looping", "gradients", "backward_signal", "jacobians",
    "branch_variance", "responses", "identity", "influence", "equivariance",
}  # fmt: skip


def saved(figure):
    """The root of the figure's SVG, and (width, height)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    root = ElementTree.fromstring(buffer.getvalue())
    return root, np.array(root.get("viewBox").split()[2:], float)


def markers(root, size):
    """[marker, axis], all markers of the lines of the picture as shares of its width and height, in order."""
    lines = [g for g in root.iter(f"{SVG}g") if g.get("id", "").startswith("line2d_")]
    used = [use for line in lines for use in line.iter(f"{SVG}use") if use.get("y") is not None]
    return np.array([(float(use.get("x")), float(use.get("y"))) for use in used]) / size


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_places_are_where_the_markers_were_drawn(narrow, logarithmic):
    x, y = np.array([1.0, 2, 4, 8, 9]), np.array([3.0, 1, np.nan, 5, 2])
    names = [f"unit{i}" for i in range(5)]
    with style.theme(narrow=narrow):
        fig, (left, right) = style.panels(2)
        for ax in (left, right):
            ax.set(xscale="log" if logarithmic else "linear", xticks=[], yticks=[])
            ax.minorticks_off()
            ax.plot(x, y, "o-")
        left.set_ylabel("taller\nor not")
        pointing.along(left, "deep", names, x)
        pointing.points(right, "deep", names, x, y)
        root, size = saved(fig)
        band, point = pointing.places(fig)
    known = np.isfinite(y)
    drawn = np.split(markers(root, size), 2)
    assert len(drawn[0]) == 4  # all that is not NaN
    edges = np.r_[band.x[:, 0], band.x[-1, 1]]
    assert np.allclose(band.x[1:, 0], band.x[:-1, 1]) and (np.diff(edges) > 0).all()
    at = drawn[0][:, 0]
    assert ((band.x[known, 0] < at) & (at < band.x[known, 1])).all()
    # The border between the last two is in the middle of them, and all lie in the frame.
    assert band.x[-1, 0] == pytest.approx(at[-2:].mean(), abs=1e-4) and band.y is None
    frame_left, top, frame_right, bottom = band.frame
    assert frame_left - 1e-9 <= edges[0] and edges[-1] <= frame_right + 1e-9
    assert (top < drawn[0][:, 1]).all() and (drawn[0][:, 1] < bottom).all()
    middle = np.stack([point.x.mean(1), point.y.mean(1)], 1)
    assert middle[known] == pytest.approx(drawn[1], abs=1e-4) and np.isnan(middle[~known]).all()
    assert (point.panel, band.panel) == (1, 0)


def test_what_is_cut_off_by_the_limits_has_no_place():
    with style.theme():
        fig, ax = style.axes()
        ax.plot([1, 2, 3, 10], [1, 1, 1, 1])
        ax.set_xlim(0.5, 4)
        pointing.along(ax, "deep", "abcd", [1, 2, 3, 10])
        fig.savefig(io.BytesIO(), format="svg")
        (place,) = pointing.places(fig)
    assert np.isfinite(place.x).all(1).tolist() == [True, True, True, False]
    assert place.x[2, 1] == pytest.approx(place.frame[2])


def test_a_map_has_columns_and_rows_where_its_cells_are():
    values = np.array([[1.0, 2], [np.nan, 4]])
    with style.theme():
        fig, ax = style.axes()
        ax.imshow(values, extent=(0.5, 2.5, 2.5, 0.5))
        pointing.cells(ax, "deep", ("a", "b"), np.array([1, 2]), values, "error (%)")
        fig.savefig(io.BytesIO(), format="svg")
        columns, rows = pointing.places(fig)
    left, top, right, bottom = columns.frame
    # Square, so the frame is that of the map after its aspect was applied.
    width, height = fig.get_size_inches()
    assert (right - left) * width == pytest.approx((bottom - top) * height)
    assert columns.x[:, 0].tolist() == pytest.approx([left, (left + right) / 2]) and columns.y is None
    assert rows.y[:, 0].tolist() == pytest.approx([top, (top + bottom) / 2]) and rows.x is None
    found = data_of(pointed.script({"wide": [columns, rows], "narrow": []}, compare.Table(("", "x"), []), {}))
    assert found["said"][0]["values"] == [["1", "2"], ["–", "4"]] and "values" not in found["said"][1]


@pytest.mark.parametrize("name", sorted(TAKE_PART))
def test_every_name_in_a_figure_has_its_numbers_in_the_table(name):
    study, cases = STUDIES[name], importlib.import_module(f"golden_cases.{name}").CASES
    # The first case with results of one run each; its figure need not be drawn to say where units are.
    results = next(r for r in cases.values() if not any(isinstance(own, Seeds) for own in r.values()))
    with style.theme():
        figure = study.plot(results)
    table, labels = compare.table(study, results), compare.labels_of_rows(results)
    said = [one for ax in figure.axes for one in pointing._SAID.get(ax, ())]
    assert {one.label for one in said} == set(results)
    for one in said:
        assert set(one.columns) <= set(table.columns)
        place = pointing.Place(one, 0, (0, 0, 1, 1), None, None)
        found = pointed._said(place, table, labels)
        assert len(found["rows"]) == len(one.names) and (name == "pairs") != all(found["rows"])
        assert all(table.rows[i][0] == one.label for rows in found["rows"] for i in rows)
        for own, rows in zip(one.names, found["rows"], strict=True):
            names = {own, one.beside.get(own)}
            assert {table.rows[i][found["own"]] for i in rows} <= names


def test_no_other_study_has_units_on_an_axis():
    source = {name: importlib.import_module(own.plot.__module__) for name, own in (STUDIES | CLAIMS).items()}
    assert {name for name, module in source.items() if hasattr(module, "pointing")} == TAKE_PART


def test_seeds_are_found_in_the_rows_of_their_group():
    study = STUDIES["lesion"]
    group = Seeds({f"d{i}": deletions([0.1 * (i + 1), 0.5, 0.2]) for i in range(2)})
    results = {"deep": group, "flat": deletions([0.7, 0.8, 0.9])}
    table, labels = compare.table(study, results), compare.labels_of_rows(results)
    with style.theme():
        figure = overlay.draw(study, results)
        figure.savefig(io.BytesIO(), format="svg")
        places = pointing.places(figure)
    deep, flat = data_of(pointed.script({"wide": places, "narrow": places}, table, labels))["said"]
    assert [table.rows[i][:2] for (i,) in deep["rows"]] == [
        ("deep (2 seeds)", f"stage1/unit{k}") for k in (1, 2, 3)
    ]
    assert table.rows[deep["rows"][0][0]][2].startswith("15.0 % (")  # the mean of 10 and 20
    assert [table.rows[i][0] for (i,) in flat["rows"]] == ["flat"] * 3
    # Seeds of other units: the table has the runs one by one.
    other = Seeds({"d0": deletions([0.1, 0.2]), "d1": deletions([0.3, 0.4, 0.5])})
    table, labels = compare.table(study, {"deep": other}), compare.labels_of_rows({"deep": other})
    said = pointing.Said("d1", ("stage1/unit3",), None, None)
    found = pointed._said(pointing.Place(said, 0, (0, 0, 1, 1), None, None), table, labels)
    assert [table.rows[i][:2] for i in found["rows"][0]] == [("d1", "stage1/unit3")]


def test_the_map_of_seeds_gives_the_mean_that_it_shows():
    study, cases = STUDIES["pairs"], importlib.import_module("golden_cases.pairs")
    first, second = cases.result([0.1, 0.2, 0.3], {(1, 2): 4}), cases.result([0.1, 0.2, 0.3], {(1, 2): 8})
    with style.theme():
        figure = overlay.draw(study, {"deep": Seeds({"a": first, "b": second}), "flat": first})
    for ax in figure.axes:
        if ax.images and ax in pointing._SAID:
            values = pointing._SAID[ax][0].values
            shown = np.ma.filled(ax.images[0].get_array(), np.nan)
            assert np.allclose(values, shown, equal_nan=True)
    assert pointing._SAID[figure.axes[0]][0].values[0, 1] == pytest.approx(6)
    assert pointing._SAID[figure.axes[2]][0].values[0, 1] == pytest.approx(4)


def test_a_layer_in_several_parts_and_its_units_are_shown_together():
    study, cases = STUDIES["looping"], importlib.import_module("golden_cases.looping").CASES
    results = next(r for r in cases.values() if any((own.size > 1).any() for own in r.values()))
    with style.theme():
        figure = study.plot(results)
    (said,) = pointing._SAID[figure.axes[0]]
    result = next(iter(results.values()))
    assert said.names == tuple(n for n, size in zip(result.run, result.size, strict=True) if size == 1)
    for layer in np.flatnonzero(result.size > 1):
        own = [name for name, found in said.beside.items() if found == result.run[layer]]
        assert len(own) == result.size[layer]


def test_a_study_that_says_nothing_leaves_no_script():
    assert pointed.script({"wide": [], "narrow": []}, compare.Table((), []), {}) == ""
