"""From workdirs to a report: what is done, what is left out, what is kept, and stopping on the way."""

import dataclasses
import io
import json
import re
import shlex
import shutil
import signal
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from report_helpers import report_of_two
from rich.console import Console

from resjax import claims
from resjax import config as configs
from resjax.analysis import load_run
from resjax.analyze import analyze, arguments_of, command_of, print_findings
from resjax.network.refusal import Refusal
from resjax.report import compute, kept, write
from resjax.report.write import read
from resjax.studies.catalogue import CLAIMS, GROUPS, STUDIES
from resjax.studies.curves import Curves
from resjax.studies.options import ClaimOptions, Options
from resjax.studies.study import Claim
from resjax.training.checkpoint import Checkpoints
from resjax.training.experiment import load_experiment
from resjax.workdir.paths import split
from resjax.workdir.stopping import Stopped
from resjax.workdir.workdir import claim

RECORDS = """\
{"step": 0, "epoch": 0.0, "test_loss": 2.3, "test_error": 0.9}
{"step": 2, "epoch": 1.0, "loss": 1.5, "error": 0.5, "learning_rate": 0.1}
{"step": 2, "epoch": 1.0, "test_loss": 1.4, "test_error": 0.4}
"""
QUICK = Options(max_examples=50, batch_size=32, gradient_batches=2)


