"""Scripts of docs/results: the networks that they would train, without training them."""

import json

import jax
import numpy as np
import pytest
from script_helpers import REPOSITORY, load_script, recorded

from resjax import config as configs
from resjax.report import compare
from resjax.studies.catalogue import CLAIMS as ALL_CLAIMS
from resjax.studies.catalogue import STUDIES
from resjax.studies.judged import all_of
from resjax.studies.lesions.deletions_result import Deletions
from resjax.studies.units.responses import Responses
from resjax.training.experiment import load_experiment

SCRIPTS = REPOSITORY / "docs/results"


CLAIMS = load_script("docs/results/claims.py")
CUT_MAPS = load_script("docs/results/cut_maps.py")
CUT_PRETRAINED = load_script("docs/results/cut_pretrained.py")
TOLERANCES = load_script("docs/results/tolerances.py")


def test_the_page_of_claims_is_made_from_its_data():
    page = (SCRIPTS / "claims.md").read_text("utf-8")
    assert page == CLAIMS.page(), "python docs/results/claims.py writes it anew"


def test_the_table_of_maps_is_made_from_its_data():
    rows = json.loads((SCRIPTS / "cut_maps.json").read_text("utf-8"))["rows"]
    page = (REPOSITORY / "docs/cut.md").read_text("utf-8")
    assert f"\n\n{CUT_MAPS.table(rows)}\n\n" in page, "docs/results/cut_maps.py prints it"


def test_the_table_of_pretrained_networks_that_were_cut_is_made_from_its_data():
    kept = json.loads((SCRIPTS / "cut_pretrained.json").read_text("utf-8"))
    page = (REPOSITORY / "docs/cut.md").read_text("utf-8")
    assert f"\n\n{CUT_PRETRAINED.table(kept)}\n\n" in page, "docs/results/cut_pretrained.py prints it"


def test_each_claim_is_one_row_with_known_verdicts_and_all_its_limits_are_told():
    claims = CLAIMS.claims()
    assert [claim["row"] for claim in claims] == list(range(1, len(claims) + 1))
    for claim in claims:
        for trial in claim["found"]:
            assert trial["verdict"] in CLAIMS.VERDICTS and trial["setting"] in CLAIMS.SETTINGS, claim["row"]
            assert trial["n"] and trial["measured"] and trial["where"], claim["row"]
        for name, number in claim["limits"].items():
            changed = [n + 1 for n in number] if isinstance(number, list) else f"{number} or so"
            other = claim | {"limits": claim["limits"] | {name: changed}}
            if isinstance(number, int) and ":," in claim["shown_if"]:
                continue
            assert CLAIMS.criterion(other) != CLAIMS.criterion(claim), (claim["row"], name)


JUDGED = [(claim["row"], trial) for claim in CLAIMS.claims() for trial in claim["found"] if "judged" in trial]


@pytest.mark.parametrize(("row", "trial"), JUDGED, ids=lambda v: v if isinstance(v, int) else v["on"])
def test_a_verdict_of_the_table_is_that_of_its_criteria(row, trial):
    folder, network, number, *begins = trial["judged"]
    assert number == str(row)
    record = json.loads((SCRIPTS / folder / "tolerances.json").read_text("utf-8"))[network][number]
    chosen = [c for name, c in record.items() if name.startswith(tuple(begins) or "")]
    verdicts = [c["verdict"] for c in chosen if "verdict" in c]
    said = {"met": "shown", "missed": "contradicted", "undecided": "undecided"}
    assert verdicts and trial["verdict"] == said[all_of(verdicts)]


RECORDED = [trial for claim in CLAIMS.claims() for trial in claim["found"] if "recorded" in trial]


@pytest.mark.parametrize("trial", RECORDED, ids=lambda trial: "-".join(trial["recorded"]))
def test_a_verdict_in_kind_is_that_of_its_file(trial):
    file, row = trial["recorded"]
    judged = json.loads((SCRIPTS / f"{file}.json").read_text("utf-8"))["judged"][row]
    assert trial["verdict"] == judged["verdict"]
    assert f"{len(_seeds_of(judged))} seeds" in trial["n"]


