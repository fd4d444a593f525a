"""Who is noticed by ``QueryMonitor``, after how many queries, and which honest callers are taken for attackers.

Attacks ask one row a request, as they would who do not batch, and end with the first verdict. All limits are those that
``QueryMonitor.calibrate`` finds on data that neither the model nor a caller has.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import Depends, FastAPI

from bench.asgi import Post
from bench.attacks import copying, evasion, membership, solving
from bench.attacks.models import Data, Secret, Task, customers, digits, tumours
from bench.attacks.results import Columns, Measures
from bench.attacks.victim import Labels, Rows, read_answer
from bench.attacks.watching import cost
from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    Features,
    MemoryStore,
    QueryMonitor,
    QueryReference,
    harden,
    truncate_output,
)
from mlguard.monitoring._query_watch import QueryWatch
from mlguard.store import store_key

TABLES = {
    "detection": Columns("Attacks that are noticed", ("attack", "index of all"), ("noticed", "queries", "latest")),
    "false-alarms": Columns("Honest callers that are suspected", ("data", "caller", "index of all"), ("suspected",)),
    "watching": Columns("What it costs to watch a caller", ("data",), ("columns", "microseconds", "bytes"), "median"),
}
WITH, WITHOUT = "with", "without"

_KEY = b"of the benches, the same in every run"
_BOUND = 12.0
_ENOUGH = 300  # queries after which an attack that was not noticed is given up
_PATIENT = 3_000  # and one that hides
_ACCOUNTS = 50
_STREAM = 1_000  # queries of an honest caller
_INSTANCES = 6  # of each attack and seed
_CANDIDATES = 10  # whose membership is asked for


class NoticedError(Exception):
    """There is a verdict."""


class EnoughError(Exception):
    """There was none."""


@dataclass(frozen=True)
class Target:
    """A model, and what its owner and its callers have.

    Attributes:
        task: The model, and data it was not trained on.
        reference: What usual queries are like.
        usual: Rows of honest callers, of which neither model nor reference were made.
    """

    task: Task
    reference: QueryReference
    usual: Data


class Service:
    """The model behind a monitor, and accounts of it.

    Args:
        target: The model.
        accounts: How many.
        across: Whether near-duplicates of other callers' queries count.

    Attributes:
        asked: How many rows were asked.
        suspects: The accounts there is a verdict on.
    """

    def __init__(self, target: Target, *, accounts: int = 1, across: bool = True) -> None:
        made = [APIKey.generate(str(number)) for number in range(accounts)]
        caller = APIKeyAuth(APIKeys([key for key, _ in made]))
        rows = Features(columns=target.usual.x.shape[1], low=-_BOUND, high=_BOUND, max_rows=1)
        monitor = QueryMonitor(
            rows,
            by=caller,
            reference=target.reference,
            act="slow",  # of whoever is not a suspect, nothing is different but that the verdict comes at once
            delay=0.0,
            across_callers=across,
            store=MemoryStore(),
            key=_KEY,
        )
        app = FastAPI()
        harden(app)

        @app.post("/predict", dependencies=[Depends(monitor)])
        @truncate_output("open")
        async def predict(x: Annotated[Rows, Depends(rows)]) -> Any:
            return {"probabilities": target.task.model.predict_proba(x)}

        self.asked = 0
        self.suspects: set[str] = set()
        self._app = app
        self._secrets = [secret for _, secret in made]
        self._classes = len(target.task.model.classes_)
        self._runner = asyncio.Runner()
        self._log = logging.getLogger("mlguard.audit")

    def __enter__(self) -> "Service":
        self._listener = _Listener(self.suspects)
        self._log.setLevel(logging.INFO)
        self._log.addHandler(self._listener)
        return self

    def __exit__(self, *exception: object) -> None:
        self._log.removeHandler(self._listener)
        self._runner.close()

    def ask(self, row: Rows, account: int = 0) -> Rows:
        """What it says of one row."""
        body = orjson.dumps({"features": row[np.newaxis]}, option=orjson.OPT_SERIALIZE_NUMPY)
        post = Post(self._app, "/predict", body, {"x-api-key": self._secrets[account]})
        status, content = self._runner.run(post())
        assert status == 200, content
        self.asked += 1
        return read_answer(orjson.loads(content)["probabilities"], self._classes)


class _Listener(logging.Handler):
    def __init__(self, suspects: set[str]) -> None:
        super().__init__()
        self._suspects = suspects

    def emit(self, record: logging.LogRecord) -> None:
        """Note who is suspected."""
        if vars(record).get("event") == "query.suspected":
            self._suspects.add(vars(record)["facts"]["principal"])


class Attacker:
    """Has the interface of a ``Victim``: a row a request, until there is a verdict.

    Args:
        service: Whom to ask.
        accounts: How many the rows are spread over.
        hidden_in: An ordinary row, from a number: so many are asked before each row of the attack.
        ordinary: How many.
        enough: How many queries are asked at most.
    """

    def __init__(
        self,
        service: Service,
        *,
        accounts: int = 1,
        hidden_in: Rows | None = None,
        ordinary: int = 0,
        enough: int = _ENOUGH,
    ) -> None:
        self.asked = 0
        self._service = service
        self._accounts = accounts
        self._hidden_in = hidden_in
        self._ordinary = ordinary
        self._enough = enough

    def ask(self, x: Rows) -> Rows:
        """What the service says of each row."""
        return np.concatenate([self._ask(row) for row in x])

    def label(self, x: Rows) -> Labels:
        """The best class of each row."""
        best: Labels = self.ask(x).argmax(axis=1)
        return best

    def _ask(self, row: Rows) -> Rows:
        if self._hidden_in is not None:
            for _ in range(self._ordinary):
                self._send(self._hidden_in[self.asked % len(self._hidden_in)])
        return self._send(row)

    def _send(self, row: Rows) -> Rows:
        if self.asked >= self._enough:
            raise EnoughError
        told = self._service.ask(row, self.asked % self._accounts)
        self.asked += 1
        if self._service.suspects:
            raise NoticedError
        return told


#: What is attacked, how, by a number, and the settings of the attacker.
Case = tuple[Target, Callable[[Any, int], None], dict[str, Any]]


def run(seed: int, *, quick: bool) -> dict[str, Measures]:
    """All attacks and all honest callers."""
    images, people = _images(seed), _people(seed)
    times = 2 if quick else _INSTANCES
    found: Measures = {}
    for name, (target, attack, settings) in _attacks(images, people, seed).items():
        accounts = settings.get("accounts", 1)
        for index in (WITH, WITHOUT) if accounts > 1 else (WITH,):
            counts = []
            for number in range(times):
                with Service(target, accounts=accounts, across=index == WITH) as service:
                    counts.append(_until_noticed(Attacker(service, **settings), attack, number))
            found[name, index] = {
                "noticed": float(np.mean(np.isfinite(counts))),
                "queries": float(np.median(counts)),
                "latest": float(np.max(counts)),
            }
        if quick and len(found) > 4:
            break
    alarms: Measures = {}
    for target in (images, people):
        for index in (WITH, WITHOUT):
            for kind, share in _suspected(target, seed, across=index == WITH, quick=quick).items():
                alarms[target.task.name, kind, index] = {"suspected": share}
    watched: Measures = {
        (target.task.name,): cost(target.reference, target.usual.x, target.task.model.predict_proba(target.usual.x))
        for target in (images, people)
    }
    return {"detection": found, "false-alarms": alarms, "watching": watched}


def _until_noticed(attacker: Attacker, attack: Callable[[Any, int], object], number: int) -> float:
    """How many queries it takes; infinite where the attack is over before."""
    try:
        attack(attacker, number)
    except NoticedError:
        return float(attacker.asked)
    except EnoughError:
        pass
    return float("inf")


# Attacks --------------------------------------------------------------------------------------------------------------


def _attacks(images: Target, people: Target, seed: int) -> dict[str, Case]:
    hop, simba, transfer = (
        partial(_on_image, images.task, attack) for attack in (evasion.hop_skip_jump, evasion.simba, evasion.transfer)
    )
    secret, tumour = customers("forest, overfit", seed), _tumours(seed)
    jitter = partial(_jitter, secret)
    spread = {"accounts": _ACCOUNTS, "enough": _PATIENT // 2}
    hidden = {"hidden_in": images.usual.x, "enough": _PATIENT}
    return {
        "HopSkipJump": (images, hop, {}),
        "SimBA": (images, simba, {}),
        "line search": (images, partial(_lines, images.usual.x), {}),
        "jittered labels": (people, jitter, {}),
        "halving, 31 lines at a time": (tumour, _halve, {}),
        "HopSkipJump, 50 accounts": (images, hop, spread),
        "jittered labels, 50 accounts": (people, jitter, spread),
        "HopSkipJump, 1 query in 4": (images, hop, {**hidden, "ordinary": 3}),
        "HopSkipJump, 1 query in 20": (images, hop, {**hidden, "ordinary": 19}),
        "a copy by made up inputs": (images, partial(_copy, "made up", images.usual.x), {"enough": _STREAM}),
        "a copy by 550 ordinary inputs": (images, partial(_copy, "ordinary", images.usual.x), {"enough": 550}),
        "and by mixtures of them": (images, partial(_copy, "ordinary", images.usual.x), {"enough": _STREAM}),
        "transfer from a copy": (images, transfer, {}),
    }


def _on_image(task: Task, attack: Callable[[Any, Task, Data, int], object], victim: Any, number: int) -> None:
    """The image of this number that the model reads right."""
    right = np.flatnonzero(task.model.predict(task.unseen.x) == task.unseen.y)[number : number + 1]
    attack(victim, task, Data(task.unseen.x[right], task.unseen.y[right]), number)


def _lines(x: Rows, victim: Any, number: int) -> None:
    line_search(victim, x, number)


def _jitter(secret: Secret, victim: Any, number: int) -> None:
    """Ten candidates, one after the other."""
    group = secret.members if number % 2 else secret.others
    for one in range(number * _CANDIDATES, (number + 1) * _CANDIDATES):
        membership.jittered(victim.label, Data(group.x[one : one + 1], group.y[one : one + 1]), one)


def _halve(victim: Any, number: int) -> None:
    solving.bisect_labels(victim, 30, 50, number)


def _copy(kind: str, x: Rows, victim: Any, number: int) -> None:
    inputs = copying.inputs_of(kind, x, number)
    while True:
        victim.ask(inputs(victim.asked))


def line_search(victim: Any, x: Rows, seed: int, halvings: int = 20) -> Rows:
    """Points on the boundary, each between two ordinary inputs of different labels."""
    random = np.random.default_rng(seed)
    points: list[Rows] = []
    while len(points) < 5:
        ends = x[random.integers(len(x), size=2)]
        labels = victim.label(ends)
        if labels[0] == labels[1]:
            continue
        for _ in range(halvings):
            middle = ends.mean(axis=0)
            ends[0 if victim.label(middle[np.newaxis])[0] == labels[0] else 1] = middle
        points.append(ends.mean(axis=0))
    return np.array(points)


# Honest callers -------------------------------------------------------------------------------------------------------


def _suspected(target: Target, seed: int, *, across: bool, quick: bool) -> dict[str, float]:
    """The share of callers of each kind that there is a verdict on, all of a kind at one service."""
    random = np.random.default_rng(seed)
    kinds: dict[str, tuple[int, Callable[[Data, np.random.Generator], Rows]]] = {
        "ordinary": (20, _ordinary),
        "each row once": (20, _once),
        "the same rows": (5, _repeats),
        "two classes": (5, _two_classes),
        "a sensor": (5, _sensor),
        "other inputs than usual": (5, _shifted),
    }
    shares = {}
    for kind, (callers, make) in kinds.items():
        count = 1 if quick else callers
        streams = [make(target.usual, random)[: 50 if quick else _STREAM] for _ in range(count)]
        with asyncio.Runner() as runner:
            shares[kind] = runner.run(_play(target, streams, across=across)) / count
    return shares


async def _play(target: Target, streams: list[Rows], *, across: bool) -> int:
    """On how many callers there is a verdict. They take turns, and HTTP is left out."""
    watch = QueryWatch(target.reference, _KEY, MemoryStore(), bucket="", hold=3_600, ttl=86_400, across=across)
    told = [target.task.model.predict_proba(stream) for stream in streams]
    suspects = set()
    for turn in range(max(map(len, streams))):
        for number, stream in enumerate(streams):
            if turn < len(stream):
                asked = watch.asked(store_key(str(number)), stream[turn : turn + 1])
                sighting = await watch.note(asked)
                asked.see(told[number][turn : turn + 1])
                if sighting.change > 0:
                    suspects.add(number)
    return len(suspects)


def _ordinary(usual: Data, random: np.random.Generator) -> Rows:
    return usual.x[random.integers(len(usual.x), size=_STREAM)]


def _once(usual: Data, random: np.random.Generator) -> Rows:
    return random.permutation(usual.x)


def _repeats(usual: Data, random: np.random.Generator) -> Rows:
    some = _once(usual, random)[:20]
    return some[random.integers(len(some), size=_STREAM)]


def _two_classes(usual: Data, random: np.random.Generator) -> Rows:
    classes = random.choice(np.unique(usual.y), 2, replace=False)
    some = usual.x[np.isin(usual.y, classes)]
    return some[random.integers(len(some), size=_STREAM)]


def _sensor(usual: Data, random: np.random.Generator) -> Rows:
    """Each reading is close to the one before."""
    spread = usual.x.std(axis=0)
    walk = np.cumsum(random.normal(0, 0.02, (_STREAM, len(spread))) * spread, axis=0)
    readings: Rows = usual.x[random.integers(len(usual.x))] + walk
    return readings.clip(-_BOUND, _BOUND)


def _shifted(usual: Data, random: np.random.Generator) -> Rows:
    """Ordinary ones, moved half a spread in every column."""
    moved: Rows = _ordinary(usual, random) + 0.5 * usual.x.std(axis=0)
    return moved.clip(-_BOUND, _BOUND)


# Targets --------------------------------------------------------------------------------------------------------------


def _images(seed: int) -> Target:
    task = digits("network", seed)
    reference = QueryMonitor.calibrate(task.pool.x, scores=task.model.predict_proba(task.pool.x), same_units=True)
    return Target(task, reference, task.unseen)


def _people(seed: int) -> Target:
    secret = customers("forest, overfit", seed)
    owned, usual = (Data(secret.pool.x[part], secret.pool.y[part]) for part in (slice(0, 600), slice(600, None)))
    task = Task(secret.name, secret.model, owned, usual)
    return Target(task, QueryMonitor.calibrate(owned.x, scores=secret.model.predict_proba(owned.x)), usual)


def _tumours(seed: int) -> Target:
    task = tumours(seed)
    reference = QueryMonitor.calibrate(task.pool.x, scores=task.model.predict_proba(task.pool.x))
    return Target(task, reference, task.unseen)
