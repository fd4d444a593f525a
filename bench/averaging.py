"""What averaging leaves of noise: the weights of a logistic regression, stolen through ``add_noise``.

An attacker asks 310 questions near the boundary 200 times each, averages the answers, and solves for the 30
weights. Repeats are exact, or are moved a little so that they are other questions. The error is that of the weights,
relative to their length.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.report import Grid
from mlguard.outputs.noise import Laplace, add_noise

_FEATURES = 30
_QUESTIONS = 310
_SCALE = 0.05
_KEY = "averaging-Vb3kQ9xTzLm2Zp8Rt5Yw0Uc4NfHs7Jd"

Array = NDArray[np.float64]
Ask = Callable[[Array], Array]


async def measure(*, short: bool) -> Grid:
    """Every way to ask, with every kind of noise."""
    repeats = 10 if short else 200
    seeds = range(1 if short else 21)
    ways: list[tuple[str, float, dict[str, Any] | None]] = [
        ("drawn anew, the same question", 0.0, None),
        ("keyed, the same question", 0.0, {}),
        ("keyed, moved by 1e-6", 1e-6, {}),
        ("keyed, 3 decimals of the input, moved by 1e-6", 1e-6, {"input_decimals": 3}),
        ("keyed, 3 decimals of the input, moved by 1e-2", 1e-2, {"input_decimals": 3}),
    ]
    rows = [
        [way, f"{median(_error(moved, options, repeats, seed) for seed in seeds):.3f}"] for way, moved, options in ways
    ]
    note = f"Laplace noise of scale {_SCALE:g}, {_QUESTIONS} questions, {repeats} times each."
    return Grid("Averaging noise away", ["noise, and what is asked", "error of the weights"], rows, [note])


def _error(moved: float, options: dict[str, Any] | None, repeats: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    weights, offset = rng.normal(size=_FEATURES), rng.normal()

    def model(x: Array) -> Array:
        p = 1.0 / (1.0 + np.exp(-(x @ weights + offset)))
        return np.stack([1.0 - p, p], axis=1)

    def fresh(x: Array) -> Array:
        return model(x) + rng.laplace(scale=_SCALE, size=(len(x), 2))

    ask: Ask = fresh if options is None else _keyed(model, options)
    # Near the boundary, where a probability says most about the weights.
    questions = rng.normal(size=(_QUESTIONS, _FEATURES))
    wanted = rng.uniform(-1.0, 1.0, _QUESTIONS)
    questions += np.outer((wanted - offset - questions @ weights) / (weights @ weights), weights)
    if options:
        questions = np.round(questions, options["input_decimals"])  # in the middle of what is one question
    total = np.zeros(_QUESTIONS)
    for _ in range(repeats):
        asked = questions + rng.uniform(-moved, moved, questions.shape) / 2 if moved else questions
        total += ask(asked)[:, 1]
    return _solve(questions, total / repeats, weights)


def _keyed(model: Ask, options: dict[str, Any]) -> Ask:
    # Without making probabilities of them again: that would be another attack.
    @add_noise(Laplace(_SCALE), key=_KEY, renormalise=False, **options)
    def predict(x: Array) -> Array:
        return model(x)

    return lambda x: predict(x=x)


def _solve(questions: Array, probabilities: Array, weights: Array) -> float:
    p = np.clip(probabilities, 1e-3, 1 - 1e-3)
    design = np.column_stack([questions, np.ones(len(questions))])
    solved, *_ = np.linalg.lstsq(design, np.log(p / (1 - p)), rcond=None)
    return float(np.linalg.norm(solved[:-1] - weights) / np.linalg.norm(weights))
