"""The report: findings follow the numbers, and the page needs nothing but itself."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from report_helpers import LABELS, SHOWN, data_of, deletions, report_of_two

from resjax.report import compare
from resjax.report.write import read, write
from resjax.studies import words
from resjax.studies.catalogue import STUDIES
from resjax.studies.curves import curves
from resjax.studies.lesions.lesion import may_go


def test_deletion_text_has_the_numbers_and_what_was_left_out():
    study = STUDIES["lesion"]
    left_out = {"deep": deletions([0.4, 0.2, 0.012], left_out=["stage1/unit2"])}
    text = " ".join(compare.finding(study, left_out).points)
    for number in ("1.0 %", "40.0 %", "stage1/unit1", "20.6 %", "90.0 %"):
        assert number in text
    assert "Left out (×): stage1/unit2 (shapes differ)" in text


def test_rounding_does_not_decide_what_may_go():
    assert 0.13 - 0.12 > 0.01
    assert may_go(deletions([0.13, 0.131, 0.2], intact=0.12)) == 1


def test_records_become_curves():
    records = [
        {"step": 0, "epoch": 0.0, "test_loss": 2.3, "test_error": 0.9},
        {"step": 5, "epoch": 1.0, "loss": 1.5, "error": 0.5, "norms": {}},
        {"step": 5, "epoch": 1.0, "test_loss": 1.4, "test_error": 0.4},
    ]
    facts = {"num_examples": 10, "num_classes": 10, "total_steps": 5, "residual": True}
    result = curves(records, split="test", **facts)
    assert list(result.step) == [5] and list(result.eval_step) == [0, 5]
    assert list(result.eval_error) == [0.9, 0.4] and list(result.train_loss) == [1.5]
    with pytest.raises(ValueError, match="0 evaluations"):
        curves(records, split="holdout", **facts)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1, "1.0"),
        (0.0123, "0.012"),
        (12.3, "12"),
        (1234, "1,200"),
        (1.234e-7, "1.2·10⁻⁷"),
        (1e9, "1.0·10⁹"),
        (float("inf"), "∞"),
        (float("nan"), "–"),
    ],
)
def test_factors_in_words(value, text):
    assert words.factor(value) == text


class Page(HTMLParser):
    """Checks nesting, and collects what a browser would load or show."""

    VOID = frozenset({"meta", "img", "source", "br", "link"})

    def __init__(self, text):
        super().__init__()
        self.open, self.loaded, self.links, self.ids, self.text = [], [], [], set(), ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag not in ("link", "iframe", "object") and not (tag == "script" and "src" in attrs)
        self.loaded += [attrs[k] for k in ("src", "srcset", "data") if k in attrs]
        self.links += [attrs["href"]] if "href" in attrs else []
        self.ids |= {attrs["id"]} if "id" in attrs else set()
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    report = report_of_two()
    out = tmp_path_factory.mktemp("report")
    return report, write(report, out), out


def test_page_is_whole_and_refers_to_nothing_outside(written):
    _, path, out = written
    text = path.read_text("utf-8")
    page = Page(text)
    # Four forms of each figure: light and dark, for a page and for a phone.
    assert len(page.loaded) == 4 * len(SHOWN)
    assert len(set(page.loaded)) == len(page.loaded)
    assert all(data.startswith("data:image/svg+xml;base64,") for data in page.loaded)
    outside = [link for link in page.links if not link.startswith("#")]
    assert all((out / link).is_file() for link in outside)
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    style = text[text.index("<style>") : text.index("</style>")]
    assert "prefers-color-scheme: dark" in style and "max-width: 640px" in style
    assert "url(" not in style and "@import" not in style
    assert 'name="viewport"' in text


def test_page_says_everything(written):
    report, path, _ = written
    shown = re.sub(r"\s+", " ", Page(path.read_text("utf-8")).text)
    for finding in report.findings:
        assert finding.headline in shown
        assert all(point in shown for point in finding.points)
    for text in ("deep & <b>flat</b>", "of <b>flat</b>", "running statistics", "0123abcd"):
        assert text in shown  # as text: labels are no markup
    for text in (*report.left_out, *report.command.values(), "9 of 10", "stage1/unit7"):
        assert text in shown


def test_files_lie_beside_the_page(written):
    _, _, out = written
    for name in SHOWN:
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        data = json.loads((out / f"{name}.json").read_text("utf-8"))
        assert data["made"] == {"commit": "0123abcd"}
        assert data["runs"]["deep"]["config"] == {"seed": 3}


def test_results_are_read_back(written):
    report, _, out = written
    for study, results in report.results:
        back = read(out / f"{study.name}.json", study)
        assert compare.finding(study, back) == compare.finding(study, results)
        assert compare.table(study, back) == compare.table(study, results)
    with pytest.raises(ValueError, match="not 'lesion'"):
        read(out / "curves.json", STUDIES["lesion"])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read(out / "nothing.json", STUDIES["lesion"])


def cells_of(section):
    """Cells of the section's table of numbers, [row][column]."""
    table = section[section.index('<table class="numbers">') :]
    rows = re.findall(r"<tr>(.*?)</tr>", table[: table.index("</table>")])
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]


def test_the_numbers_of_a_unit_are_those_in_the_data(written):
    _, path, out = written
    sections = dict(re.findall(r'<section id="(\w+)">(.*?)</section>', path.read_text("utf-8"), re.DOTALL))
    assert 'class="units"' not in sections["curves"]  # it has no figure of units
    columns, *rows = cells_of(sections["lesion"])
    stored = json.loads((out / "lesion.json").read_text("utf-8"))["runs"]
    for said, label in zip(data_of(sections["lesion"])["said"], LABELS, strict=True):
        result = stored[said["label"]]["result"]
        assert said["label"] == label and said["names"] == result["unit"] and len(said["rows"]) == 10
        for k, (row,) in enumerate(said["rows"]):
            shown = {columns[i]: rows[row][i] for i in said["columns"]}
            assert shown["error"] == words.percent(float(result["error"][k]))
            assert shown["KL (nats)"] == words.number(float(result["kl"][k]))
            assert rows[row][said["own"]] == result["unit"][k]
    columns, *rows = cells_of(sections["gradients"])
    stored = json.loads((out / "gradients.json").read_text("utf-8"))["runs"]
    for said in data_of(sections["gradients"])["said"]:
        result = stored[said["label"]]["result"]
        mean = np.mean(result["norm"], axis=1)  # [step, layer]
        assert said["layers"] and said["names"] == result["layer"]
        for k, (row,) in enumerate(said["rows"]):
            shown = [rows[row][i].split(" (")[0] for i in said["columns"]]
            assert shown == [words.number(value) for value in mean[:, k]]


def test_a_name_does_not_end_the_script(written):
    _, path, _ = written
    text = path.read_text("utf-8")
    assert LABELS[1] == "<b>flat</b>" and "<b>flat" not in text
    assert data_of(text)["said"][1]["label"] == LABELS[1]
