"""What the guards cost the honest: accuracy, calibration, and time."""

import asyncio
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from bench.asgi import Post
from bench.attacks import attributes, copying, evasion, membership, solving
from bench.attacks.models import MEMBERSHIP_MODELS, Data, customers, digits, patients, tumours
from bench.attacks.results import Columns, Measures
from bench.attacks.victim import Defence, Rows, Victim, guarded
from bench.timing import take_turns

TABLES = {"usefulness": Columns("What the answers are worth", ("model", "guard"), ("accuracy", "ece"))}
COST = Columns("A request, in microseconds", ("guard",), ("one row", "1 000 rows"), "once")

_CLASSES = 10
_BINS = 10


def run(seed: int, *, quick: bool) -> dict[str, Measures]:
    """Every model that is attacked, behind each of its guards."""
    found: Measures = {}

    def note(name: str, model: Any, unseen: Data, defence: Defence) -> None:
        with Victim(model, defence, columns=unseen.x.shape[1], low=-12.0, high=12.0, seed=seed) as victim:
            found[name, defence.name] = measure(victim, unseen, abstains="min_confidence" in (defence.output or {}))

    for kind in copying.MODELS[: 1 if quick else None]:
        task = digits(kind, seed)
        for defence in dict.fromkeys([*copying.DEFENCES, *evasion.DEFENCES]):
            note(kind, task.model, task.unseen, defence)
    for kind in [*MEMBERSHIP_MODELS][: 1 if quick else None]:
        secret = customers(kind, seed)
        for defence in membership.DEFENCES:
            note(kind, secret.model, secret.pool, defence)
    secret = patients(seed)
    for defence in attributes.DEFENCES:
        note(secret.name, secret.model, secret.pool, defence)
    task = tumours(seed)
    for defence in solving.DEFENCES:
        note(task.name, task.model, task.unseen, defence)
    return {"usefulness": found}


def measure(victim: Victim, unseen: Data, *, abstains: bool) -> dict[str, float]:
    """What the answers are still worth to an honest caller.

    Args:
        victim: Whom to ask.
        unseen: Inputs of the honest.
        abstains: Whether the service gives some of them no answer, which is not a right one.

    Returns:
        ``accuracy``, and the expected calibration error ``ece`` of the best score (Guo et al., 2017), which is NaN
        where no scores are told.
    """
    told = victim.ask(unseen.x)
    best, right = told.max(axis=1), told.argmax(axis=1) == unseen.y
    answered = np.ptp(told, axis=1) > 0 if abstains else np.ones(len(told), dtype=bool)
    right &= answered
    if set(best[answered]) <= {1.0}:
        return {"accuracy": float(right.mean()), "ece": float("nan")}
    which = np.minimum((best * _BINS).astype(int), _BINS - 1)
    gaps = [abs(best[which == one].sum() - right[which == one].sum()) for one in range(_BINS)]
    return {"accuracy": float(right.mean()), "ece": float(sum(gaps) / len(right))}


class _Ready:
    """A model that takes no time: what is measured is the rest."""

    classes_ = tuple(range(_CLASSES))

    def __init__(self) -> None:
        self._scores = np.random.default_rng(11).dirichlet(np.ones(_CLASSES), size=1_000)

    def predict_proba(self, x: Rows) -> NDArray[np.float64]:
        return self._scores[: len(x)]


def cost(*, quick: bool) -> list[list[str]]:
    """Microseconds of a whole request, the fastest of interleaved rounds: with each guard, all else alike.

    Not the same from run to run, unlike everything else here.
    """
    defences = dict.fromkeys([*copying.DEFENCES, *evasion.DEFENCES, *membership.DEFENCES, *solving.DEFENCES])
    x = np.random.default_rng(3).uniform(0.0, 1.0, (1_000, 64))
    cells: dict[str, list[str]] = {defence.name: [defence.name] for defence in defences}
    for rows, calls in ((1, 40), (1_000, 2)):
        body = orjson.dumps({"features": x[:rows]}, option=orjson.OPT_SERIALIZE_NUMPY)
        posts = {}
        for defence in defences:
            app, key = guarded(_Ready(), defence, columns=64, low=0.0, high=1.0, budget=10**12, seed=0)
            posts[defence.name] = Post(app, "/predict", body, {"x-api-key": key})
        timing = asyncio.run(take_turns(posts, rounds=2 if quick else 21, calls=1 if quick else calls))
        for name in posts:
            cells[name].append(f"{round(min(timing.seconds[name]) * 1e6, -1):.0f}")
    return [*cells.values()]
