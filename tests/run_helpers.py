"""Tiny runs on disk, as if after some steps; training itself would take longer than all the rest."""

import jax
import jax.numpy as jnp
from network_helpers import draw

from resjax import config as configs
from resjax.analysis import load_run
from resjax.studies.run import Run
from resjax.training.checkpoint import Checkpoints
from resjax.training.experiment import load_experiment
from resjax.workdir.workdir import claim


def experiment_file(folder, **fields):
    """A file for ``--config``: a small residual network on 200 digits; '__' stands for the dot of a field."""
    usual = {"data__pad": 1, "data__train_examples": 200, "train__batch_size": 16}
    lines = [f"    c.{name.replace('__', '.')} = {value!r}" for name, value in {**usual, **fields}.items()]
    path = folder / "experiment.py"
    path.write_text(
        "from resjax import config as configs\n\n\ndef get_config(arg=''):\n"
        "    c = configs.default('resnet', depth=6, widths=(4, 8))\n" + "\n".join([*lines, "    return c\n"])
    )
    return path


def run_with(**attributes):
    """A run that has nothing but these attributes."""
    return object.__new__(type("RunWith", (Run,), attributes))


def tiny_run(path, model="resnet", step=2, seed=0, **fields):
    """A run on 64 digits whose variables at ``step`` are far from those of step 0."""
    usual = {"stage_sizes": (3, 2), "widths": (4, 8)} if model == "resnet" else {}
    config = configs.default(model, **{**usual, **fields})
    config.data.train_examples = 64
    config.train.batch_size = 16
    config.train.duration = "2 steps"
    config.seed = seed
    experiment = load_experiment(config)
    state = experiment.create_state()
    if step:
        drawn = jax.tree.map(jnp.asarray, draw(experiment.task.network, experiment.dataset.info.image_shape))
        state = state.replace(params=drawn["params"], batch_stats=drawn["batch_stats"])
    checkpoints = Checkpoints(claim(path, config))
    checkpoints.save(state.replace(step=jnp.int32(step)))
    return load_run(path, allow_code=model)
