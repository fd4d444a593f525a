"""The runbook of poisoned feedback, played to its end: the labels, the model that learns them, and the way back."""

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import joblib
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from fastapi import Depends, FastAPI, Security

from mlguard import (
    NUMPY_ARRAYS,
    APIKey,
    APIKeyAuth,
    APIKeys,
    Features,
    Feedback,
    FeedbackGuard,
    FeedbackQuarantine,
    Lockdown,
    ModelStore,
    Principal,
    RedisStore,
    ServedModel,
    harden,
)
from tests import test_incidents
from tests.redis_server import RedisServer, redis_server
from tests.servers import serving, wait_until

LABELS = ("low", "high")
RANDOM = np.random.default_rng(7)
CODES = RANDOM.integers(0, 2, 100)
X = np.array([[2.0, 2.0], [8.0, 8.0]])[CODES] + RANDOM.uniform(-1, 1, (100, 2))
Y = np.array(LABELS)[CODES]
LOW, HIGH = [2.0, 2.5], [8.0, 7.5]
RARE = [6.0, 5.5]  # nearer to the others

run = test_incidents.run  # the operator, who does what is on the page


@dataclass
class Service:
    """A model that is trained on what callers say, and what its operator has.

    Attributes:
        redis: Where it counts, and what is locked down.
        models: The versions of the model.
        quarantine: What nobody believes yet.
        accepted: The file of rows that were accepted, with who sent each.
        keys: The secret of each caller.
        url: Where it is.
    """

    redis: RedisServer
    models: ModelStore
    quarantine: FeedbackQuarantine
    accepted: Path
    keys: dict[str, str]
    url: str = ""

    def ask(self, path: str, body: Any, who: str = "alice") -> httpx.Response:
        """One request."""
        headers = {"x-api-key": self.keys[who]}
        with httpx.Client(trust_env=False, verify=False, timeout=30, headers=headers) as client:
            return client.post(f"{self.url}{path}", json=body)

    def said(self, row: list[float]) -> Any:
        """What the model says of one row."""
        return self.ask("/predict", {"features": [row]}).json()

    def teach(self, row: list[float], label: str, who: str, *, times: int = 1) -> int:
        """Send a row with a label. Returns the status."""
        return self.ask("/feedback", {"features": [row] * times, "labels": [label] * times}, who).status_code

    def keep(self, rows: Any, labels: Any, who: list[str]) -> None:
        """Add rows to those that the next model learns."""
        with self.accepted.open("a") as file:
            for row, label, by in zip(rows.tolist(), labels.tolist(), who, strict=True):
                file.write(json.dumps({"row": row, "label": label, "by": by}) + "\n")

    def train(self) -> int:
        """What the training job does: fetch what was released, learn from all rows, promote. Returns the version."""
        with self.quarantine.released() as released:
            self.keep(released.x, released.y, [id_ for _, _, id_ in released.who])
        lines = [json.loads(line) for line in self.accepted.read_text().splitlines()]
        rows = np.array([*X.tolist(), *[line["row"] for line in lines]])
        codes = [*CODES.tolist(), *[LABELS.index(line["label"]) for line in lines]]
        path = self.accepted.with_name("iris.joblib")
        joblib.dump({"rows": rows, "codes": np.array(codes)}, path)
        return self.models.promote("iris", self.models.save("iris", path).version).version


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """The service, whose first model has learnt from nobody."""
    signing_key = generate_private_key(SECP256R1())
    models = ModelStore(tmp_path / "models", key=signing_key.public_key(), signing_key=signing_key)
    keys = {name: APIKey.generate(name) for name in ("alice", "mallory")}
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        (tmp_path / "accepted.jsonl").touch()
        service = Service(
            redis,
            models,
            FeedbackQuarantine(tmp_path / "quarantine.db"),
            tmp_path / "accepted.jsonl",
            {name: secret for name, (_, secret) in keys.items()},
        )
        service.train()
        app = make_app(service, APIKeyAuth(APIKeys([record for record, _ in keys.values()])))
        service.url = stack.enter_context(serving(app))
        yield service