def text_of(path):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", path.read_text("utf-8")))


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Two tiny networks as if after two steps; training itself would take longer than all the rest."""
    root = tmp_path_factory.mktemp("runs")
    for name, fields in {"deep": {}, "flat": {"shortcut": "none"}}.items():
        config = configs.default(
            "resnet", stage_sizes=(2,), widths=(4,), placement="post", norm=False, **fields
        )
        config.data.train_examples = 16
        config.train.batch_size = 8
        config.train.duration = "2 steps"
        path = claim(root / name, config)
        state = load_experiment(config).create_state()
        checkpoints = Checkpoints(path)
        checkpoints.save(state.replace(step=jnp.int32(2)))
        (path / "metrics.jsonl").write_text(RECORDS)
    return root


@pytest.fixture
def counted(monkeypatch):
    """The curves, which count how often they are made."""
    calls, original = [], STUDIES["curves"]

    def measure(bench):
        calls.append(bench.run.label)
        for i in range(3):
            bench.progress(i, 3)
        return original.measure(bench)

    monkeypatch.setitem(STUDIES, "curves", dataclasses.replace(original, measure=measure))
    return calls


@pytest.fixture
def undrawn(monkeypatch):
    """No figures, which take a second each, where a test looks at something else."""
    monkeypatch.setattr(write, "picture", lambda draw, alt, table, labels: "")
    monkeypatch.setattr(write, "save", lambda draw, directory, name: [])


def test_unknown_study_and_bad_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"studies=lesions; allowed: curves, .*lesion, "):
        analyze([tmp_path], ["lesions"])
    for field, value in {"max_examples": 0, "draws": 1, "path_draws": 1, "seed": -1}.items():
        with pytest.raises(ValueError, match=f"{field}={value}; allowed"):
            Options(**{field: value})
    with pytest.raises(FileNotFoundError, match="holds no run"):
        analyze([tmp_path])
    with pytest.raises(ValueError, match="different workdirs"):
        analyze([tmp_path, tmp_path])


def test_from_workdirs_to_report(workdirs, capsys):
    path = analyze(
        [workdirs / "deep", workdirs / "flat"],
        ["lesion", "gradients"],
        out=workdirs / "report",
        options=QUICK,
    )
    assert path == workdirs / "report" / "report.html"
    shown = text_of(path)
    assert "model.shortcut: &#x27;identity&#x27; → &#x27;none&#x27;" in shown
    results = read(workdirs / "report" / "lesion.json", STUDIES["lesion"])
    assert results["deep"].num_examples == 50
    assert results["deep"].residual.all() and not results["flat"].residual.any()
    folders = f"{workdirs / 'deep'},{workdirs / 'flat'}"
    own = "--max_examples=50 --batch_size=32 --gradient_batches=2 --full"
    assert f"resjax.analyze --workdir={folders} --studies=lesion {own}" in shown
    with np.load(workdirs / "deep" / "studies" / "scores.npz") as scores:  # without each unit, and intact
        assert scores["count"].tolist() == [50] * (1 + scores["rows"].shape[1])
    norms = read(workdirs / "report" / "gradients.json", STUDIES["gradients"])
    assert list(norms["deep"].step) == [0, 2] and norms["deep"].norm.shape[1] == 2
    terminal = capsys.readouterr().out
    assert "units that may go" in terminal and "deep" in terminal


def test_the_command_of_a_section_has_the_options_that_differ():
    start = "python -m resjax.analyze --workdir=a,b --studies=paths"
    assert command_of("paths", Options(), "--workdir=a,b") == f"{start} --full"
    fields = dataclasses.fields(Options)
    own = {f.name: "2 epochs" if f.type == "str" else 1 + f.default for f in fields}
    words = shlex.split(command_of("paths", Options(**own), "--workdir=a,b").removeprefix(start))
    assert words == [*(f"--{name}={value}" for name, value in own.items()), "--full"]
    own = command_of("paths", Options(seed=1), "--network=a:make", "--out='b c'")
    assert own == "python -m resjax.analyze --network=a:make --studies=paths --out='b c' --seed=1 --full"


@pytest.mark.parametrize(
    ("workdirs", "arguments"),
    [
        (["a", "b"], "--workdir=a,b"),
        (["my runs", "b"], "--workdir='my runs,b'"),
        (["my runs, final", "b"], "--workdir='my runs, final' --workdir=b"),
        (["it's, mine"], """--workdir='it'"'"'s, mine'"""),
        (["a/seed*"], "--workdir='a/seed*'"),
    ],
)
def test_workdirs_in_a_command_are_those_that_it_was_given(tmp_path, monkeypatch, workdirs, arguments):
    monkeypatch.chdir(tmp_path)
    for name in (*workdirs, "my runs", "it's"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    assert arguments_of(workdirs) == arguments
    values = [word.removeprefix("--workdir=") for word in shlex.split(arguments)]
    assert split(values) == workdirs


def test_what_cannot_be_written_is_refused_before_any_study(workdirs, tmp_path, counted):
    (tmp_path / "file").write_text("")
    for out, said in {
        tmp_path / "file": "--out=.*is a file",
        "gs://bucket/report": "--out=gs://.* is a URL",
    }.items():
        with pytest.raises(ValueError, match=said):
            analyze([workdirs / "deep"], ["curves"], out)
        with pytest.raises(ValueError, match=said):
            claims.show(["edges"], out)
    assert not counted


def test_one_study_into_the_workdir(workdirs):
    path = analyze([workdirs / "deep"], ["curves"])
    assert path == workdirs / "deep" / "analysis" / "report.html"
    assert not (path.parent / "lesion.json").exists()


def test_a_run_without_checkpoint_is_refused(workdirs, tmp_path):
    (tmp_path / "config.json").write_text((workdirs / "deep" / "config.json").read_text())
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        analyze([tmp_path])


def test_finished_studies_are_not_repeated(workdirs, tmp_path, counted, capsys, undrawn):
    calls = counted
    both = [workdirs / "deep", workdirs / "flat"]
    kept_file = workdirs / "flat" / "studies" / "curves.json"
    kept_file.unlink(missing_ok=True)
    analyze([workdirs / "flat"], ["curves"], tmp_path)
    calls.clear()
    first = analyze(both, ["curves"], tmp_path)
    assert "flat" not in calls
    before = json.loads((tmp_path / "curves.json").read_text())["runs"]
    calls.clear()
    assert analyze(both, ["curves"], tmp_path) == first
    assert calls == [] and capsys.readouterr().err.count("done before") >= 3
    assert json.loads((tmp_path / "curves.json").read_text())["runs"] == before
    analyze([workdirs / "flat"], ["curves"], tmp_path, Options(seed=1))
    assert calls == []  # curves read no seed
    kept_file.unlink()
    analyze([workdirs / "flat"], ["curves"], tmp_path)
    assert calls == ["flat"]


def test_the_key_changes_with_whatever_could_change_a_result(workdirs, monkeypatch):
    run, study = load_run(workdirs / "deep"), STUDIES["curves"]
    keys = {kept.key(run, study, Options())}
    keys.add(kept.key(run, STUDIES["lesion"], Options()))
    keys.add(kept.key(run, study, Options(draws=7)))
    keys.add(kept.key(dataclasses.replace(run, steps=(1, 2)), study, Options()))
    keys.add(kept.key(dataclasses.replace(run, records=run.records[:1]), study, Options()))
    keys.add(kept.key(load_run(workdirs / "flat"), study, Options()))
    monkeypatch.setattr(kept, "code_fingerprint", lambda measure: "other code")
    keys.add(kept.key(run, study, Options()))
    assert len(keys) == 7


def test_a_signal_stops_an_analysis_and_the_rest_is_kept(workdirs, counted):
    study = STUDIES["curves"]
    runs = [load_run(workdirs / "deep"), load_run(workdirs / "flat")]
    options = Options()
    for run in runs:
        (run.kept / f"{study.name}.json").unlink(missing_ok=True)

    def interrupted(bench):
        if bench.run.label == "flat":
            signal.raise_signal(signal.SIGTERM)
        return study.measure(bench)

    cut = dataclasses.replace(study, measure=interrupted)
    said = (
        rf"SIGTERM while '{re.escape(study.title)}: flat' was computed: finished results are kept; the same"
    )
    with pytest.raises(Stopped, match=said):
        compute.run_studies(runs, [cut], options, Console(quiet=True))
    assert kept.load(runs[0], cut, options) is not None
    assert kept.load(runs[1], cut, options) is None


def test_what_an_analysis_refuses_is_left_out_an_error_is_a_failure_and_the_others_go_on(workdirs):
    def raises(error):
        def measure(bench):
            raise error

        return measure

    refusal = Refusal("no batch of that size.")
    refusing = dataclasses.replace(STUDIES["lesion"], measure=raises(refusal))
    wrong = dataclasses.replace(STUDIES["gradients"], measure=raises(ValueError("batch_size=0")))
    broken = dataclasses.replace(STUDIES["backward_signal"], measure=raises(KeyError("stage9")))
    hungry = dataclasses.replace(STUDIES["path_counts"], measure=raises(MemoryError("9 GiB")))
    printed = io.StringIO()
    results, left_out, failed = compute.run_studies(
        [load_run(workdirs / "deep")],
        [refusing, wrong, broken, hungry, STUDIES["curves"]],
        Options(seed=9),
        Console(file=printed, soft_wrap=True),
    )
    assert printed.getvalue().count("Traceback") == 2  # no fault of a program is the memory's
    assert [study.name for study, _ in results] == ["curves"]
    both = [load_run(workdirs / name) for name in ("deep", "flat")]
    alike = compute.run_studies(both, [refusing], Options(seed=9), Console(quiet=True)).left_out
    assert alike == [f"{refusing.title}, of deep and flat: no batch of that size."]
    assert left_out == [f"{refusing.title}, of deep: no batch of that size."]
    assert failed == [
        f"{wrong.title}, of deep: ValueError: batch_size=0.",
        f"{broken.title}, of deep: KeyError: 'stage9'.",
        f"{hungry.title}, of deep: the memory does not suffice (9 GiB); reduce --batch_size, or use a "
        "machine or a device with more.",
    ]


def test_the_report_names_what_failed(workdirs, tmp_path, monkeypatch, capsys, undrawn):
    def fails(bench):
        raise RuntimeError("out of <memory>")

    bad = dataclasses.replace(STUDIES["lesion"], measure=fails)
    monkeypatch.setitem(STUDIES, "lesion", bad)
    path = analyze([workdirs / "deep"], ["curves", "lesion"], tmp_path)
    failure = f"{bad.title}, of deep: RuntimeError: out of"
    assert failure in text_of(path) and "out of &lt;memory&gt;" in path.read_text("utf-8")
    shown = capsys.readouterr()
    assert "Traceback" in shown.err and failure in shown.out


def test_where_no_study_has_a_summary_there_is_no_table():
    short = report_of_two()
    studies = [(dataclasses.replace(s, summary=lambda result: {}), r) for s, r in short.results]
    silent = dataclasses.replace(short, results=studies, failed=["lesion, of deep: no memory."])
    printed = []
    for report in (short, silent):
        console = Console(file=io.StringIO(), width=200, highlight=False)
        print_findings(report, console)
        printed.append(console.file.getvalue().splitlines())
    lines = [f"• {finding.headline}" for finding in silent.findings]
    assert printed[1] == [*lines, "failed: lesion, of deep: no memory."]
    assert len(printed[0]) > len(lines) + 1 and "deep" in printed[0][0]


def test_checkpoints_of_a_run_can_be_opened(workdirs):
    run = load_run(workdirs / "deep")
    assert run.steps == (2,)
    assert run.at(0) == run.initial.variables
    assert run.at(2) == run.newest.variables
    with pytest.raises(FileNotFoundError, match="step 1"):
        run.at(1)


def test_an_analysis_says_which_checkpoint_it_shows_instead_of_a_damaged_one(
    workdirs, tmp_path, capsys, undrawn
):
    path = Path(shutil.copytree(workdirs / "deep", tmp_path / "run"))
    first = load_experiment(configs.load(path)).create_state().replace(step=jnp.int32(1))
    Checkpoints(path).save(first)
    damaged = path / "checkpoints/2/state/_METADATA"
    damaged.write_text(damaged.read_text().replace("stem", "stew"))
    report = analyze([path], ["curves"])
    said = (
        f"the checkpoint of step 2 is damaged: {damaged} has changed since it was saved. The checkpoint of "
        "step 1 is shown instead."
    )
    assert capsys.readouterr().err.splitlines().count(said) == 1
    assert said in text_of(report)
    run = load_run(path)
    assert (run.step, run.steps) == (1, (1,))
    with pytest.raises(ValueError, match="step 2 is damaged"):
        run.at(2)
    (path / "checkpoints/1/SHA256SUMS").unlink()
    with pytest.raises(ValueError, match=r"no intact checkpoint.*step 2.*step 1.*SHA256SUMS is missing"):
        load_run(path)


def test_claims_need_no_run(tmp_path, monkeypatch, capsys, undrawn):
    result = Curves(
        step=np.array([2, 4]),
        train_loss=np.array([2.0, 1.0]),
        train_error=np.array([0.8, 0.1]),
        eval_step=np.array([0, 4]),
        eval_loss=np.array([2.3, 1.0]),
        eval_error=np.array([0.9, 0.2]),
        split="test",
        num_examples=5,
        num_classes=10,
        total_steps=4,
        residual=True,
        choices={"how": "made up"},
    )
    seen = []

    def measure(options, progress):
        seen.append((options.smoke, options.seed))
        progress(1, 1)
        return {"a network": result}

    shown = {f.name: getattr(STUDIES["curves"], f.name) for f in dataclasses.fields(Claim)}
    monkeypatch.setitem(CLAIMS, "curves", Claim(**shown | {"measure": measure}))
    chosen = ClaimOptions(smoke=True, seed=3)
    path = claims.show(["curves"], tmp_path, chosen)
    assert seen == [(True, 3)]
    text = text_of(path)
    assert "python -m resjax.claims --names=curves --smoke --seed=3" in text
    assert "made up" in text and "small form" in text
    assert read(tmp_path / "curves.json", STUDIES["curves"]).keys() == {"a network"}
    assert "a network" in capsys.readouterr().out
    claims.show(["curves"], tmp_path, chosen)  # finished: only read back
    assert seen == [(True, 3)] and text_of(path).count("made up") == text.count("made up")
    claims.show(["curves"], tmp_path, ClaimOptions(smoke=True, seed=4))
    assert seen == [(True, 3), (True, 4)]
    monkeypatch.setattr(kept, "code_fingerprint", lambda measure: "other code")
    claims.show(["curves"], tmp_path, ClaimOptions(smoke=True, seed=4))
    (tmp_path / "kept" / "curves.json").write_text("[]")
    claims.show(["curves"], tmp_path, ClaimOptions(smoke=True, seed=4))
    assert len(seen) == 4
    with pytest.raises(ValueError, match="names=nothing; allowed: "):
        claims.show(["nothing"], tmp_path)


def test_every_study_and_claim_has_a_chapter_and_a_page():
    assert set(GROUPS) >= set(STUDIES) | set(CLAIMS)
    assert not set(STUDIES) & set(CLAIMS)
