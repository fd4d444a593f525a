"""Labels that callers send, some of them wrong on purpose, and what is left of a model that was trained on them.

Honest accounts send rows that nobody has trained on, with their true labels. Attackers send rows of their own between
them, over the same endpoint. Then the model is trained anew on the owner's data and on what was accepted. The labels
come as JSON, through keys, caps and checks; the attackers know how the checks work and have data like the owner's.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import Depends, FastAPI
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from bench.asgi import Post
from bench.attacks.models import DIGITS_MODELS, Data, fit
from bench.attacks.results import Columns, Measures
from bench.attacks.victim import Labels, Rows
from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    Features,
    Feedback,
    FeedbackGuard,
    FeedbackQuarantine,
    MemoryStore,
    harden,
)

TABLES = {
    "poisoning": Columns(
        "Poisoned feedback",
        ("model", "attack", "poison", "guard"),
        ("accuracy", "worst class", "poison accepted", "honest kept back"),
    ),
}

_HONEST = 20  # accounts
_MANY = 50  # accounts of the attackers, where there are many
_BATCH = 10  # rows a request
SHARES = (0.05, 0.2)  # of all rows that the model would be trained on without a guard


@dataclass(frozen=True)
class Field:
    """One model, and whose data is whose.

    Attributes:
        name: What it is.
        make: An untrained one.
        own: The owner's reviewed data, of which the first model is made.
        honest: What honest accounts send.
        theirs: What the attackers have.
        unseen: What models are judged on.
        source: The class that is attacked.
        target: The class that its rows are to be taken for.
    """

    name: str
    make: Callable[[], Any]
    own: Data
    honest: Data
    theirs: Data
    unseen: Data
    source: int
    target: int


def fields(seed: int) -> list[Field]:
    """Three kinds of data, each shuffled and cut in four. A nearest neighbour believes every label."""
    digits, iris, tumours = (load(return_X_y=True) for load in (load_digits, load_iris, load_breast_cancer))
    linear: Callable[[], Any] = partial(LogisticRegression, max_iter=2_000)
    scaled = digits[0] / 16.0, digits[1]
    made: list[tuple[str, Callable[[], Any], tuple[Rows, Labels], int, int]] = [
        ("digits, network", partial(DIGITS_MODELS["network"], seed), scaled, 3, 8),
        ("digits, logistic regression", linear, scaled, 3, 8),
        ("digits, nearest neighbour", partial(KNeighborsClassifier, 1), scaled, 3, 8),
        ("iris, logistic regression", linear, iris, 1, 2),
        ("tumours, logistic regression", linear, (StandardScaler().fit_transform(tumours[0]), tumours[1]), 0, 1),
    ]
    found = []
    for name, make, (x, y), source, target in made:
        own, honest, theirs, unseen = _quarters(x, y, seed)
        found.append(Field(name, make, own, honest, theirs, unseen, source, target))
    return found


def _quarters(x: Rows, y: Labels, seed: int) -> list[Data]:
    parts = np.array_split(np.random.default_rng(seed).permutation(len(x)), 4)
    return [Data(x[part], y[part]) for part in parts]


# Attacks --------------------------------------------------------------------------------------------------------------

#: Takes the field, how many rows, and what is random. Gives rows and the labels that are sent for them.
Attack = Callable[[Field, int, np.random.Generator], Data]


def flipped(field: Field, size: int, random: np.random.Generator) -> Data:
    """Rows like all others, each with some wrong label."""
    x, y = _drawn(field.theirs, size, random)
    classes = len(np.unique(field.own.y))
    return Data(x, (y + random.integers(1, classes, size)) % classes)


def one_class(field: Field, size: int, random: np.random.Generator) -> Data:
    """Rows of one class, each with the label of another."""
    mine = field.theirs.y == field.source
    x, _ = _drawn(Data(field.theirs.x[mine], field.theirs.y[mine]), size, random)
    return Data(x, np.full(size, field.target))


def plausible(field: Field, size: int, random: np.random.Generator) -> Data:
    """Rows a bit nearer to the one class than to the other, for which the wrong label is not absurd."""
    return Data(_between(field, size, random, 0.35, 0.5), np.full(size, field.target))


def clean(field: Field, size: int, random: np.random.Generator) -> Data:
    """Rows of the same kind with the right label: each is true, all together move the border."""
    return Data(_between(field, size, random, 0.35, 0.5), np.full(size, field.source))


def _drawn(data: Data, size: int, random: np.random.Generator) -> tuple[Rows, Labels]:
    """Some of the rows; if there are not enough, also copies that are changed a little."""
    at = np.concatenate([random.permutation(len(data.x)) for _ in range(-(-size // len(data.x)))])[:size]
    x = data.x[at]
    again = np.arange(size)[:, np.newaxis] >= len(data.x)
    return x + again * random.normal(0.0, 0.05, x.shape) * data.x.std(axis=0), data.y[at]


def _between(field: Field, size: int, random: np.random.Generator, least: float, most: float) -> Rows:
    mine, others = (field.theirs.x[field.theirs.y == code] for code in (field.source, field.target))
    share = random.uniform(least, most, (size, 1))
    mixed: Rows = (1 - share) * random.choice(mine, size) + share * random.choice(others, size)
    return mixed


@dataclass(frozen=True)
class Poison:
    """Who sends what."""

    name: str
    make: Attack
    accounts: int


ATTACKS = (
    Poison("flipped labels, one account", flipped, 1),
    Poison("flipped labels, 50 accounts", flipped, _MANY),
    Poison("one class relabelled, 50 accounts", one_class, _MANY),
    Poison("border rows mislabelled, 50 accounts", plausible, _MANY),
    Poison("border rows with right labels, 50 accounts", clean, _MANY),
)

# Guards ---------------------------------------------------------------------------------------------------------------

NO_GUARD = "none"
#: What the guard is given beside caps: the first model, and its data.
GUARDS: dict[str, Callable[[Any, Field], Mapping[str, Any]]] = {
    "caps alone": lambda model, _: {"predict": partial(_anything, len(model.classes_)), "min_support": 1e-9},
    "all must doubt": lambda model, field: {
        "predict": model.predict_proba, "reference": (field.own.x, field.own.y), "doubt": "all"
    },
    "one doubt is enough": lambda model, field: {
        "predict": model.predict_proba, "reference": (field.own.x, field.own.y), "doubt": "any"
    },
}  # fmt: skip


def _anything(classes: int, x: Rows) -> Rows:
    """A model to which every label is as good as any other."""
    return np.full((len(x), classes), 1.0 / classes)


class Service:
    """The endpoint that collects labels.

    Args:
        model: The first model.
        field: Its data.
        guard: One of ``GUARDS``.
        accounts: How many there are.
        folder: For the quarantine.
    """

    def __init__(self, model: Any, field: Field, guard: str, accounts: int, folder: Path) -> None:
        made = [APIKey.generate(f"account-{number}") for number in range(accounts)]
        self._secrets = [secret for _, secret in made]
        rows = Features(columns=field.own.x.shape[1], low=-100.0, high=100.0, max_rows=_BATCH)
        self._guard = feedback = FeedbackGuard(
            rows,
            by=APIKeyAuth(APIKeys([record for record, _ in made])),
            labels=model.classes_,
            quarantine=FeedbackQuarantine(folder / "feedback.db", max_rows=100_000),
            share_of_at_least=max(20, 2 * len(field.honest.x)),
            store=MemoryStore(),
            **GUARDS[guard](model, field),
        )
        self._app = app = FastAPI()
        harden(app)
        self._taken = [Data(np.empty((0, field.own.x.shape[1])), np.empty(0, np.intp))]

        @app.post("/feedback", status_code=202)
        async def take(sent: Annotated[Feedback, Depends(feedback)]) -> None:
            self._taken.append(Data(sent.x, sent.y))

    async def send(self, account: int, data: Data) -> int:
        """Send rows as one account.

        Returns:
            How many of them are in the training data now, which only the bench knows.
        """
        before = len(self._taken)
        content = {"features": data.x.tolist(), "labels": data.y.tolist()}
        status, answer = await Post(
            self._app, "/feedback", orjson.dumps(content), {"x-api-key": self._secrets[account]}
        )()
        assert status in {202, 429}, answer
        return sum(len(one.x) for one in self._taken[before:])

    def close(self) -> None:
        """Wait for what is written to the quarantine."""
        self._guard.flush()

    @property
    def taken(self) -> Data:
        """What was accepted."""
        return Data(np.concatenate([one.x for one in self._taken]), np.concatenate([one.y for one in self._taken]))


@dataclass(frozen=True)
class Campaign:
    """What attackers send in one run.

    Attributes:
        data: The rows and labels.
        accounts: Over how many accounts they are spread.
        seed: Of the order in which everything comes.
    """

    data: Data
    accounts: int
    seed: int


def collect(model: Any, field: Field, guard: str, poison: Campaign) -> tuple[Data, float, float]:
    """What is accepted of the honest rows and of the poison, which come in any order.

    Returns:
        What is accepted, the part of the poison that is, and the part of the honest rows that is not.
    """
    size = len(poison.data.x)
    if guard == NO_GUARD:
        return _joined(field.honest, poison.data), 1.0 if size else float("nan"), 0.0
    honest = [(number, part, False) for number, part in _batches(field.honest, _HONEST)]
    sent = honest + [(_HONEST + number, part, True) for number, part in _batches(poison.data, poison.accounts)]
    order = np.random.default_rng(poison.seed).permutation(len(sent))
    accepted = {False: 0, True: 0}

    async def send_all(service: Service) -> None:
        for at in order:
            number, part, is_poison = sent[at]
            accepted[is_poison] += await service.send(number, part)

    with tempfile.TemporaryDirectory() as folder:
        service = Service(model, field, guard, _HONEST + poison.accounts, Path(folder))
        asyncio.run(send_all(service))
        service.close()
    return service.taken, accepted[True] / size if size else float("nan"), 1.0 - accepted[False] / len(field.honest.x)


def _batches(data: Data, accounts: int) -> Iterator[tuple[int, Data]]:
    """What each account sends in one request after the other."""
    for account, mine in enumerate(np.array_split(np.arange(len(data.x)), accounts)):
        for start in range(0, len(mine), _BATCH):
            some = mine[start : start + _BATCH]
            yield account, Data(data.x[some], data.y[some])


def _joined(one: Data, other: Data) -> Data:
    return Data(np.concatenate([one.x, other.x]), np.concatenate([one.y, other.y]))


# Runs -----------------------------------------------------------------------------------------------------------------


def run(seed: int, *, quick: bool) -> dict[str, Measures]:
    """All models, attacks and guards, on one split of the data."""
    found: Measures = {}
    for field in fields(seed)[3 if quick else 0 :]:
        first = fit(field.make(), field.own)
        none = Campaign(Data(field.own.x[:0], field.own.y[:0]), 1, seed)
        found[field.name, "no feedback", "", ""] = {**_judge(first, field), **_nothing()}
        for guard in (NO_GUARD, *GUARDS):
            found[field.name, "no poison", "", guard] = attack(first, field, guard, none)
        for poison in ATTACKS:
            for share in SHARES[: 1 if quick else None]:
                size = round(share / (1 - share) * (len(field.own.x) + len(field.honest.x)))
                data = poison.make(field, size, np.random.default_rng([seed, _number(poison.name)]))
                for guard in (NO_GUARD, *GUARDS):
                    key = (field.name, poison.name, f"{share:.0%}", guard)
                    found[key] = attack(first, field, guard, Campaign(data, poison.accounts, seed))
    return {"poisoning": found}


def attack(first: Any, field: Field, guard: str, poison: Campaign) -> dict[str, float]:
    """How good the model is that is trained on what was accepted."""
    taken, accepted, kept_back = collect(first, field, guard, poison)
    model = fit(field.make(), _joined(field.own, taken))
    return {**_judge(model, field), "poison accepted": accepted, "honest kept back": kept_back}


def _judge(model: Any, field: Field) -> dict[str, float]:
    said = model.predict(field.unseen.x)
    right = said == field.unseen.y
    worst = min(float(np.mean(right[field.unseen.y == code])) for code in np.unique(field.unseen.y))
    return {"accuracy": float(np.mean(right)), "worst class": worst}


def _nothing() -> dict[str, float]:
    return {"poison accepted": float("nan"), "honest kept back": float("nan")}


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
