"""The values that no run can have are refused before any work."""

from ml_collections import ConfigDict

from resjax.config.defaults import default
from resjax.config.fields import flat, steps_of, value_of
from resjax.config.kinds import check_types
from resjax.network.shuffle import KINDS

CHOICES = {
    "train.loss": ("cross_entropy", "rbf_map"),
    "train.shuffle": KINDS,
    "optimizer.name": ("sgd", "adamw"),
    "optimizer.decay": ("all", "kernels"),
    "optimizer.schedule": ("step", "cosine", "constant"),
    "optimizer.warmup_shape": ("linear", "constant"),
    "parallel.mode": ("jit", "pmap"),
}
LEAST = {
    "train.batch_size": 1, "train.steps_per_dispatch": 1, "eval.batch_size": 1, "checkpoint.keep": 1,
    "train.mixup": 0, "train.cutmix": 0,
    "optimizer.learning_rate": 0, "optimizer.momentum": 0, "optimizer.weight_decay": 0,
    "optimizer.clip_norm": 0, "optimizer.factor": 0, "optimizer.scalar_factor": 0,
    "optimizer.epsilon": 0, "optimizer.warmup_from": 0, "seed": 0,
}  # fmt: skip


def check(config: ConfigDict) -> None:
    """Raises ValueError for invalid values; those that depend on data are checked later."""
    absent = sorted(set(flat(default().to_dict())) - set(flat(config.to_dict())))
    absent = [field for field in absent if not field.startswith("model.")]
    if absent or "model" not in config:
        raise ValueError(
            f"the configuration lacks {', '.join(absent) or 'model'}; start from resjax.config.default()"
        )
    check_types(config)
    for field, allowed in CHOICES.items():
        if value_of(config, field) not in allowed:
            raise ValueError(f"{field}={value_of(config, field)!r}; allowed: {', '.join(map(repr, allowed))}")
    for field, least in LEAST.items():
        if not least <= value_of(config, field) < float("inf"):
            raise ValueError(f"{field}={value_of(config, field)}; allowed: {least} or more")
    if (cpu_devices := config.parallel.cpu_devices) < 0:
        raise ValueError(f"parallel.cpu_devices={cpu_devices}; allowed: 1, 2, … devices, or 0 for automatic")
    for field in ("train.label_smoothing", "train.ema"):
        if not 0 <= (share := value_of(config, field)) < 1:
            raise ValueError(f"{field}={share}; allowed: 0 ≤ value < 1")
    if not 0 < (temperature := config.train.temperature) < float("inf"):
        raise ValueError(f"train.temperature={temperature}; allowed: more than 0, such as 4.0")
    if not 0 <= (weight := config.train.teacher_weight) <= 1:
        raise ValueError(f"train.teacher_weight={weight}; allowed: 0 ≤ value ≤ 1")
    if config.train.loss == "rbf_map" and config.train.label_smoothing:
        raise ValueError("train.label_smoothing requires train.loss='cross_entropy'; set it to 0")
    for field in ("optimizer.momentum", "optimizer.beta2"):
        beta = value_of(config, field)
        if not 0 <= beta < 1 and (config.optimizer.name == "adamw" or field == "optimizer.beta2"):
            raise ValueError(f"{field}={beta}; allowed with optimizer.name='adamw': 0 ≤ value < 1")
    fields = ("train.duration", "eval.every", "log.every", "checkpoint.every", "optimizer.warmup")
    durations = [(field, value_of(config, field)) for field in fields]
    durations += [("optimizer.boundaries", boundary) for boundary in config.optimizer.boundaries]
    for field, duration in durations:
        if not steps_of(duration, 1e6, field) and field != "optimizer.warmup":
            raise ValueError(f"{field}={duration!r}; it must be longer than 0")
