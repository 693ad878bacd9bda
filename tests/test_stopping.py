"""Stops in one process: signals are raised here, and what would end the process is replaced."""

import contextlib
import signal
import threading

import pytest

from resjax.workdir import atomic, stopping
from resjax.workdir.stopping import Stopped, StopRequest, ends_process, phase, stoppable

USR1, TERM, INT = signal.SIGUSR1, signal.SIGTERM, signal.SIGINT
each_signal = pytest.mark.parametrize("number", [TERM, INT, USR1], ids=lambda number: number.name)


class Ended(BaseException):
    """In place of the end of the process, with its exit status."""


@pytest.fixture
def ended(monkeypatch):
    """The exit status with which the thread, or the handler, would have ended the process, once it has."""
    event, statuses = threading.Event(), []

    def end(status):
        statuses.append(status)
        event.set()
        raise Ended(status)

    monkeypatch.setattr(stopping.os, "_exit", end)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    yield lambda within=10: statuses[0] if event.wait(within) else None
    if stopping._active is not None:
        stop, stopping._active = stopping._active, None
        stop.disarm()
    for thread in threading.enumerate():
        if thread.name == "stops":
            thread.join(5)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def handlers():
    """Whatever a test does, the signals go back to where they went."""
    before = [signal.getsignal(number) for number in (TERM, INT, USR1)]
    yield
    assert [signal.getsignal(number) for number in (TERM, INT, USR1)] == before
    assert signal.set_wakeup_fd(-1) == -1 and stopping._active is None and len(stopping._phases) == 1


@each_signal
def test_where_nothing_is_saved_a_signal_raises_and_says_so(number):
    done = []
    with pytest.raises(Stopped) as raised, stoppable(), phase("the data were read"):
        signal.raise_signal(number)
        done.append("more")
    said = f"{number.name} while the data were read: nothing had to be saved; the same command starts again"
    assert str(raised.value) == said and not done


@each_signal
def test_deferred_work_looks_at_the_name(number):
    with pytest.raises(Stopped, match=rf"{number.name}: the work was just .* is saved"), stoppable() as stop:
        with stop.deferred():
            signal.raise_signal(number)
            assert stop.name == number.name
        pytest.fail("a signal after the last look is not forgotten")


def test_an_error_of_the_work_comes_before_the_stop():
    with pytest.raises(KeyError), stoppable() as stop, stop.deferred():
        signal.raise_signal(TERM)
        raise KeyError


def test_a_part_of_deferred_work_is_cut_off_once_and_the_rest_is_not():
    with pytest.raises(Stopped, match="saved"), stoppable() as stop, stop.deferred("saved"):
        assert stop.interruptible(lambda: 1) == 1
        assert stop.interruptible(lambda: [signal.raise_signal(USR1), pytest.fail("not cut")]) is None
        signal.raise_signal(TERM)  # while it saves
        assert stop.interruptible(lambda: pytest.fail("begun after the signal")) is None


def test_swallowed_by_other_code_it_is_raised_later():
    with pytest.raises(Stopped, match="SIGTERM while the command started or ended"), stoppable() as stop:
        with contextlib.suppress(BaseException):
            signal.raise_signal(TERM)
        stop.check()
        pytest.fail("not raised again")
    with pytest.raises(Stopped), stoppable(), contextlib.suppress(BaseException):
        signal.raise_signal(TERM)


@pytest.mark.parametrize(
    ("sent", "ends"),
    [((USR1, USR1), None), ((USR1, TERM), None), ((TERM, USR1), None), ((TERM, INT), INT), ((INT, INT), INT),
     ((USR1, TERM, TERM), TERM)],
)  # fmt: skip
def test_only_impatience_goes_to_the_former_handler(sent, ends):
    """A warning may come twice, and before the end of the time; a second SIGTERM or Ctrl-C means it."""
    ended = []
    for number in (TERM, INT):
        signal.signal(number, lambda number, frame: ended.append(number))
    try:
        with pytest.raises(Stopped, match=sent[0].name), stoppable() as stop, stop.deferred():
            for number in sent:
                signal.raise_signal(number)
    finally:
        signal.signal(TERM, signal.SIG_DFL)
        signal.signal(INT, signal.default_int_handler)
    assert ended == ([] if ends is None else [ends])