def _seeds_of(judged):
    """The values of the seeds behind the first number of a verdict."""
    if "each" in judged:
        return judged["each"]
    return next(found for one in judged.values() if isinstance(one, dict) and (found := _seeds_of(one)))


@pytest.mark.parametrize("folder", ["veit110_short", "pretrained"])
def test_recorded_verdicts_follow_from_recorded_studies_and_the_limits_of_claims_json(folder):
    record = json.loads((SCRIPTS / folder / "tolerances.json").read_text("utf-8"))
    assert json.loads(json.dumps(TOLERANCES.tolerances(SCRIPTS / folder))) == recorded(record)


@pytest.mark.slow
def test_a_limit_of_claims_json_decides(monkeypatch):
    """The median rise of the shorter training is 0.78 points, and its interval reaches from 0.4 to 1.1."""
    name, verdicts = "median rise where the shape stays, points", []
    for most in (1.5, 1, 0.3):
        monkeypatch.setitem(TOLERANCES.LIMITS[2], "median", most)
        found = TOLERANCES.tolerances(SCRIPTS / "veit110_short")["veit110"]["2"][name]
        assert found["allowed"] == f"≤ {most}"
        verdicts.append(found["verdict"])
    assert verdicts == ["met", "undecided", "missed"]


def deletions_of(median, sets, rng, units=54):
    """``sets`` random sets of each size, whose errors scatter around ``median`` as in a ResNet-110."""
    number = np.repeat(np.arange(1, len(median)), sets)
    scatter = 0.35 * median[number] + 0.02
    error = np.clip(median[number] + scatter * rng.standard_normal(len(number)), 0, 0.9)
    return Deletions(
        unit=tuple(map(str, range(units))),
        deleted=np.arange(units) < number[:, None],
        **dict.fromkeys(("loss", "kl", "agreement"), error),
        error=error,
        left_out={},
        num_classes=10,
        intact_error=float(median[0]),
        intact_loss=0.0,
        num_examples=500,
    )


@pytest.mark.slow
def test_a_smooth_rise_is_not_called_missed_because_few_sets_were_drawn():
    """The largest of twenty steps of medians over 30 sets is far above the largest true step, 9.6 points."""
    k, rng = np.arange(21), np.random.default_rng(0)
    median = 0.09 + 0.71 / (1 + np.exp(-(k - 10) * 0.56))
    assert 0.09 < np.diff(median).max() < 0.097
    name = "largest step of the median from k to k + 1"
    few = [TOLERANCES.many_deletions(deletions_of(median, 30, rng))[name] for _ in range(8)]
    assert np.mean([found["measured"] > 0.15 for found in few]) > 0.5
    assert [found["verdict"] for found in few].count("missed") <= 1
    many = TOLERANCES.many_deletions(deletions_of(median, 500, rng))[name]
    assert many["verdict"] == "met"
    jump = np.where(k < 10, 0.09, 0.7)
    assert TOLERANCES.many_deletions(deletions_of(jump, 30, rng))[name]["verdict"] == "missed"


@pytest.mark.parametrize("part", ["branch_variance", "shattering"])
def test_networks_at_initialization_were_judged_by_the_limits_of_claims_json(part):
    limits = load_script("docs/results/at_init.py").LIMITS
    recorded = json.loads((SCRIPTS / f"at_init_{part}.json").read_text("utf-8"))
    assert json.loads(json.dumps(limits)) == recorded["limits"]


@pytest.mark.parametrize(
    ("file", "claim"),
    [
        ("sample_size_fashion_mnist", "sample_size"),
        ("activations_cifar10", "activations"),
        *((name, name) for name in load_script("docs/results/claim.py").NAMES),
    ],
)
def test_a_recorded_finding_is_what_its_numbers_say(file, claim):
    record, study = json.loads((SCRIPTS / f"{file}.json").read_text("utf-8")), ALL_CLAIMS[claim]
    results = {k: study.result.from_json(r) for k, r in record["results"].items()}
    said = compare.finding(study, results)
    assert record["finding"] == [said.headline, *said.points]


STUDY_FILES = [
    path for path in sorted(SCRIPTS.rglob("*.json")) if "study" in json.loads(path.read_text("utf-8"))
]


