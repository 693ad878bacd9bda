"""Real files with random damage: each is read right or refused (``fuzz_files``)."""

import os
import subprocess
import sys

import numpy as np
import pytest
from fuzz_files import KINDS, mutated
from script_helpers import REPOSITORY, environment


def fuzz(tmp_path, kinds, mutations, seed):
    """What the script prints."""
    script = REPOSITORY / "tests" / "fuzz_files.py"
    given = (f"--kinds={kinds}", f"--mutations={mutations}", f"--seed={seed}", f"--keep={tmp_path / 'found'}")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, *given], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="limits memory as Linux does")
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_right_or_refused(tmp_path, kind):
    printed = fuzz(tmp_path, kind, 60, 2)
    assert "60 mutations, 0 wrong" in printed
    assert "'refused'" in printed or kind == "metrics"  # of that, other lines are read


@pytest.mark.parametrize("kind", KINDS)
def test_most_mutations_change_the_file(tmp_path, kind):
    path = tmp_path / KINDS[kind].name
    KINDS[kind].make(path)
    content = path.read_bytes()
    changed = [mutated(content, np.random.default_rng([0, n])) for n in range(20)]
    assert sum(one != content for one in changed) > 10
    again = mutated(content, np.random.default_rng([0, 3]))
    assert again == changed[3]