def test_within_another_context_it_is_a_part_of_it():
    with pytest.raises(Stopped, match="SIGTERM"), stoppable() as outer:
        with stoppable() as inner:
            assert inner is outer
        signal.raise_signal(TERM)
    assert StopRequest().name is None


def test_signals_of_another_thread_stay_as_they_are():
    before, seen = signal.getsignal(TERM), []

    def work():
        with stoppable() as stop, stop.deferred():
            seen.append(signal.getsignal(TERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@each_signal
def test_a_command_ends_with_one_line_and_status_143(ended, capsys, number):
    with pytest.raises(Ended) as left, ends_process("it was computed"):
        signal.raise_signal(number)
    assert left.value.args == (143,)
    said = f"{number.name} while it was computed: nothing had to be saved; the same command starts again\n"
    assert capsys.readouterr().err == said


def test_an_error_of_what_was_cut_off_does_not_hide_the_line(ended, capsys):
    with pytest.raises(Ended) as left, ends_process():
        try:
            signal.raise_signal(TERM)
        finally:
            raise OSError("the pool is broken")
    assert left.value.args == (143,) and capsys.readouterr().err.startswith("SIGTERM while the command ran")


def test_an_error_in_saving_after_a_signal_is_the_error(ended, capsys):
    with pytest.raises(OSError, match="No space"), ends_process(), stoppable() as stop, stop.deferred():
        stop.interruptible(lambda: signal.raise_signal(TERM))
        raise OSError("No space left on device")
    assert capsys.readouterr().err == ""


def test_a_call_that_does_not_return_is_ended_by_a_thread(ended, capfd, monkeypatch, tmp_path):
    monkeypatch.setattr(stopping, "GRACE", 0.1)
    with pytest.raises(Ended), ends_process("it was compiled"), atomic.replacing(tmp_path / "a") as path:
        path.write_text("half")
        try:
            signal.raise_signal(TERM)
        except Stopped:
            assert ended() == 143  # as if this were the compiler
            assert not path.exists()
            raise
    assert capfd.readouterr().err.startswith("SIGTERM while it was compiled: nothing had to be saved")


def test_no_thread_ends_work_that_saves(ended, monkeypatch):
    monkeypatch.setattr(stopping, "GRACE", 0)
    with pytest.raises(Ended), ends_process(), stoppable() as stop, stop.deferred():
        signal.raise_signal(TERM)
        assert not ended(within=0.3)


def test_no_thread_ends_a_process_for_which_others_wait(ended, monkeypatch):
    """They stop in the same step, and the first to end would break the connection in which others save."""
    monkeypatch.setattr(stopping, "GRACE", 0)
    with (
        pytest.raises(SystemExit, match="143"),
        ends_process(),
        stoppable() as stop,
        stop.deferred(agreed=True),
    ):
        signal.raise_signal(TERM)
    assert not ended(within=0.3)


def test_a_second_signal_ends_a_command_even_while_it_saves(ended, capfd):
    with pytest.raises(Ended), ends_process(), stoppable() as stop, stop.deferred():
        signal.raise_signal(USR1)
        signal.raise_signal(USR1)
        signal.raise_signal(TERM)
        assert not ended(within=0.2)
        signal.raise_signal(INT)
        assert ended() == 143
    assert capfd.readouterr().err.startswith("SIGINT again: ended at once; what was saved before is whole\n")


def test_while_a_command_starts_a_signal_ends_it_at_once(ended, capfd):
    stopping.starts_process()
    with pytest.raises(Ended):
        signal.raise_signal(INT)
    assert ended() == 143
    said = "SIGINT while the command started or ended: nothing had to be saved; the same command starts"
    assert capfd.readouterr().err == f"{said} again\n"


def test_after_its_start_a_command_ends_as_usual(ended, capfd):
    """And can do more, as one that reads a file before it knows its flags."""
    before = signal.getsignal(TERM)
    stopping.starts_process()
    for _ in range(2):
        with ends_process():
            assert not stopping._active.starting
    assert stopping._active.starting and signal.getsignal(TERM) != before and not ended(within=0)


def test_a_command_gives_the_signals_back_and_ends_its_thread(ended):
    before = signal.getsignal(TERM)
    with ends_process():
        assert signal.getsignal(TERM) != before
    assert signal.getsignal(TERM) == before and not ended(within=0)
