"""A copy of the model, taught with its answers to so many rows, and how often it says what the original says.

The attacker asks until the budget refuses: with inputs like those of ordinary users, or with made-up ones. Of four
copies the best counts: a network, a forest, and a linear model, taught or solved for.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from bench.attacks.models import Task, digits
from bench.attacks.network import Network, teach
from bench.attacks.results import Columns, Measures
from bench.attacks.victim import (
    ALL_DIGITS,
    BEST_CLASS,
    HEAVY_NOISE,
    LABEL_ONLY,
    LIGHT_NOISE,
    ONE_DECIMAL,
    TWO_DECIMALS,
    Defence,
    Labels,
    RefusedError,
    Rows,
    Victim,
)

TABLES = {
    "copying": Columns("Agreement of a copy", ("model", "inputs", "budget", "guard"), ("agreement",)),
}
MODELS = ("network", "logistic regression", "random forest")
DEFENCES = (ALL_DIGITS, TWO_DECIMALS, ONE_DECIMAL, BEST_CLASS, LABEL_ONLY, LIGHT_NOISE, HEAVY_NOISE)

_BUDGETS = (50, 100, 300, 1_000, 3_000)  # rows
_MADE_UP = (100, 1_000)
_BATCH = 50  # rows a request

Inputs = Callable[[int], Rows]


def run(seed: int, *, quick: bool) -> dict[str, Measures]:
    """All models, budgets and guards, on one split of the data."""
    found: Measures = {}
    for kind in MODELS[: 1 if quick else None]:
        task = digits(kind, seed)
        for inputs, budgets in (("ordinary", _BUDGETS), ("made up", _MADE_UP)):
            for budget in budgets[: 1 if quick else None]:
                for defence in DEFENCES:
                    asked, told = take(task, defence, inputs_of(inputs, task.pool.x, seed), budget, seed)
                    agreement = copy_and_compare(task, asked, told, seed)
                    found[kind, inputs, str(budget), defence.name] = {"agreement": agreement}
    return {"copying": found}


def take(task: Task, defence: Defence, inputs: Inputs, budget: int, seed: int) -> tuple[Rows, Rows]:
    """Ask until the budget refuses.

    Args:
        task: The original.
        defence: What guards it, beside the budget.
        inputs: The next rows, from how many were asked already.
        budget: In rows.
        seed: Of the service.

    Returns:
        What was asked, and what was told.
    """
    asked: list[Rows] = []
    told: list[Rows] = []
    with Victim(task.model, defence, columns=task.pool.x.shape[1], budget=budget, seed=seed) as victim:
        while True:
            x = inputs(victim.asked)
            try:
                told.append(victim.ask(x))
            except RefusedError:
                break
            asked.append(x)
        assert victim.asked == budget
    return np.concatenate(asked), np.concatenate(told)


def ordinary(pool: Rows, seed: int) -> Inputs:
    """Inputs as users have them: the pool once, and then what lies between two of its images, with a little noise."""
    random = np.random.default_rng(seed)

    def inputs(position: int) -> Rows:
        if position + _BATCH <= len(pool):
            return pool[position : position + _BATCH]
        first, second = pool[random.integers(len(pool), size=(2, _BATCH))]
        share = random.uniform(0.6, 1.0, (_BATCH, 1))
        mixed: Rows = share * first + (1 - share) * second + random.normal(0, 0.05, first.shape)
        return mixed.clip(0.0, 1.0)

    return inputs


def inputs_of(kind: str, pool: Rows, seed: int) -> Inputs:
    """``ordinary`` inputs, or ``made up`` ones: every pixel drawn by itself."""
    if kind == "ordinary":
        return ordinary(pool, seed)
    random = np.random.default_rng(seed)
    return lambda position: random.uniform(0.0, 1.0, (_BATCH, pool.shape[1]))  # noqa: ARG005


def copy_and_compare(task: Task, asked: Rows, told: Rows, seed: int) -> float:
    """The agreement of the best copy with the original, on inputs that neither was taught with."""
    said = task.model.predict_proba(task.unseen.x).argmax(axis=1)
    return max(float(np.mean(guess == said)) for guess in _guesses(asked, told, task.unseen.x, seed))


def _guesses(asked: Rows, told: Rows, unseen: Rows, seed: int) -> list[Labels]:
    copies = [teach(asked, told, hidden=64, seed=seed), teach(asked, told, hidden=0, seed=seed), _solved(asked, told)]
    return [*(copy.scores(unseen).argmax(axis=1) for copy in copies), _forest(asked, told, seed)(unseen)]


def _solved(asked: Rows, told: Rows) -> Network:
    """A linear model by least squares on the logarithms of the scores: exact, where the original and they are."""
    logs = np.log(told.clip(1e-12 if told.min() > 0 else 1e-2, 1.0))
    logs -= logs.mean(axis=1, keepdims=True)
    x = np.column_stack([asked, np.ones(len(asked))])
    found = np.linalg.lstsq(np.concatenate([x, 1e-9 * np.eye(x.shape[1])]), np.pad(logs, ((0, x.shape[1]), (0, 0))))[0]
    return Network(None, found[:-1], found[-1])


def _forest(asked: Rows, told: Rows, seed: int) -> Callable[[Rows], Labels]:
    labels = told.argmax(axis=1)
    model: Any
    if np.array_equal(told, np.eye(told.shape[1])[labels]):
        model = RandomForestClassifier(30, max_features="sqrt", random_state=seed).fit(asked, labels)
        predict: Callable[[Rows], Labels] = model.predict
        return predict
    model = RandomForestRegressor(30, max_features="sqrt", random_state=seed).fit(asked, told)
    return lambda x: model.predict(x).argmax(axis=1)