def make_app(service: Service, caller: APIKeyAuth) -> FastAPI:
    """Predictions by the nearest row, and labels for the next model."""
    store = RedisStore(service.redis.url, timeout=30)
    lockdown = Lockdown(store=store)
    iris = ServedModel(service.models, "iris", allow=NUMPY_ARRAYS, follow=lockdown)
    rows = Features(columns=2, low=0.0, high=10.0, max_rows=100)
    feedback = FeedbackGuard(
        rows, by=caller, labels=LABELS, reference=(X, Y), quarantine=service.quarantine, store=store
    )
    app = FastAPI(lifespan=iris.lifespan)
    harden(app)
    lockdown.install(app)

    @app.post("/predict", dependencies=[Security(caller)])
    def predict(x: Annotated[np.ndarray, Depends(rows)], model: Annotated[Any, Depends(iris)]) -> str:
        return LABELS[model["codes"][np.abs(model["rows"] - x[0]).sum(axis=1).argmin()]]

    @app.post("/feedback", status_code=202)
    def take(sent: Annotated[Feedback, Depends(feedback)], who: Annotated[Principal, Security(caller)]) -> None:
        service.keep(sent.x, sent.y, [who.id] * len(sent.x))

    return app


def test_incident_poisoned_feedback(
    service: Service, run: test_incidents.Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Released by mistake, wrong labels are in a model: the one before serves, and the next has learnt without them."""
    caplog.set_level(logging.INFO, "mlguard.audit")
    file = service.quarantine.path
    assert service.teach(HIGH, "high", "alice") == 202
    assert service.teach(LOW, "high", "mallory", times=3) == 202
    wait_until(lambda: service.quarantine.count() == 3)
    assert "feedback.quarantined method=api-key caller=mallory rows=3" in caplog.text
    service.quarantine.release([1, 2, 3])  # the mistake
    assert service.train() == 2
    run("lockdown pin iris 2")  # as a worker that starts now would have it
    wait_until(lambda: service.said(LOW) == "high")
    assert service.teach(LOW, "high", "mallory", times=4) == 202
    assert service.teach(RARE, "low", "alice") == 202
    wait_until(lambda: service.quarantine.count() == 5)
    *theirs, hers = run(f"feedback list {file}").splitlines()
    assert all('api-key mallory  label "high"  because of neighbours' in line for line in theirs)
    assert 'api-key alice  label "low"  because of far' in hers
    service.quarantine.release([4, 5])  # and once more

    run("lockdown pin iris 1 --reason poisoned-feedback")
    run("lockdown block route /feedback --for 24h --reason poisoned-feedback")
    run("lockdown block principal mallory --for 24h --reason poisoned-feedback")
    assert run(f"feedback withdraw {file} --all") == "2 rows withdrawn."
    wait_until(lambda: service.said(LOW) == "low")
    wait_until(lambda: service.teach(LOW, "low", "alice") == 503)
    wait_until(lambda: service.ask("/predict", {"features": [LOW]}, "mallory").status_code == 403)

    row = json.loads(run(f"feedback show {file} 4"))
    assert (row["features"], row["label"], row["caller"], row["state"]) == (LOW, "high", "mallory", "held")
    lines = service.accepted.read_text().splitlines(keepends=True)
    assert [json.loads(line)["by"] for line in lines] == ["alice", "mallory", "mallory", "mallory"]

    service.accepted.write_text("".join(line for line in lines if '"by": "mallory"' not in line))
    assert run(f"feedback reject {file} --caller mallory") == "4 rows rejected."
    assert run(f"feedback release {file} {hers.split()[0]}") == "1 rows released."
    assert service.train() == 3
    run("lockdown lift pin iris")
    run("lockdown lift route /feedback")
    wait_until(lambda: "model.served model=iris version=3" in caplog.text)
    assert [service.said(row) for row in (LOW, HIGH, RARE)] == ["low", "high", "low"]
    wait_until(lambda: service.teach(LOW, "low", "alice") == 202)
    assert service.teach(LOW, "high", "mallory") == 403
    assert "principal any method: mallory" in run("lockdown list")
    assert not service.quarantine.count()
