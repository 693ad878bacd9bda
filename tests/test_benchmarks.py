"""Benchmarks are run by hand; here they are imported, so that no name in them is of yesterday.

Slow tests also run the one that has contenders in processes of their own, as small as it can be.
"""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from script_helpers import environment

FOLDER = Path(__file__).parent.parent / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if "torch" not in path.stem)


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_imported(name, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    importlib.import_module(name)


@pytest.mark.slow
@pytest.mark.parametrize("together", [True, False])
def test_contenders_take_turns_and_leave_their_numbers(tmp_path, together):
    found = tmp_path / "found.json"
    command = [sys.executable, FOLDER / "train_step.py", "--networks", "8", "8:bfloat16"]
    command += ["--contenders", "resjax", "stock", "--batch", "4", "--rounds", "2", "--steps", "1"]
    command += ["--json", found] + ["--together"] * together
    env = environment()  # eight devices would not share four images
    subprocess.run(command, check=True, capture_output=True, env=env)
    rows = json.loads(found.read_text())["rows"]
    assert [(row["network"], row["dtype"]) for row in rows] == [("8", "float32"), ("8", "bfloat16")]
    for row in rows:
        resjax, stock = row["resjax"]["rounds"], row["stock"]["rounds"]
        assert len(resjax) == len(stock) == 2 and min(resjax + stock) > 0
        low, high = row["stock"]["range"]
        assert low <= row["stock"]["ratio"] <= high


@pytest.mark.slow
def test_discovery_is_measured_beside_the_function(tmp_path):
    found = tmp_path / "found.json"
    command = [sys.executable, FOLDER / "discover.py", "--smoke", "--json", found]
    subprocess.run(command, check=True, capture_output=True, env=environment())
    rows = json.loads(found.read_text())["rows"]
    assert [(row["network"], row["units"], row["classes"]) for row in rows] == [
        ("ResNet-14", 4, 4),
        ("ViT, 2 layers", 4, 2),
    ]
    for row in rows:
        for ratios in row["ratios"].values():
            assert len(ratios) == 3 and all(one["median"] > 0 for one in ratios.values())
        assert row["seconds"]["n + 1 calls"][0]["wall"] < row["first lesion"]["wall"]  # which compiles


@pytest.mark.slow
def test_cut_networks_take_turns(tmp_path):
    found = tmp_path / "found.json"
    command = [
        sys.executable,
        FOLDER / "cut.py",
        "--depth",
        "14",
        "--every",
        "1",
        "--batch",
        "2",
        "--step",
        "2",
    ]
    subprocess.run(
        [*command, "--rounds", "2", "--json", found], check=True, capture_output=True, env=environment()
    )
    record = json.loads(found.read_text())
    assert (
        record["gone"] == [0, 1, 2, 3, 4] and record["multiply_adds"] == sorted(record["multiply_adds"])[::-1]
    )
    for row in record["rows"].values():
        assert [len(own) for own in row["seconds"]] == [2] * 5 and "straight line" in row["told"]
