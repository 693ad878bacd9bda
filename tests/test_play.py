"""The page on which networks are taken apart: it has the numbers of public functions, and a safe server."""

import contextlib
import copy
import dataclasses
import io
import itertools
import json
import signal
import threading
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from network_helpers import logits_of
from play_helpers import served
from run_helpers import tiny_run

from resjax import models
from resjax.analysis import lesion, load_run, path_spectrum
from resjax.play import server, walk
from resjax.play.__main__ import _check_alike
from resjax.play.as_python import as_python
from resjax.play.live import Live, Sizes, Stopped
from resjax.play.pictures import pictures
from resjax.play.state import State, Wrong, read
from resjax.studies.given import load_network

EXAMPLES = 24


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Five units: one and two equal ones of stage 1, and two of stage 2, of which one changes the shape."""
    path = tmp_path_factory.mktemp("play") / "residual"
    tiny_run(path)
    return load_run(path)


@pytest.fixture(scope="module")
def live(run):
    return Live(run, Sizes(EXAMPLES, 10))


def state(live, reestimated=False, order=None, **gates):
    """``state(live, u1=0)``: unit 1 is off."""
    n = live.network.num_units
    values = [gates.get(f"u{i}", 1.0) for i in range(n)]
    return State(tuple(values), tuple(order or range(n)), reestimated)


# --- numbers ---


def test_a_deletion_has_the_numbers_of_lesion(run, live):
    result = lesion(*run.evaluation(EXAMPLES), loss=run.loss, per_class=True)
    for unit in range(live.network.num_units):
        found = live.measure(state(live, **{f"u{unit}": 0.0}))
        for name in ("error", "loss", "kl", "agreement"):
            np.testing.assert_allclose(found[name], getattr(result, name)[unit], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.array(found["class_error"], float), result.class_error[unit], atol=1e-7)
        assert found["branch"][unit] == 0 and all(
            0 < b < 1 for i, b in enumerate(found["branch"]) if i != unit
        )
    assert len({live.measure(state(live, **{f"u{u}": 0.0}))["loss"] for u in range(5)}) == 5


@pytest.mark.parametrize(("kept", "stride"), [(walk.KEPT, 1), (3 * 2**15, 2), (1, 5)])
def test_states_of_the_pass_before_change_no_number(run, kept, stride, monkeypatch):
    monkeypatch.setattr(walk, "KEPT", kept)
    own, rows = Live(run, Sizes(EXAMPLES, 10)), []
    step = walk._step
    monkeypatch.setattr(walk, "_step", lambda *given: rows.append(1) or step(*given))
    batches = len(own._batches)
    assert own._walks[0]._stride == stride
    network, variables, images, _ = run.evaluation(EXAMPLES)
    swapped = [0, 2, 1, 3, 4]
    ways = [({"u3": 0.0}, 3), ({"u3": 0.0, "u4": 0.5}, 4), ({"u4": 0.5}, 3), ({"order": swapped}, 1),
            ({"order": swapped}, 5), ({}, 1), ({"reestimated": True}, 0), ({"u0": 0.0}, 0)]  # fmt: skip
    for change, first in ways:  # the first unit that differs from the pass before
        rows.clear()
        now = state(own, **change)
        found = own.measure(now)
        assert len(rows) == batches * (5 - (first // stride * stride if first < 5 else 5))
        variables = own._variables(now)
        logits = logits_of(network, variables, images, gates=now.gate_array, order=now.order_array)
        loss = run.loss(logits, run.evaluation(EXAMPLES)[3]).mean()
        np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)


def test_an_intact_network_agrees_with_itself(run, live):
    found = live.measure(State.intact(5))
    assert (found["kl"], found["agreement"], found["changed"], found["some"]) == (0, 1, 0, [])
    assert found["between"][0] < found["error"] < found["between"][1]


@pytest.mark.parametrize("change", [{}, {"u1": 0.0, "u4": 0.5}, {"order": [0, 2, 1, 3, 4], "u1": 1.5},
                                    {"reestimated": True, "u1": 0.0, "order": [0, 2, 1, 3, 4]}])  # fmt: skip
def test_the_lines_of_python_print_what_the_page_shows(live, change):
    own = state(live, **change)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(as_python(live, own), {})
    words = printed.getvalue().split()
    found = live.measure(own)
    assert [words[0], words[2]] == ["error", "loss"]
    np.testing.assert_allclose([float(words[1]), float(words[3])], [found["error"], found["loss"]], rtol=2e-5)


def test_the_lines_of_python_allow_the_code_of_a_run(live):
    own, config = copy.copy(live), live.subject.config.copy_and_resolve_references()
    config.model.name = "mine.nets:make"
    experiment = dataclasses.replace(live.subject.experiment, config=config)
    own.subject = dataclasses.replace(live.subject, experiment=experiment)
    assert ", allow_code='mine.nets:make')" in as_python(own, State.intact(5))
    assert "allow_code" not in as_python(live, State.intact(5))


def test_the_answers_that_changed_are_those_that_differ(run, live):
    own = state(live, u0=0.0, u3=0.0)
    network, variables, images, labels = run.evaluation(EXAMPLES)
    before, now = (
        np.argmax(network.apply(variables, images, gates=gates).logits, -1)
        for gates in (None, np.array(own.gates))
    )
    found = live.measure(own)
    assert found["changed"] == (before != now).sum() > 0
    for one in found["some"]:
        i = one["example"]
        assert (one["label"], one["before"], one["now"]) == (labels[i], before[i], now[i])
        assert one["picture"].startswith("data:image/png;base64,")


def test_the_paths_that_are_left(live):
    paths = live.measure(state(live, u0=0.0, u3=0.0))["paths"]
    assert paths["length"] == [0, 1, 2, 3, 4, 5]
    left = [None if x is None else round(10**x) for x in paths["log10"]]
    assert left == [1, 3, 3, 1, None, None]


@pytest.mark.slow
def test_the_gradient_is_that_of_the_changed_network(run, live):
    own = state(live, u1=0.0, u2=0.5, order=[0, 2, 1, 3, 4])
    found = live.gradient(own)
    network, variables, images, labels = run.evaluation(EXAMPLES)

    def mean(x):
        logits = network.apply(variables, x, gates=own.gate_array, order=own.order_array).logits
        return run.loss(logits, labels).mean()

    changed = {"gates": own.gate_array, "order": own.order_array}
    exact = path_spectrum(network, variables, images, labels, **changed, batch_size=EXAMPLES)
    np.testing.assert_allclose(exact.total, np.linalg.norm(jax.grad(mean)(images)), rtol=1e-4)
    np.testing.assert_allclose(found["share"], exact.share[0], rtol=1e-5)
    assert found["share"][5] == 0 < found["share"][4]  # no path crosses a branch that is deleted


def test_paths_of_units_with_a_factor_but_no_shortcut_are_not_sorted(tmp_path):
    tiny_run(tmp_path / "plain", shortcut="none")
    plain = Live(load_run(tmp_path / "plain"), Sizes(8, 8))
    assert plain.measure(state(plain, u1=0.0))["paths"]["log10"] == [None, None, None, None, 0, None]
    assert plain.measure(state(plain, u1=0.5))["paths"]["log10"] == [None, None, None, None, 0, 0]
    with pytest.raises(Wrong, match="without a shortcut whose branch has a factor"):
        plain.gradient(state(plain, u1=0.5))
    assert plain.gradient(state(plain))["share"] == [1]


def test_the_greedy_order_has_each_unit_once(live):
    assert sorted(live.greedy_order) == [0, 1, 2, 3, 4]


def test_answers_at_positions_that_do_not_count_do_not_change():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(6, 4, 3)).astype(np.float32), rng.normal(size=(2, 3, 3)).astype(np.float32)

    def fn(v, x):
        for own in v:
            x = x + jax.nn.tanh(x @ own)
        return x

    labels = np.zeros((6, 4), int)
    found = {}
    for name, counted in (("all", 4), ("first", 1)):
        labels[:, counted:] = -1
        tokens = Live(
            load_network({"fn": fn, "variables": list(w), "inputs": x, "labels": labels}), Sizes(6, 4)
        )
        off = State((0.0, 1.0), (0, 1))
        found[name] = tokens.measure(off)
        differs = np.argmax(fn(w, x), -1) != np.argmax(fn(w[1:], x), -1)
        assert found[name]["changed"] == differs[:, :counted].any(1).sum()
        assert found[name]["some"] == []
    assert found["first"]["changed"] < found["all"]["changed"]
    assert found["first"]["agreement"] == 1 - found["first"]["changed"] / 6


def test_pictures_have_the_whole_range_and_whole_factors():
    images = np.linspace(-1, 3, 2 * 8 * 8).reshape(2, 8, 8, 1).astype(np.float32)
    first, last = pictures(images, np.array([0, 1]))
    assert first != last and pictures(np.zeros((2, 5)), np.array([0])) == [None]


# --- states ---


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "a state is an object"),
        ({"gates": [1] * 4}, "gates must be 5 numbers"),
        ({"gates": [1, 1, True, 1, 1]}, "gates must be 5 numbers"),
        ({"gates": [1, 1, 2.5, 1, 1]}, "the factor of stage1/unit3 is 2.5; allowed: 0 to 2"),
        ({"gates": [1, 1, float("nan"), 1, 1]}, "allowed: 0 to 2"),
        ({"gates": [1, 1, 10**400, 1, 1]}, "allowed: 0 to 2"),  # more than a float holds
        ({"order": [0, 0, 1, 2, 3]}, "each of the units 0 to 4 once"),
        ({"order": [3, 1, 2, 0, 4]}, "only equal units can be exchanged"),
        ({"reestimated": 1}, "allowed: true or false"),
    ],
)
def test_what_is_no_state_is_told(live, given, said):
    with pytest.raises(Wrong, match=said):
        read(given, live.network, live.subject.deletable, True)


def test_what_can_not_be_deleted_or_re_estimated_stays(live):
    with pytest.raises(Wrong, match="stage2/unit1 changes the shape"):
        read({"gates": [1, 1, 1, 0, 1]}, live.network, np.arange(5) != 3, True)
    with pytest.raises(Wrong, match="no statistics of BatchNorm"):
        read({"reestimated": True}, live.network, np.ones(5, bool), False)


def test_runs_of_another_structure_are_told_before_anything_is_compiled():
    deep, wide = (
        SimpleNamespace(
            network=models.build(
                models.defaults("resnet", stage_sizes=sizes, widths=(4, 8)),
                image_shape=(8, 8, 1),
                num_classes=3,
            )
        )
        for sizes in ((3, 2), (2, 2))
    )
    _check_alike([deep, deep])
    with pytest.raises(ValueError, match="the runs have 5 and 4 units"):
        _check_alike([deep, wide])


# --- the server ---


@pytest.fixture(scope="module")
def address(live):
    with served([live]) as own:
        yield own


def ask(address, path="/ask/measure", data=b"{}", **headers):
    headers = {"X-Token": "token", **{name.replace("_", "-"): value for name, value in headers.items()}}
    request = urllib.request.Request(address + path, data, headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_page_needs_its_token(address):
    status, page = ask(address, "/?token=token", data=None)
    assert status == 200 and "const GIVEN = {" in page
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")  # nothing from elsewhere
    assert ask(address, "/", data=None)[0] == ask(address, "/?token=other", data=None)[0] == 403
    assert ask(address, X_Token="other")[0] == 403


def test_other_pages_are_refused(address):
    status, text = ask(address, Origin="http://other.example")
    assert status == 403 and "http://other.example may not use this server" in text
    body = json.dumps({"state": {}}).encode()
    assert ask(address, data=body, Origin=address)[0] == 200


@pytest.mark.parametrize(
    ("path", "data", "status", "said"),
    [
        ("/ask/measure", b"{", 400, "no JSON"),
        ("/ask/measure", b"[" * 90_000, 400, "no JSON"),
        ("/ask/measure", b"[]", 400, "JSON object"),
        ("/ask/measure", b"{}", 400, "a state is an object"),
        ("/ask/measure", b" " * 200_000, 400, "100,000 bytes"),
        ("/ask/other", b"{}", 404, "questions are measure"),
        ("/ask/..%2f..%2fetc%2fpasswd", b"{}", 404, ""),
        ("/etc/passwd", b"{}", 404, ""),
    ],
)
def test_bad_requests_are_answered_and_the_server_goes_on(address, path, data, status, said):
    found, text = ask(address, path, data)
    assert found == status and said in text
    assert ask(address, data=json.dumps({"state": {"gates": [0, 1, 1, 1, 1]}}).encode())[0] == 200


def test_a_taken_port_is_followed_by_the_next():
    first = server.bound("127.0.0.1", 8450)  # nobody is answered there yet
    second = server.bound("127.0.0.1", 8450)
    ports = [own.getsockname()[1] for own in (first, second)]
    for own in (first, second):
        own.close()
    assert ports[0] < ports[1]


def test_a_host_of_another_machine_is_told():
    with pytest.raises(OSError, match=r"--host=192.0.2.1 --port=8450: .*; name an address of this machine"):
        server.bound("192.0.2.1", 8450)


def test_an_error_of_a_measurement_is_no_unknown_question(address, monkeypatch, capsys):
    def fails(live, own):
        raise KeyError("head")

    monkeypatch.setattr(Live, "measure", fails)
    status, text = ask(address, data=json.dumps({"state": {}}).encode())
    assert status == 500 and "KeyError: 'head'" in text
    assert "Traceback" in capsys.readouterr().err


def test_a_signal_ends_what_runs(live):
    other = copy.copy(live)
    other._stopped = threading.Event()
    other.__dict__.pop("greedy_order", None)
    server.Server(server.app([other], "token")).handle_exit(signal.SIGTERM, None)
    intact = state(live)
    long = [lambda: other.greedy_order, lambda: other.gradient(intact), lambda: other._reestimated(intact),
            lambda: other.measure(intact)]  # fmt: skip
    for measurement in long:
        with pytest.raises(Stopped):
            measurement()


def test_an_answer_that_can_not_be_stopped_does_not_keep_the_server(live, monkeypatch):
    other, begun, go, answers = copy.copy(live), threading.Event(), threading.Event(), []
    other._stopped = threading.Event()
    own, socket = server.Server(server.app([other], "token")), server.bound("127.0.0.1", 8470)
    monkeypatch.setattr(Live, "measure", lambda *_: begun.set() or go.wait())
    running = threading.Thread(target=own.run, kwargs={"sockets": [socket]})
    running.start()
    while not own.started:
        time.sleep(0.01)
    address = f"http://127.0.0.1:{socket.getsockname()[1]}"
    asking = threading.Thread(target=lambda: answers.append(ask(address, data=b'{"state": {}}')))
    asking.start()
    begun.wait()
    start = time.monotonic()
    own.handle_exit(signal.SIGTERM, None)
    running.join()
    seconds = time.monotonic() - start
    go.set()
    asking.join()
    assert seconds < 4
    assert answers == [(503, '{"wrong":"the command has ended"}')]


def test_a_label_can_not_leave_the_script():
    page = server._page([{"label": "</script><!--<script>"}], "token")
    assert page.count("<script") == page.count("</script") == 1 and "<!--" not in page


def test_of_the_questions_that_wait_the_newest_is_answered():
    newest, started, go = server.Newest(), threading.Event(), threading.Event()
    done, waiting = [], itertools.count()

    def slow():
        started.set()
        go.wait()
        return "first"

    def asked(function):
        next(waiting)
        with contextlib.suppress(server.Replaced):
            done.append(newest.run(function))

    threads = [threading.Thread(target=asked, args=[slow])]
    threads[0].start()
    started.wait()
    for name in ("second", "third"):
        threads.append(threading.Thread(target=asked, args=[lambda name=name: name]))
        threads[-1].start()
        while newest._last < len(threads):
            pass
    go.set()
    for thread in threads:
        thread.join()
    assert done == ["first", "third"]
