"""Three seeds of two kinds of network as groups: the script, and what it recorded."""

import json
import re

import numpy as np
import pytest
from scipy import stats
from script_helpers import REPOSITORY, load_script

from resjax import config as configs

SCRIPTS = REPOSITORY / "docs/results"
SEEDS = load_script("docs/results/seeds.py")


def test_runs_of_one_kind_differ_in_their_seed_only():
    config = SEEDS.config_of("residual", 0)
    assert configs.differences(config, SEEDS.config_of("residual", 2)) == ["seed: 0 → 2"]
    changed = configs.differences(config, SEEDS.config_of("plain", 0))
    assert changed == ["model.shortcut: 'identity' → 'none'"] and config.model.depth == 20


def test_what_is_recorded_of_groups_follows_from_their_seeds():
    studies = json.loads((SCRIPTS / "seeds.json").read_text("utf-8"))["studies"]

    def of(study, field, kind):
        return np.array([r[field] for label, r in studies[study]["seeds"].items() if label.startswith(kind)])

    errors = {kind: of("curves", "test_error", kind) for kind in SEEDS.KINDS}
    assert {kind: len(own) for kind, own in errors.items()} == {"residual": 3, "plain": 3}
    low, high = stats.ttest_ind(errors["plain"], errors["residual"], equal_var=False).confidence_interval()
    (gap,) = [point for point in studies["curves"]["points"] if "Welch" in point]
    told = [float(n) for n in re.findall(r"-?\d+\.\d", gap)]
    assert told[1:] == pytest.approx([100 * low, 100 * high], abs=0.06)
    assert ("undecided" in studies["curves"]["finding"]) == (low < 0 < high)
    may_go = of("lesion", "may_go", "residual")
    mean = studies["lesion"]["summary"]["residual"]["units that may go"]
    assert float(re.match(r"[\d.]+", mean)[0]) == pytest.approx(may_go.mean(), abs=0.06)
