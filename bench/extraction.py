"""What a budget buys: how good a copy is that was trained on the answers to so many rows, asked through the guards.

The attacker has a valid key and inputs like those of ordinary users, and asks until the budget refuses. A copy is
measured by how often it says what the original says, on inputs that neither has seen.
"""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor

from bench.asgi import Post
from bench.report import Grid
from mlguard import APIKey, APIKeyAuth, APIKeys, Features, MemoryStore, QueryBudget, harden, truncate_output

_BATCH = 10  # rows a request, at most
_BUDGETS = (50, 100, 300, 1_000, 3_000)  # rows
_ANSWERS = ("all digits", "2 decimals", "1 decimal", "label only")

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Victim:
    """A trained model, and inputs that it was not trained on.

    Attributes:
        name: What it is.
        model: Has ``predict_proba``.
        pool: Inputs of the attacker.
        unseen: Inputs on which the copy is compared with it.
    """

    name: str
    model: Any
    pool: Rows
    unseen: Rows


def victims(seed: int) -> list[Victim]:
    """Three models of handwritten digits. A third of the images each: to train, to attack, to compare."""
    images, labels = load_digits(return_X_y=True)
    images = images / 16.0
    order = np.random.default_rng(seed).permutation(len(images))
    own, pool, unseen = np.array_split(order, 3)
    models = {
        "digits network": MLPClassifier((64,), max_iter=400, random_state=seed),
        "digits logistic regression": LogisticRegression(max_iter=2_000),
        "digits random forest": RandomForestClassifier(200, random_state=seed),
    }
    return [
        Victim(name, model.fit(images[own], labels[own]), images[pool], images[unseen])
        for name, model in models.items()
    ]


def guarded(model: Any, columns: int, budget: int, answer: str) -> tuple[FastAPI, str]:
    """The model behind a key and a budget in rows, and the key."""
    app = FastAPI()
    harden(app)
    key, secret = APIKey.generate("mallory")
    caller = APIKeyAuth(APIKeys([key]))
    rows = Features(columns=columns, low=-10.0, high=10.0, max_rows=_BATCH)
    spent = QueryBudget(f"{budget}/year", by=caller, cost=rows, store=MemoryStore())
    policies: dict[str, Callable[[Any], Any]] = {
        "all digits": lambda endpoint: endpoint,
        "2 decimals": truncate_output(decimals=2),
        "1 decimal": truncate_output(decimals=1),
        "label only": truncate_output(label_only=True, scores="probabilities", labels=model.classes_.tolist()),
    }

    @app.post("/predict", dependencies=[Depends(spent)])
    @policies[answer]
    async def predict(x: Annotated[Rows, Depends(rows)]) -> Any:
        probabilities = model.predict_proba(x)
        return {"probabilities": probabilities.tolist() if answer == "all digits" else probabilities}

    return app, secret


async def ask(model: Any, inputs: Callable[[int], Rows], budget: int, answer: str) -> tuple[Rows, Rows]:
    """Ask until refused.

    Args:
        model: The original.
        inputs: The next rows, from how many were asked already.
        budget: In rows.
        answer: What is answered.

    Returns:
        What was asked, and what was answered: scores, or a 1 for the label.
    """
    app, secret = guarded(model, inputs(0).shape[1], budget, answer)
    asked: list[Rows] = []
    answered: list[Rows] = []
    while True:
        x = inputs(sum(map(len, asked)))
        body = json.dumps({"features": x.tolist()}).encode()
        status, content = await Post(app, "/predict", body, {"x-api-key": secret})()
        if status == 429:
            break
        assert status == 200, content
        asked.append(x)
        answered.append(_scores(json.loads(content)["probabilities"], len(model.classes_)))
    assert sum(map(len, asked)) == budget // _BATCH * _BATCH
    return np.concatenate(asked), np.concatenate(answered)


def ordinary(pool: Rows, seed: int) -> Callable[[int], Rows]:
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


def _scores(answers: Any, classes: int) -> Rows:
    scores: Rows = np.array(answers, dtype=float)
    if scores.ndim == 2:
        return scores
    marked: Rows = np.eye(classes)[scores.astype(int)]
    return marked


def fidelity(victim: Victim, asked: Rows, answered: Rows, seed: int) -> float:
    """How often the better of two copies, a network and a linear model, says what the original says."""
    said = victim.model.predict_proba(victim.unseen).argmax(axis=1)
    copies = [MLPRegressor(hidden_layer_sizes=layers, max_iter=600, random_state=seed) for layers in ((64,), ())]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        guesses = [copy.fit(asked, answered).predict(victim.unseen).argmax(axis=1) for copy in copies]
    return max(float(np.mean(guess == said)) for guess in guesses)


async def measure(*, short: bool) -> Grid:
    """Every model, budget and answer; the median over seeds."""
    seeds = range(1 if short else 3)
    budgets = _BUDGETS[:1] if short else _BUDGETS
    trained = {seed: victims(seed)[: 1 if short else None] for seed in seeds}
    rows = []
    for number, victim in enumerate(trained[0]):
        for budget in budgets:
            cells = []
            for answer in _ANSWERS:
                results = []
                for seed in seeds:
                    one = trained[seed][number]
                    asked, answered = await ask(one.model, ordinary(one.pool, seed), budget, answer)
                    results.append(fidelity(one, asked, answered, seed))
                cells.append(f"{median(results):.1%}")
            rows.append([victim.name, f"{budget:,}", *cells])
    return Grid("A copy of the model, by rows asked", ["original", "budget", *_ANSWERS], rows)
