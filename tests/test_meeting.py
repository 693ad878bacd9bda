"""Processes that meet before they train: threads stand for them, over real connections."""

import errno
import os
import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from resjax import config as configs
from resjax.training import links, meeting, processes
from resjax.training.checkpoint import Checkpoints
from resjax.training.forward import forward
from resjax.training.links import Watch
from resjax.training.meeting import Link, Place, meet
from resjax.workdir import atomic, stopping
from resjax.workdir.stopping import Stopped

SAYS = {"--workdir": "/runs/a", "config.train.batch_size": "16", "packages.jax": "0.12"}


@pytest.fixture
def address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def together(address, *others, number=None, seconds=10.0, own=SAYS):
    """What ``meet`` returns or raises in process 0, and in the others: (number, what it says)."""

    def one(own_number, says, number):
        try:
            return meet(Place(address, number, own_number), says, seconds)
        except ValueError as error:
            return str(error)

    number = number or len(others) + 1
    with ThreadPoolExecutor(len(others) + 1) as pool:
        calls = [pool.submit(one, 0, own, number)]
        calls += [pool.submit(one, i, says, *rest or (number,)) for i, says, *rest in others]
        return [call.result() for call in calls]


def dial(address):
    """A connection to process 0, once it listens."""
    host, _, port = address.partition(":")
    while True:
        try:
            return socket.create_connection((host, int(port)))
        except OSError:
            time.sleep(0.02)


def pair(address):
    """Links from process 0 to process 1, and back."""
    (zero, port), (one, same) = together(address, (1, SAYS))
    assert port == same
    return zero[1], one[0]


def test_equal_processes_meet_and_talk(address):
    (zero, port), (one, _), (two, other) = together(address, (1, SAYS), (2, SAYS))
    assert set(zero) == {1, 2} and set(one) == set(two) == {0} and port == other
    assert zero[1].host == one[0].host == socket.gethostname()
    one[0].send({"ended": 1})
    two[0].send({"ended": 2})
    assert [zero[1].wait(5), zero[2].wait(5)] == [{"ended": 1}, {"ended": 2}]
    zero[2].send("a")
    zero[2].send("b")
    time.sleep(0.05)  # both arrive together
    assert two[0].wait(5) == "a"
    assert two[0].taken() == ["b"]


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"config.train.batch_size": "32"}, "config.train.batch_size is 16 in process 0 and 32 in process 1"),
        ({"--workdir": "/runs/b"}, "--workdir is /runs/a in process 0 and /runs/b in process 1"),
        ({"packages.jax": "0.11"}, "packages.jax is 0.12 in process 0 and 0.11 in process 1"),
        ({"config.new": "1"}, "config.new is None in process 0 and 1 in process 1"),
    ],
)
def test_a_process_that_differs_is_refused_by_all_with_the_difference(address, changed, said):
    zero, one = together(address, (1, SAYS | changed))
    assert zero == one and said in zero


def test_another_number_of_processes_is_refused(address):
    zero, one = together(address, (1, SAYS, 3))
    assert zero == one and "the number of processes is 2 in process 0 and 3 in process 1" in zero


def test_two_processes_with_one_number_are_refused(address):
    zero, *others = together(address, (1, SAYS), (1, SAYS), number=3, seconds=2.0)
    assert "process 1 was started twice" in zero and zero in others


def test_the_missing_process_is_named(address):
    zero, one = together(address, (1, SAYS), number=4, seconds=2.0)
    assert zero == one and "processes 2, 3 of 4 did not start within 2 s" in zero


def test_a_process_that_ended_while_it_waited_is_missing(address):
    with ThreadPoolExecutor(2) as pool:
        zero = pool.submit(meet, Place(address, 3, 0), SAYS, 2.0)
        link = Link(dial(address))
        link.send({"resjax": 1, "number": 3, "host": "gone", "says": SAYS})
        link.close()
        two = pool.submit(meet, Place(address, 3, 2), SAYS, 2.0)
        for call in (zero, two):
            with pytest.raises(ValueError, match="process 1 of 3 did not start within 2 s"):
                call.result()


def test_without_process_0_the_others_say_so(address):
    with pytest.raises(ValueError, match=r"process 1 did not reach process 0 at localhost:\d+ within 0 s"):
        meet(Place(address, 2, 1), SAYS, 0.1)


