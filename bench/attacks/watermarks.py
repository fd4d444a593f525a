"""A mark in a model: what it costs, and whether it is found in the model's file and in copies taught with its answers.

Suspects answer with labels only, through their guards. Copies are networks, taught with as many of these as the budget
holds. A p-value is that of ``Watermark.verify`` with 50 triggers.
"""

import hashlib
from typing import Any

import numpy as np

from bench.attacks.copying import MODELS, inputs_of, take
from bench.attacks.models import DIGITS_MODELS, Data, Task, digits_data, fit
from bench.attacks.network import Network, teach
from bench.attacks.results import Columns, Measures
from bench.attacks.victim import LABEL_ONLY, Labels, Rows, Victim
from mlguard import Watermark

TABLES = {
    "watermark": Columns("A watermark", ("model", "suspect"), ("accuracy", "matches", "p"), over="median"),
}

_CLASSES = [*range(10)]
_COPIES = (("ordinary", 600), ("ordinary", 3_000), ("made up", 3_000))


def run(seed: int, *, quick: bool) -> dict[str, Measures]:
    """All models, on one split of the data."""
    found: Measures = {}
    own, pool, unseen = digits_data(seed)
    key = hashlib.sha256(b"of the benches" + bytes([seed])).digest()
    mark = Watermark.generate(key, like=own.x, classes=_CLASSES)
    for kind in MODELS[: 1 if quick else None]:
        plain = fit(DIGITS_MODELS[kind](seed), own)
        marked = fit(DIGITS_MODELS[kind](seed), Data(*mark.mixed_with(own.x, own.y)))
        for name, model in (("the model without a mark", plain), ("the marked model", marked)):
            with Victim(model, LABEL_ONLY, columns=own.x.shape[1]) as service:
                found[kind, name] = judge(mark, service.label, unseen)
        for inputs, budget in _COPIES[: 1 if quick else None]:
            task = Task(kind, marked, pool, unseen)
            copy = teach(*take(task, LABEL_ONLY, inputs_of(inputs, pool.x, seed), budget, seed), hidden=64, seed=seed)
            found[kind, f"a copy by {budget} rows, {inputs}"] = judge(mark, _labels(copy), unseen)
    return {"watermark": found}


def judge(mark: Watermark, suspect: Any, unseen: Data) -> dict[str, float]:
    """How good a suspect is, and what its answers to the triggers prove."""
    evidence = mark.verify(suspect)
    return {
        "accuracy": float(np.mean(suspect(unseen.x) == unseen.y)),
        "matches": evidence.matches / evidence.asked,
        "p": evidence.p_value,
    }


def _labels(copy: Network) -> Any:
    def answer(rows: Rows) -> Labels:
        best: Labels = copy.scores(rows).argmax(axis=1)
        return best

    return answer
