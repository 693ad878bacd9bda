"""Runs that differ only in their seed: how they are found and named, and what the report makes of a group."""

import dataclasses
import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from report_helpers import deletions
from scipy import stats

from resjax import config as configs
from resjax.analysis import load_runs
from resjax.analyze import analyze
from resjax.report import compare, write
from resjax.report.seeds import Seeds, groups_of, pool
from resjax.report.texts import mean_and_interval, merge, pool_cells
from resjax.report.write import read
from resjax.studies.catalogue import STUDIES
from resjax.studies.intervals import of_difference
from resjax.studies.options import Options
from resjax.studies.words import factor, number, percent
from resjax.training.checkpoint import Checkpoints
from resjax.training.experiment import load_experiment
from resjax.workdir.workdir import claim, find

RECORDS = [
    {"step": 0, "epoch": 0.0, "test_loss": 2.3, "test_error": 0.9},
    {"step": 2, "epoch": 1.0, "loss": 1.5, "error": 0.5, "learning_rate": 0.1},
]
QUICK = Options(max_examples=50, batch_size=32, gradient_batches=2)


def config_of(seed=0, shortcut="identity", **fields):
    c = configs.default("resnet", stage_sizes=(2,), widths=(4,), placement="post", norm=False)
    c.model.shortcut, c.seed = shortcut, seed
    c.data.train_examples, c.train.batch_size, c.train.duration = 16, 8, "2 steps"
    for field, value in fields.items():
        c.train[field] = value
    return c


def make(path, error=0.4, *, step=2, **fields):
    """A run as if after two steps."""
    config = config_of(**fields)
    path = claim(path, config)
    state = load_experiment(config).create_state()
    checkpoints = Checkpoints(path)
    checkpoints.save(state.replace(step=jnp.int32(step)))
    records = [*RECORDS, {"step": 2, "epoch": 1.0, "test_loss": 1.4, "test_error": error}]
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """Three seeds of two kinds: deep/seed0, …, flat/seed10."""
    root = tmp_path_factory.mktemp("six")
    for kind, shortcut in {"deep": "identity", "flat": "none"}.items():
        for seed, error in zip((0, 2, 10), (0.39, 0.4, 0.41), strict=True):
            make(root / kind / f"seed{seed}", error + 0.1 * (kind == "flat"), seed=seed, shortcut=shortcut)
    (root / "deep" / "seed_notes").mkdir()
    return root


# --- patterns ---


@pytest.mark.slow
def test_a_pattern_stands_for_the_runs_that_match_by_number(six):
    assert [path.name for path in find([six / "deep" / "seed*"])] == ["seed0", "seed2", "seed10"]
    assert len(find([str(six / "*" / "seed*")])) == 6
    assert find([six / "flat" / "seed2", six / "deep" / "seed[02]"]) == [
        (six / name).resolve() for name in ("flat/seed2", "deep/seed0", "deep/seed2")
    ]


def test_a_pattern_without_a_run_is_an_error_that_names_it(six, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--workdir=.*seed\?\?\?\* matches nothing"):
        analyze([tmp_path / "seed???*"])
    with pytest.raises(FileNotFoundError, match=r"seed_n\* matches 1 paths, but none holds a run"):
        analyze([six / "deep" / "seed0", six / "deep" / "seed_n*"])


def test_a_folder_whose_name_looks_like_a_pattern_is_that_folder(tmp_path):
    (tmp_path / "run[1]").mkdir()
    assert find([tmp_path / "run[1]"]) == [(tmp_path / "run[1]").resolve()]


# --- groups ---


@dataclasses.dataclass(frozen=True, eq=False)
class Fake:
    """What ``groups_of`` needs of a run."""

    workdir: Path
    config: object
    label: str = ""
    step: int = 2
    from_scratch: bool = True


def grouped(*names, **changes):
    """Groups of runs in folders with these names, whose seeds count up; ``changes`` of the last run."""
    runs = [Fake(Path("/r") / name, config_of(seed), name) for seed, name in enumerate(names)]
    runs[-1] = dataclasses.replace(runs[-1], **changes)
    return groups_of(runs)


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (("a/seed0", "a/seed1"), "a"),
        (("residual_10", "residual_11"), "residual"),
        (("seed0/plain", "seed1/plain"), "plain"),
        (("resnet20-s1", "resnet20-s2"), "resnet20"),
        (("digits_seed=1", "digits_seed=2", "digits_seed=30"), "digits"),
        (("0", "1"), "r"),
    ],
)
def test_a_group_is_named_by_what_its_folders_share(names, label):
    assert grouped(*names) == {label: list(names)}