def test_a_port_in_use_is_named(address):
    place = Place(address, 2, 0)
    said = f"can't listen at port {place.port}.*give all processes"
    with socket.create_server(("", place.port)), pytest.raises(ValueError, match=said):
        meet(place, SAYS, 1)


def test_strangers_are_passed_over(address):
    """Such as a scan of ports, and a browser."""
    place = Place(address, 2, 0)
    with ThreadPoolExecutor(1) as pool:
        zero = pool.submit(meet, place, SAYS, 10.0)
        for text in (b"", b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"\xff\n", b'{"resjax": 1}\n'):
            stranger = dial(address)
            stranger.sendall(text)
            stranger.close()
        meet(Place(address, 2, 1), SAYS, 10.0)
        assert set(zero.result()[0]) == {1}


def test_what_is_not_process_0_is_named(address):
    place = Place(address, 2, 1)

    def answer(server):
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.recv(65536)

    with socket.create_server(("localhost", place.port)) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        with pytest.raises(ValueError, match="is not process 0 of this run"):
            meet(place, SAYS, 5)


def test_the_system_closes_the_link_to_a_silent_host(address):
    link, _ = pair(address)
    with socket.socket(fileno=os.dup(link.fileno())) as copy:
        assert copy.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: idle time, then so many probes
            idle, every, count = (
                copy.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{name}"))
                for name in ("IDLE", "INTVL", "CNT")
            )
            assert idle + every * count == meeting.SILENCE
            assert copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * meeting.SILENCE


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_child_does_not_keep_the_link_open(address):
    zero, one = pair(address)
    hold, release = os.pipe()
    if (child := os.fork()) == 0:
        os.close(release)
        os.read(hold, 1)  # until the parent lets it go
        os._exit(0)
    try:
        os.close(hold)
        zero.close()
        assert select.select([one], [], [], 2)[0] == [one] and one.take() is None
    finally:
        os.close(release)
        os.waitpid(child, 0)


class Ended(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def exits(monkeypatch):
    """Statuses with which the watch would have ended this process."""
    statuses = []

    def leave(status):
        statuses.append(status)
        raise Ended

    monkeypatch.setattr(links.os, "_exit", leave)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(links.jax.distributed, "shutdown", lambda: None)
    monkeypatch.setattr(links, "_GRACE", 0.1)
    monkeypatch.setattr(links, "_MOMENT", 0.1)
    return statuses


def watch(own, link, other):
    one = Watch(own, 2, {other: link}, lambda: "It continues from step 6")
    one.start()
    return one


def until(condition):
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize("lost", [0, 1])
def test_the_end_of_the_other_process_ends_this_one(address, exits, capfd, lost):
    ends = pair(address)  # that of process 0, that of process 1
    watch(1 - lost, ends[1 - lost], lost)
    ends[lost].close()
    until(lambda: exits == [links.LOST])
    host = socket.gethostname()
    assert (
        capfd.readouterr().err == f"error: process {lost} of 2 on {host} was lost. It continues from step 6\n"
    )


def test_a_lost_process_ends_this_one_without_stderr_and_leaves_no_temporary_file(
    address, exits, monkeypatch, tmp_path
):
    def closed(*_):
        raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=closed, write=closed, flush=closed))
    monkeypatch.setattr(stopping, "os", SimpleNamespace(isatty=os.isatty, write=closed))
    zero, one = pair(address)
    with atomic.replacing(tmp_path / "runs.json") as temporary:
        temporary.touch()
        watch(0, zero, 1)
        one.close()
        until(lambda: exits == [links.LOST])
        assert not temporary.exists()
        temporary.touch()


def test_all_leave_together_after_success(address, exits):
    zero, one = pair(address)
    watches = [watch(0, zero, 1), watch(1, one, 0)]
    first = threading.Thread(target=watches[0].leave, args=(None,))
    first.start()
    first.join(0.3)
    assert first.is_alive()  # it waits for the other
    watches[1].leave(Stopped("SIGTERM"))
    first.join(10)
    zero.close()
    one.close()
    assert not first.is_alive() and exits == []