@pytest.mark.parametrize("path", STUDY_FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recorded_studies_are_read_back_and_have_a_finding(path):
    record = json.loads(path.read_text("utf-8"))
    study = STUDIES[record["study"]]
    results = {label: study.result.from_json(run["result"]) for label, run in record["runs"].items()}
    assert compare.finding(study, results).headline


CONTROLS = load_script("docs/results/digits_controls.py")


@pytest.mark.parametrize("name", CONTROLS.CONTROLS)
def test_controls_differ_in_what_they_say(name):
    full, config = CONTROLS.config_of("full", 3), CONTROLS.config_of(name, 3)
    assert config.seed == 3
    changed = {line.split(":")[0] for line in configs.differences(full, config)}
    if "model" not in CONTROLS.CONTROLS[name]:
        assert changed <= set(CONTROLS.CONTROLS[name]) and (changed or name == "full")
    else:
        assert {field for field in changed if not field.startswith("model.")} <= {"optimizer.learning_rate"}
    network = load_experiment(config).task.network
    shape = (8, 8, 1)
    variables = jax.eval_shape(lambda key: network.init(key, shape), jax.random.key(0))
    normalized = bool(variables.get("batch_stats"))
    assert normalized == (name not in ("plain_no_norm", "veit15"))
    assert network.deletable(variables, shape).sum() >= network.num_units - 2
    residual = any(stack.unit.residual for stack in network.stacks)
    assert residual == (name in ("full", "stochastic", "effective"))
    if name == "effective":
        np.testing.assert_allclose(network.unit_dropout.at_test(), 4 / 9)


def responses_file(folder, networks):
    """What a report holds of networks {label: (depth, residual, level)}."""
    runs = {}
    for label, (depth, residual, level) in networks.items():
        n = depth - 1
        result = Responses(
            layer=tuple(f"layer{i}" for i in range(n)),
            normalized=np.arange(n) > 0,
            std=np.where(np.arange(n) > 0, level, 100.0),
            residual=residual,
            num_examples=10,
            choices={},
        )
        runs[label] = {"result": result.to_json()}
    (folder / "responses.json").write_text(json.dumps({"study": "responses", "runs": runs}))


SEEDS = (-0.02, 0.0, 0.02)


def several(label, depth, residual, level):
    """Three seeds whose responses differ a little."""
    return {f"{label}{i}": (depth, residual, level + more) for i, more in enumerate(SEEDS)}


@pytest.mark.parametrize(
    ("levels", "verdicts"),
    [
        ({(20, True): 0.7, (56, True): 0.4, (110, True): 0.3}, ["met", "met"]),
        ({(20, True): 0.7, (56, True): 0.4, (110, True): 0.5}, ["met", "missed"]),
        ({(20, True): 0.7, (56, True): 0.69}, ["undecided"]),
        ({(20, True): 0.7, (20, False): 0.9, (56, False): 0.2}, ["met"]),
        ({(20, True): 0.7, (20, False): 0.6, (56, True): 0.4}, ["missed", "met"]),
        # Depths that the row does not name are compared with their plain twins only.
        ({(20, True): 0.7, (44, True): 0.9, (44, False): 0.8}, ["missed"]),
    ],
)
def test_row_15_compares_networks_over_seeds(tmp_path, levels, verdicts):
    networks = {}
    for (depth, residual), level in levels.items():
        networks |= several(f"{'residual' if residual else 'plain'}{depth}_", depth, residual, level)
    responses_file(tmp_path, networks)
    found = TOLERANCES.tolerances(tmp_path)["all"]["15"]
    medians = {label: pytest.approx(level, abs=1e-3) for label, (_, _, level) in networks.items()}
    assert found.pop("median response")["measured"] == medians
    assert [one["verdict"] for one in found.values()] == verdicts


def test_row_15_is_undecided_with_one_network_of_each_kind(tmp_path):
    responses_file(tmp_path, {"a": (20, True, 0.7), "b": (56, True, 0.2)})
    (_, found) = TOLERANCES.tolerances(tmp_path)["all"]["15"].values()
    assert found["verdict"] == "undecided" and found["interval"] == [None, None]
