"""metrics.jsonl: damaged lines are passed over, and a start loses none of them."""

import json
import re

import pytest
from run_helpers import run_with

from resjax.analyze import _unreadable
from resjax.studies.curves import curves
from resjax.workdir import records as reading
from resjax.workdir.writers import Writer, read_records, set_aside

NORMS = {"gradient": {"stem/conv/kernel": 0.5, "stage1/conv1/kernel": [1.0, 2.0]}, "parameter": {}}


def record(step, **more):
    return {"step": step, "epoch": 0.5, "loss": 0.5, "error": 0.25, **more}


def line(step, **more):
    return json.dumps(record(step, **more)).encode() + b"\n"


DAMAGED = {
    "garbage": b"\x9f\x03 garbage\n",
    "zeros": b"\0" * 40 + b"\n",
    "half a record": line(3)[:20] + b"\n",
    "two records in one line": line(3)[:-1] + line(4),
    "cut within the norms": line(3, norms=NORMS)[:-9] + b"\n",
    "not UTF-8": line(3).replace(b"loss", b"l\xf6ss"),
    "a list": b"[3]\n",
    "a number": b"3\n",
    "without a step": b'{"loss": 0.5}\n',
    "a step that is text": line("3"),
    "a step that is true": line(True),
    "many brackets": b"[" * 100_000 + b"\n",
}
WHOLE = [line(0), line(1, norms=NORMS), line(2), line(5, norms=NORMS), line(6)]


@pytest.fixture
def log(tmp_path):
    return tmp_path / "metrics.jsonl"


def steps(log):
    return [r["step"] for r in read_records(log.parent)]


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("place", [0, 3, 5])
def test_a_damaged_line_is_passed_over_and_named(log, kind, place):
    log.write_bytes(b"".join([*WHOLE[:place], DAMAGED[kind], *WHOLE[place:]]))
    found = read_records(log.parent)
    assert steps(log) == [0, 1, 2, 5, 6] and found.unreadable == (place + 1,)


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_line_is_set_aside_when_a_run_goes_on(log, kind):
    log.write_bytes(b"".join([*WHOLE[:2], DAMAGED[kind], b"\n", *WHOLE[2:]]))
    said = set_aside(log, 5)
    assert said == (
        "metrics.jsonl: 1 record of steps that are repeated and 1 line that is no record moved to "
        "metrics.jsonl.set-aside-1"
    )
    assert log.read_bytes() == b"".join(WHOLE[:4])
    assert (log.parent / "metrics.jsonl.set-aside-1").read_bytes() == DAMAGED[kind] + WHOLE[4]
    assert set_aside(log, 5) == "" and len(list(log.parent.iterdir())) == 2


@pytest.mark.parametrize("half", [b"", b"{", line(7)[:-9], line(7, norms=NORMS)[:-3], b'{"step": 7, "\xc3'])
def test_a_half_last_line_is_completed_without_a_word(log, half):
    log.write_bytes(b"".join(WHOLE) + half)
    found = read_records(log.parent)
    assert len(found) == 5 and found.unreadable == ()
    assert set_aside(log, 6) == ""
    assert log.read_bytes() == b"".join(WHOLE) and list(log.parent.iterdir()) == [log]


def test_a_whole_last_line_gets_its_end(log):
    log.write_bytes(b"".join(WHOLE)[:-1])
    assert steps(log) == [0, 1, 2, 5, 6]
    assert set_aside(log, 6) == "" and log.read_bytes() == b"".join(WHOLE)


def test_each_start_sets_aside_in_a_file_of_its_own(log):
    log.write_bytes(b"".join(WHOLE))
    assert set_aside(log, 6) == "" and set_aside(log.parent / "absent", 0) == ""
    assert "2 records of steps that are repeated moved to metrics.jsonl.set-aside-1" in set_aside(log, 2)
    assert "3 records" in set_aside(log, 0)  # without a checkpoint everything is repeated
    assert log.read_bytes() == b""
    aside = [(log.parent / f"metrics.jsonl.set-aside-{n}").read_bytes() for n in (1, 2)]
    assert aside == [b"".join(WHOLE[3:]), b"".join(WHOLE[:3])]


def test_the_writer_goes_on_after_what_is_kept_and_says_what_is_moved(log, capsys):
    log.write_bytes(b"".join(WHOLE))
    with Writer(log.parent, 2, 10) as writer:
        writer.write(record(3))
    assert steps(log) == [0, 1, 2, 3]
    assert "2 records of steps that are repeated moved to" in capsys.readouterr().err


def test_records_are_read_when_they_are_used(log):
    log.write_bytes(b"".join(WHOLE))
    found = read_records(log.parent)
    assert found[1] == record(1, norms=NORMS) == found[-4]
    assert [r["step"] for r in found[1:3]] == [1, 2] and [r["step"] for r in reversed(found)][:2] == [6, 5]
    with pytest.raises(IndexError):
        found[5]
    with log.open("ab") as file:  # the run goes on
        file.write(line(7))
    assert len(list(found)) == 5
    set_aside(log, 2)
    with pytest.raises(ValueError, match="replaced while it was read; start the analysis again"):
        list(found)


def test_scalars_are_read_without_parsing_norms(log, monkeypatch):
    others = [b'{"norms": {"a": {"b": 1}}, "step": 8, "loss": 1.0}\n', line(9, norms={}, more=1)]
    log.write_bytes(b"".join([*WHOLE, *others]))
    expected = [{k: v for k, v in r.items() if k != "norms"} for r in read_records(log.parent)]
    assert [len(r) for r in expected] == [4, 4, 4, 4, 4, 2, 5]
    parsed = []
    loads = json.loads
    monkeypatch.setattr(reading.json, "loads", lambda text: parsed.append(text) or loads(text))
    found = read_records(log.parent)
    assert list(found.without_norms()) == expected
    assert sum("norms" in text for text in parsed) == 4  # only of the two in another form, and twice


def test_damaged_norms_do_not_cost_the_losses(log):
    log.write_bytes(line(0) + line(1, norms=NORMS).replace(b"1.0, 2.0", b"1.0? 2.0"))
    assert steps(log) == [0, 1] and "norms" not in read_records(log.parent)[1]


@pytest.mark.parametrize(
    ("bad", "said"),
    [([], ""), ([1], "Line 2 of .* is left out"), ([0, 1, 2, 3, 4, 5], "Lines 1, 2, 3, 4, 5 … of")],
)
def test_an_analysis_names_the_lines_that_it_passes_over(log, bad, said):
    log.write_bytes(b"".join(b"garbage\n" if n in bad else WHOLE[0] for n in range(8)))
    text = _unreadable(run_with(workdir=log.parent, records=read_records(log.parent), step=0))
    assert re.match(said, text) and bool(text) == bool(bad)


def test_a_record_of_a_loss_without_an_error_is_no_point_of_a_curve():
    rows = [{"step": 1, "loss": 1.0}, record(2), {"step": 2, "test_loss": 1.0, "test_error": 0.5}]
    facts = {"num_examples": 4, "num_classes": 2, "total_steps": 2, "residual": True}
    assert curves(rows, split="test", **facts).step.tolist() == [2]