@pytest.mark.parametrize("failed", [0, 1])
def test_an_error_of_one_process_ends_the_other(address, exits, capfd, failed):
    ends = pair(address)
    watches = [watch(0, ends[0], 1), watch(1, ends[1], 0)]
    watches[failed].leave(OSError("the disk\nis full"))
    ends[failed].close()
    until(lambda: exits == [links.FAILED])
    assert (
        capfd.readouterr().err
        == f"error: process {failed} of 2 ended with an error: OSError: the disk is full\n"
    )


def test_an_error_of_all_processes_is_left_to_each(address, exits, monkeypatch):
    monkeypatch.setattr(links, "_GRACE", 0.3)
    monkeypatch.setattr(links, "_TICK", 0.05)
    zero, one = pair(address)
    watches = [watch(0, zero, 1), watch(1, one, 0)]
    watches[0].leave(FloatingPointError("not finite"))
    monkeypatch.setattr(links, "_MOMENT", 0.6)  # the news of process 0 arrives meanwhile
    watches[1].leave(FloatingPointError("not finite"))
    assert exits == []


def test_a_broken_sum_waits_for_the_process_that_was_lost(address, exits):
    """The error of a sum over devices may arrive before the news of the process that caused it."""
    zero, one = pair(address)
    own = watch(0, zero, 1)
    broken = ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer")
    leaving = threading.Thread(target=own.leave, args=(broken,), daemon=True)
    leaving.start()
    leaving.join(0.3)
    assert leaving.is_alive()
    one.close()
    until(lambda: exits == [links.LOST])
    leaving.join(0.2)
    assert leaving.is_alive()  # the error itself is never reported


def test_a_forwarded_connection_stays_open_when_the_other_end_is_gone():
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(("127.0.0.1", forward("127.0.0.1", server.getsockname()[1])))
        far, _ = server.accept()
        near.sendall(b"question")
        assert far.recv(100) == b"question"
        far.sendall(b"answer")
        assert near.recv(100) == b"answer"
        far.close()
    near.settimeout(0.2)
    with pytest.raises(TimeoutError):
        near.recv(100)
    near.sendall(b"more")
    near.close()


@pytest.mark.parametrize(
    "address, number, own",
    [("host", "2", "0"), ("host:0", "2", "0"), ("host:port", "2", "0"), ("host:1", "two", "0"),
     ("host:1", "2", "2"), ("host:1", "2", "-1"), ("host:1", "0", "0")],
)  # fmt: skip
def test_variables_of_wrong_values_are_named(monkeypatch, address, number, own):
    values = zip(processes._VARIABLES, (address, number, own), strict=True)
    for name, value in values:
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"JAX_COORDINATOR_ADDRESS={address} |JAX_PROCESS_ID={own} "):
        processes.joined(configs.default("resnet"), "runs/none").__enter__()


def test_slurm_tells_the_place(monkeypatch):
    for name, value in {"JOB_ID": "7", "STEP_NODELIST": "node[3-5]", "NTASKS": "3", "PROCID": "2",
                        "LOCALID": "0", "STEP_NUM_NODES": "3"}.items():  # fmt: skip
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert processes._place(False) is None
    place = processes._place(True)
    assert (place.host, place.number, place.own) == ("node3", 3, 2) and place.port > 1023


def test_a_wish_that_nothing_fulfils_is_refused(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "TPU_"))]:
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match="no TPU pod and no job of Slurm or MPI"):
        processes._place(True)


def test_the_remedy_names_the_step(tmp_path):
    assert processes._remedy(tmp_path).endswith("starts again from step 0")
    for name in ("0", "6", "9.incomplete"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert processes._remedy(tmp_path) == "The same command on all hosts continues from step 6"


def test_the_remedy_needs_no_storage(tmp_path, monkeypatch):
    def lost(self):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Checkpoints, "steps", property(lost))
    assert processes._remedy(tmp_path) == "The same command on all hosts continues from the newest checkpoint"


def test_decoding_workers_may_differ_between_hosts():
    config = configs.default("resnet")
    says = processes._says(config, "runs/a")
    assert says["config.train.batch_size"] == str(config.train.batch_size)
    assert says["packages.jax"] and says["--workdir"] == os.path.abspath("runs/a")
    config.data.workers = 7
    assert processes._says(config, "runs/a") == says