@pytest.mark.slow
def test_names_of_groups_are_as_long_as_needed(six):
    runs = load_runs([six / "*" / "seed*"])
    assert groups_of(runs) == {
        "deep": ["deep/seed0", "deep/seed2", "deep/seed10"],
        "flat": ["flat/seed0", "flat/seed2", "flat/seed10"],
    }
    mixed = [Fake(Path(f"/r/{name}"), config_of(i), name) for i, name in enumerate(("b/a1", "b/a2"))]
    mixed += [Fake(Path(f"/r/{n}"), config_of(i, "none"), n) for i, n in enumerate(("c/a1", "c/a2"))]
    assert list(groups_of(mixed)) == ["b/a", "c/a"]
    # b/a1 and c/a2 are of one recipe, b/a2 and c/a1 of another: what they share is the same.
    kinds = ("none", "identity", "identity", "none")
    crossed = [
        dataclasses.replace(run, config=config_of(i, kind))
        for i, (run, kind) in enumerate(zip(mixed, kinds, strict=True))
    ]
    assert groups_of(crossed) == {"b/a1 to c/a2": ["b/a1", "c/a2"], "b/a2 to c/a1": ["b/a2", "c/a1"]}


def test_only_the_seed_may_differ():
    assert grouped("a1", "a2") == {"a": ["a1", "a2"]}
    assert grouped("a1", "a2", config=config_of(1, batch_size=4)) == {}
    assert grouped("a1", "a2", config=config_of(0)) == {}  # the same seed twice is one draw
    assert grouped("a1", "a2", step=1) == {}
    assert groups_of([Fake(Path(f"/r/{i}"), config_of(i), str(i), from_scratch=False) for i in (0, 1)]) == {}
    free = config_of(1)
    free.data.data_dir, free.log.every = "/elsewhere", "7 steps"  # affect no result
    assert grouped("a1", "a2", config=free) == {"a": ["a1", "a2"]}
    assert grouped("a1", "a2", "b", config=config_of(5, batch_size=4)) == {"a": ["a1", "a2"]}


def test_a_group_of_which_one_run_has_a_result_is_that_run():
    groups = {"a": ["a0", "a1"]}
    assert pool({"b": 1, "a0": 2, "a1": 3}, groups) == {"b": 1, "a": {"a0": 2, "a1": 3}}
    assert list(pool({"a1": 3, "b": 1}, groups)) == ["a1", "b"]


# --- numbers and texts ---


def test_the_interval_over_seeds_is_students_t():
    values = np.array([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]])
    mean, low, high = mean_and_interval(values)
    wanted = stats.t.interval(0.95, 2, 3, stats.sem(values[:, 0]))
    np.testing.assert_allclose([mean[0], low[0], high[0]], [3, *wanted])
    assert mean[1] == low[1] == high[1] == 5
    mean, low, high = mean_and_interval(np.array([[0.1], [10.0]]), log=True)
    assert mean[0] == pytest.approx(1) and low[0] * high[0] == pytest.approx(1)


