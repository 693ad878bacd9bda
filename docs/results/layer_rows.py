"""Rows 28 to 32 and 34 of docs/results/claims.json, judged from errors: a module, not a command.

The limits are those of the table, which were committed before the first measurement. A seed gives one number,
and the interval is Student's t over seeds. ``whose_layers`` says what was measured, and how.
"""

from __future__ import annotations

import by_seed
import claims
import numpy as np
from by_seed import CHANCE, Criterion, Row

LIMITS = {claim["row"]: claim["limits"] for claim in claims.claims()}
LEARNED = Criterion("error of the intact network ≤ 60 %", most=60)


def judged(rows: list[Row]) -> Row:
    """Rows 28 to 32, of the ViT, and row 34, of all networks, as far as they were measured."""
    return of_vit(rows) | novelty_and_size(rows)


def of_vit(rows: list[Row]) -> Row:
    """Rows 28 to 32."""
    part = of_network(rows, "vit")
    if not part:
        return {}
    intact = part["intact"]
    units = np.array([r["single"]["error"] for r in rows if r["network"] == "vit"])
    learned = by_seed.judge(LEARNED, 100 * intact)
    found = {
        "28": single_layers(intact, part["layer"]),
        "29": accuracy_kept(intact, part["layer"], part["swap"]),
        "30": attention_and_mlp(units, part["three_attention"], part["three_mlp"]),
        "31": sharp_break(intact, part["cut"]),
    }
    if shuffled := of_network(rows, "vit_shuffled"):
        found["32"] = order_costs(intact, part["order"], shuffled["intact"], shuffled["order"])
    for row in found.values():
        row["learned"] = learned
        said = by_seed.verdict_of({k: v for k, v in row.items() if k != "learned"})
        row["verdict"] = said if learned["verdict"] == "shown" else "undecided"
    return found


def of_network(rows: list[Row], network: str) -> dict[str, np.ndarray]:
    """What ``layers`` has measured: arrays [seed, …]; empty if it has not."""
    own = [r["layers"] for r in rows if r["network"] == network and "layers" in r]
    return {name: np.array([one[name] for one in own]) for name in own[0]} if own else {}


def single_layers(intact: np.ndarray, layer: np.ndarray) -> Row:
    """Row 28, from errors [seed] and [seed, layer]."""
    share, rise = LIMITS[28]["share"], LIMITS[28]["rise"]
    cheap = 100 * np.mean(100 * (layer - intact[:, None]) <= rise, 1)
    criterion = Criterion(f"layers that cost ≤ {rise} points: ≥ {share} %", least=share)
    return {"layers that may go, %": by_seed.judge(criterion, cheap)}


def accuracy_kept(intact: np.ndarray, layer: np.ndarray, swap: np.ndarray) -> Row:
    """Row 29, from errors [seed], [seed, layer] and [seed, swap of neighbors]."""
    criterion = Criterion(f"accuracy kept ≥ {LIMITS[29]['kept']} %", least=LIMITS[29]["kept"])
    return {
        name: by_seed.judge(criterion, (100 * (1 - error[:, 1:-1]) / (1 - intact[:, None])).mean(1))
        for name, error in (("without a layer, %", layer), ("two neighbors swapped, %", swap))
    }


def attention_and_mlp(units: np.ndarray, attention: np.ndarray, mlp: np.ndarray) -> Row:
    """Row 30, from errors [seed, unit] without each unit, and [seed, set] without three of a kind."""
    criterion = Criterion("attention − MLP < 0 points", most=0)
    return {
        "one deleted, points": by_seed.judge(criterion, 100 * (units[:, ::2] - units[:, 1::2]).mean(1)),
        "three deleted, points": by_seed.judge(criterion, 100 * (attention - mlp).mean(1)),
    }


def sharp_break(intact: np.ndarray, cut: np.ndarray) -> Row:
    """Row 31, from errors [seed] and [seed, n − 1] without n consecutive layers."""
    low, high, step = (LIMITS[31][name] for name in ("low", "high", "step"))
    above = (CHANCE - np.column_stack([intact, cut])) / (CHANCE - intact[:, None])  # 1, … about 0
    half = [100 * crossing(curve, 0.5) for curve in above]
    largest = 100 * (-np.diff(above)).max(1)
    return {
        "half of the accuracy is lost, % of the layers": by_seed.judge(
            Criterion(f"{low} to {high} %", least=low, most=high), half
        ),
        "largest loss by one more layer, %": by_seed.judge(Criterion(f"≥ {step} %", least=step), largest),
    }


def order_costs(
    usual: np.ndarray, usual_order: np.ndarray, shuffled: np.ndarray, shuffled_order: np.ndarray
) -> Row:
    """Row 32, from errors [seed] in the true order and [seed, order] in random ones, after both trainings."""
    without, rise, cost = (LIMITS[32][name] for name in ("without", "rise", "cost"))
    return {
        "random orders after usual training, points": by_seed.judge(
            Criterion(f"≥ {without}", least=without), 100 * (usual_order.mean(1) - usual)
        ),
        "random orders after training in random orders, points": by_seed.judge(
            Criterion(f"≤ {rise}", most=rise), 100 * (shuffled_order.mean(1) - shuffled)
        ),
        "true order, by training in random orders, points": by_seed.judge(
            Criterion(f"≤ {cost}", most=cost), 100 * (shuffled - usual)
        ),
    }


def novelty_and_size(rows: list[Row]) -> Row:
    """Row 34: the difference of two rank correlations, a mean over the architectures of a seed."""
    own = [r for r in rows if "scores" in r]
    differences: dict[int, list[float]] = {}
    for r in own:
        rho = r["scores"]["trained"]["rho"]
        differences.setdefault(r["seed"], []).append(rho["novelty"] - rho["size"])
    if not own or any(len(values) < LIMITS[34]["networks"] for values in differences.values()):
        return {}
    criterion = Criterion("novelty − size > 0", least=0)
    found = by_seed.judge(criterion, [np.mean(values) for values in differences.values()])
    return {"34": {"verdict": found["verdict"], "ρ of novelty − ρ of size": found}}


def crossing(curve: np.ndarray, level: float) -> float:
    """The share of layers cut, 0 … 1, at which a curve of n = 0 … layers first falls to ``level``."""
    after = int(np.argmax(curve <= level))  # the last point is at chance level, below every level
    before, end = curve[after - 1], curve[after]
    return float((after - 1 + (before - level) / (before - end)) / (len(curve) - 1))
