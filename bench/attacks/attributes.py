"""One column of somebody's row, from the rest of it and the answers (Fredrikson et al., 2014; Yeom et al., 2018).

The attacker knows the rest of the row and its true class, asks with each value that the column could have, and takes
the one with which the model is surer of the true class. What can be guessed from the rest alone is the baseline, and
breaks ties.
"""

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score

from bench.attacks.models import Data, Secret, patients
from bench.attacks.results import Columns, Measures
from bench.attacks.victim import (
    ALL_DIGITS,
    BEST_CLASS,
    HEAVY_NOISE,
    LABEL_IF_SURE,
    LABEL_ONLY,
    LIGHT_NOISE,
    ONE_DECIMAL,
    TWO_DECIMALS,
    Rows,
    Victim,
)

TABLES = {
    "attributes": Columns(
        "A missing column, balanced accuracy of the guess", ("guard", "asked"), ("members", "others")
    ),
}
DEFENCES = (ALL_DIGITS, TWO_DECIMALS, ONE_DECIMAL, BEST_CLASS, LIGHT_NOISE, HEAVY_NOISE, LABEL_IF_SURE, LABEL_ONLY)
BASELINE = "guessed without the model"

_AVERAGED = 50


def run(seed: int, *, quick: bool) -> dict[str, Measures]:
    """All guards, on one forest."""
    secret = patients(seed)
    prior = {"members": _impute(secret, secret.members, seed), "others": _impute(secret, secret.others, seed)}
    people = {"members": secret.members, "others": secret.others}
    found: Measures = {
        (BASELINE, ""): {who: _score(data, prior[who]) for who, data in people.items()},
    }
    for defence in DEFENCES[: 1 if quick else None]:
        with Victim(secret.model, defence, columns=secret.pool.x.shape[1], low=-10.0, high=10.0, seed=seed) as victim:
            for times in (1,) if defence.noise is None else (1, _AVERAGED):
                found[defence.name, str(times)] = {
                    who: _score(data, _decide(_told(victim, data, times, seed), prior[who]))
                    for who, data in people.items()
                }
    return {"attributes": found}


def _impute(secret: Secret, data: Data, seed: int) -> Rows:
    """The logarithm of the odds of a 1, from the rest of the row and the true class, as in the attacker's own data."""
    known = np.column_stack([secret.pool.x[:, :-1], np.eye(3)[secret.pool.y]])
    model = RandomForestClassifier(200, min_samples_leaf=5, random_state=seed).fit(known, secret.pool.x[:, -1])
    one = model.predict_proba(np.column_stack([data.x[:, :-1], np.eye(3)[data.y]]))[:, 1].clip(0.01, 0.99)
    odds: Rows = np.log(one / (1 - one))
    return odds


def _told(victim: Victim, data: Data, times: int, seed: int) -> Rows:
    """How much surer the model is of the true class with a 1 than with a 0.

    On average over so many inputs that hardly differ, which takes noise away that depends on the exact input.
    """
    random = np.random.default_rng(seed)
    sure = []
    for value in (0.0, 1.0):
        x = np.repeat(data.x, times, axis=0)
        x += 1e-6 * random.normal(size=x.shape) if times > 1 else 0.0
        x[:, -1] = value
        sure.append(victim.ask(x)[np.arange(len(x)), np.repeat(data.y, times)].reshape(-1, times).mean(axis=1))
    surer: Rows = sure[1] - sure[0]
    return surer


def _decide(surer: Rows, prior: Rows) -> Rows:
    decided: Rows = np.where(np.abs(surer) > 1e-9, surer, prior)
    return decided


def _score(data: Data, odds: Rows) -> float:
    return float(balanced_accuracy_score(data.x[:, -1], odds > 0))