def test_welchs_interval_is_scipys():
    one, other = np.array([1.0, 2, 6]), np.array([0.1, 0.2, 0.25, 0.4])
    wanted = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.9)
    np.testing.assert_allclose(of_difference(one, other, 0.9), [one.mean() - other.mean(), *wanted])
    assert of_difference(np.ones(3), np.zeros(2)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        (["7", "7"], "7"),
        # 1.08 ± 12.706 · 0.08/2; from the rounded cells, 1.0 % and 1.1 %, it would be 0.4 % to 1.7 %.
        ([percent(0.0104), percent(0.0112)], "1.1 % (0.6 % to 1.6 %)"),
        ([number(1.00049), number(1.00041)], "1"),
        ([factor(0.5), factor(2)], "1.0 (1.5·10⁻⁴ to 6,700)"),
        (["16 of 27", "18 of 27"], "17.0 (4.3 to 29.7) of 27"),
        (["16 of 27", "18 of 25"], "16–18 of 25–27"),
        (["40.0 % (25 % to 66 %)", "42.0 % (3 % to 70 %)"], "41.0 % (28.3 % to 53.7 %)"),
        (["1 to 9 of 27", "1 to 12 of 27"], "1 to 9–12 of 27"),
        (["9.0 % (3 voters)", "9.0 % (5 voters)"], "9.0 % (3–5 voters)"),
        (["–", "1.2"], "– / 1.2"),
        # −2.64 ± 12.706 · 1.14; the dash of a range would hide a minus.
        (["−3.78 (−4.23 to −3.33)", "−1.50 (−2.00 to −1.00)"], "−2.64 (−17.13 to 11.85)"),
        (["−0.5", "0.5"], "0.0 (−6.4 to 6.4)"),
        ([number(np.nan), number(1.2)], "– / 1.2"),
        (["1.0·10⁷", "1.0·10⁹"], "1.0·10⁸ (2.0·10⁻⁵ to 5.1·10²⁰)"),
        (["stage1/unit2", "stage1/unit3"], "stage1/unit2 / stage1/unit3"),
    ],
)
def test_cells_of_seeds(cells, text):
    assert pool_cells(cells) == text


def test_sentences_that_differ_in_numbers_are_one():
    assert merge(["16 of 27 go", "19 of 27 go", "none goes"]) == [("16–19 of 27 go", 2), ("none goes", 1)]
    assert merge(["stage1/unit2 has 1.5", "stage1/unit3 has 2.5"]) == [
        ("stage1/unit2 has 1.5", 1),
        ("stage1/unit3 has 2.5", 1),
    ]
    assert merge(["1,200 of 2¹⁰ at -0.5", "800 of 2¹⁰ at 3e-05"]) == [
        ("800–1,200 of 2¹⁰ at -0.5 to 3e-05", 2)
    ]
    assert merge(["falls by −4.2", "falls by −3.3"]) == [("falls by −4.2 to −3.3", 2)]


# --- what is shown ---

SPARE, MIXED, NEEDED = (
    deletions([0.4, *[0.012] * 9]),
    deletions([0.4] * 6 + [0.01] * 4),
    deletions([0.9] * 10),
)


def test_a_finding_counts_the_seeds():
    other = deletions([0.5] * 7 + [0.01] * 3)
    results = {
        "deep": Seeds({"d0": SPARE, "d1": MIXED, "d2": SPARE, "d3": other}),
        "flat": Seeds({"f0": NEEDED, "f1": NEEDED}),
        "one": SPARE,
    }
    found = compare.finding(STUDIES["lesion"], results)
    assert found.headline == (
        "Most units can go, one at a time, from deep (2 of 4 seeds) and one; hardly any unit can go from "
        "flat (2 of 2 seeds); 3–4 of 10 units can go, one at a time, from deep (2 of 4 seeds)."
    )
    assert found.points[0].startswith("deep, mean over 4 seeds with its 95 % interval: error, intact 1.0 %; ")
    assert found.points[1].startswith("d0: 1.0 % error when intact.")
    assert found.points[-1] == "Chance is 90.0 %."  # once


