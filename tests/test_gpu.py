"""What an accelerator computes, beside the CPU; all other tests run on the CPU."""

import os

import jax
import pytest
from script_helpers import load_script

COMMAND = "RESJAX_ACCELERATOR=1 python -m pytest -m gpu tests/test_gpu.py"


@pytest.mark.gpu
@pytest.mark.skipif(not os.environ.get("RESJAX_ACCELERATOR"), reason=f"needs an accelerator: {COMMAND}")
def test_one_step_of_every_network_agrees_with_the_cpu():
    assert jax.devices()[0].platform != "cpu", "RESJAX_ACCELERATOR is set, and JAX sees only the CPU"
    script = load_script("launch/accelerator.py")
    rows = script.compare()
    assert len(rows) == len(script.NETWORKS) * len(script.TOLERANCE)
    apart = [f"{r['network']}, {r['dtype']}: {r['relative difference']}" for r in rows if not r["agree"]]
    assert not apart