def test_networks_are_compared_seed_by_seed():
    def headline(results):
        best = min(results, key=lambda label: results[label].intact_error)
        return f"The best is {best} with {percent(results[best].intact_error)}."

    study = dataclasses.replace(STUDIES["lesion"], headline=headline, verdict=None)
    a = Seeds({f"a{i}": deletions([0.4], intact=e) for i, e in enumerate((0.1, 0.2, 0.3))})
    b = Seeds({f"b{i}": deletions([0.4], intact=e) for i, e in enumerate((0.2, 0.3, 0.25))})
    wanted = "In 2 of 3 seeds, the best is a with 10.0–20.0 %; in 1 of 3 seeds, the best is b with 25.0 %."
    assert compare.finding(study, {"a": a, "b": b}).headline == wanted


def test_the_table_of_a_group_has_means_where_the_rows_agree():
    study, more = STUDIES["lesion"], deletions([0.6, *[0.012] * 9])
    alike = compare.table(study, {"deep": Seeds({"d0": SPARE, "d1": more}), "one": NEEDED})
    assert len(alike.rows) == 20 and alike.rows[0][:3] == (
        "deep (2 seeds)",
        "stage1/unit1",
        "50.0 % (-77.1 % to 177.1 %)",
    )
    assert alike.rows[1][2] == "1.2 %" and alike.rows[10][0] == "one"
    other = compare.table(study, {"deep": Seeds({"d0": SPARE, "d1": deletions([0.5] * 3)})})
    assert [row[0] for row in other.rows] == ["d0"] * 10 + ["d1"] * 3


def test_the_short_table_has_means():
    rows = compare.summary(STUDIES["lesion"], {"deep": Seeds({"d0": SPARE, "d1": MIXED})})["deep"]
    assert rows["error, intact"] == "1.0 %"
    assert rows["units that may go"] == "6.5 (-25.3 to 38.3) of 10"


@pytest.mark.slow
def test_from_workdirs_to_the_report_of_groups(six, capsys):
    out = six / "report"
    pattern = six / "*" / "seed*"
    path = analyze([pattern], ["curves", "lesion"], out, QUICK)
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", path.read_text("utf-8")))
    assert "deep and flat, taken apart" in shown
    assert "deep ends at 40.0 % test error, flat at 50.0 %, in the mean over 3 seeds." in shown.replace(
        "\u00a0", " "
    )
    assert "deep (3 runs: deep/seed0, deep/seed2, deep/seed10)" in shown
    assert f"--workdir=&#x27;{pattern}&#x27;" in shown  # quoted, so that no shell expands it
    data = json.loads((out / "curves.json").read_text("utf-8"))
    assert data["seeds"]["flat"] == ["flat/seed0", "flat/seed2", "flat/seed10"]
    assert data["runs"]["flat/seed10"]["config"]["seed"] == 10
    results = read(out / "curves.json", STUDIES["curves"])
    assert list(results) == [run for runs in data["seeds"].values() for run in runs]
    assert "deep, n = 3 seeds" in capsys.readouterr().out


@pytest.mark.slow
def test_a_seed_of_which_a_study_failed_is_missing_in_the_group(six, tmp_path, monkeypatch):
    original = STUDIES["curves"]

    def measure(bench):
        if bench.run.config.seed == 2:
            raise KeyError("lost")
        return original.measure(bench)

    monkeypatch.setitem(STUDIES, "curves", dataclasses.replace(original, measure=measure))
    monkeypatch.setattr(write, "picture", lambda draw, alt, table, labels: "")
    monkeypatch.setattr(write, "save", lambda draw, directory, name: [])
    path = analyze([six / "deep" / "seed*"], ["curves"], tmp_path, Options(seed=7))
    data = json.loads((tmp_path / "curves.json").read_text("utf-8"))
    assert data["seeds"] == {"deep": ["seed0", "seed10"]} and set(data["runs"]) == {"seed0", "seed10"}
    assert "in the mean over 2 seeds" in path.read_text("utf-8")
