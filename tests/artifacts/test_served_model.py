"""A service starts with the model that it was meant to start with, or not at all."""

import asyncio
import contextlib
import json
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import joblib
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from fastapi import Depends, FastAPI
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mlguard import (
    ConfigurationError,
    Features,
    Lockdown,
    MemoryStore,
    ModelSignatureError,
    ModelStore,
    RateLimit,
    ServedModel,
    UnavailableError,
    harden,
)
from mlguard.artifacts.allowed_globals import SKLEARN_LINEAR
from tests.asgi import call
from tests.clock import Clock
from tests.servers import serving, wait_until
from tests.test_hardening import lifespan

X, Y = load_iris(return_X_y=True)
KEY = generate_private_key(SECP256R1())
ROWS = {"features": X[:2].tolist()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two versions, the first of which is promoted."""
    folder = tmp_path_factory.mktemp("made")
    store = ModelStore(folder / "models", key=KEY.public_key(), signing_key=KEY)
    for strength in (1.0, 2.0):
        joblib.dump(LogisticRegression(C=strength, max_iter=500).fit(X, Y), folder / "iris.joblib")
        store.save("iris", folder / "iris.joblib")
    store.promote("iris", 1)
    return store.root


@pytest.fixture
def store(made: Path, tmp_path: Path) -> ModelStore:
    """A copy of it."""
    shutil.copytree(made, tmp_path / "models")
    return ModelStore(tmp_path / "models", key=KEY.public_key(), signing_key=KEY)


def app_of(iris: ServedModel, lifespan: Any) -> FastAPI:
    app = FastAPI(lifespan=lifespan)
    harden(app)
    rows = Features(columns=4, low=0.0, high=10.0, max_rows=10)

    @app.post("/predict")
    def predict(x: Annotated[np.ndarray, Depends(rows)], model: Annotated[Any, Depends(iris)]) -> dict[str, Any]:
        return {"labels": model.predict(x).tolist(), "strength": model.C}

    return app


async def start(iris: ServedModel) -> float:
    """Start and end an app, in a lifespan of its own."""
    async with iris.lifespan(None):
        return float((await iris()).C)


def test_the_promoted_version_is_served(store: ModelStore, caplog: pytest.LogCaptureFixture) -> None:
    """The version and its digest are in the log for audits, and no caller reads them."""
    iris = ServedModel(store, "iris", allow=SKLEARN_LINEAR)
    with caplog.at_level(logging.INFO, logger="mlguard.audit"), serving(app_of(iris, iris.lifespan)) as url:
        answer = httpx.post(f"{url}/predict", json=ROWS, trust_env=False)
        version = iris.version
    assert version is not None
    assert answer.json() == {"labels": [0, 0], "strength": 1.0}
    assert version == store.find("iris", 1)
    assert version.digest not in f"{answer.headers}{answer.text}"
    (served,) = [record.__dict__ for record in caplog.records if record.__dict__.get("event") == "model.served"]
    facts = {"model": "iris", "version": 1, "digest": version.digest, "signer": version.signer}
    assert served["facts"] == facts
    assert iris.version is None


def test_a_version_can_be_pinned(store: ModelStore) -> None:
    """Whatever is promoted, the service starts with its number."""
    iris = ServedModel(store, "iris", 2, allow=SKLEARN_LINEAR)
    with serving(app_of(iris, iris.lifespan)) as url:
        assert httpx.post(f"{url}/predict", json=ROWS, trust_env=False).json()["strength"] == 2.0


def test_an_altered_model_stops_the_start(store: ModelStore) -> None:
    """There is no service without its model, and no answer of another one."""
    path = store.find("iris", 1).path
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    path.write_bytes(content)
    iris = ServedModel(store, "iris", allow=SKLEARN_LINEAR)
    with pytest.raises(ModelSignatureError):
        asyncio.run(start(iris))


def test_nothing_promoted_stops_the_start(store: ModelStore) -> None:
    """Nor is there a service with any version that happens to be there."""
    wine = ServedModel(store, "wine")
    with pytest.raises(ConfigurationError, match="promote"):
        asyncio.run(start(wine))


def test_a_forgotten_lifespan_is_told(store: ModelStore, caplog: pytest.LogCaptureFixture) -> None:
    """Where no lifespan is run, callers get a 503, and the log says what is missing."""
    iris = ServedModel(store, "iris", allow=SKLEARN_LINEAR)
    sent = json.dumps(ROWS).encode()
    answer = call(app_of(iris, None), headers=[(b"content-type", b"application/json")], chunks=[sent])
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert b"lifespan" not in answer.body
    assert "pass FastAPI(lifespan=" in caplog.text


@pytest.mark.parametrize("counts", [False, True])
def test_a_forgotten_lifespan_stops_the_start(store: ModelStore, counts: bool) -> None:
    """Of the app itself, or of the one around it. What was begun by then is ended."""
    iris = ServedModel(store, "iris", allow=SKLEARN_LINEAR)
    steps: list[str] = []

    @contextlib.asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[None]:
        steps.append("begun")
        try:
            yield
        finally:
            steps.append("ended")

    outer = FastAPI(lifespan=own)
    outer.mount("/v1", app_of(iris, iris.lifespan))  # nobody runs the lifespan of an app that is mounted
    if counts:
        limit = RateLimit("9/minute", store=MemoryStore())
        outer.get("/", dependencies=[Depends(limit)])(lambda: None)
    harden(outer)
    failed, raised = lifespan(outer)
    assert failed["type"] == "lifespan.startup.failed"
    assert "/v1/predict: its model was not loaded: pass FastAPI(lifespan=" in failed["message"]
    assert raised["message"] in failed["message"]
    assert steps == ["begun", "ended"]


def test_a_model_that_somebody_loads_or_replaces_stops_no_start(store: ModelStore) -> None:
    """The app around it has named it in its own lifespan; a test has put another in its place."""
    iris = ServedModel(store, "iris", allow=SKLEARN_LINEAR)
    outer = FastAPI(lifespan=iris.lifespan)
    outer.mount("/v1", app_of(iris, None))
    harden(outer)
    assert lifespan(outer)[0]["type"] == "lifespan.startup.complete"
    app = app_of(iris, None)
    app.dependency_overrides[iris] = lambda: None
    assert lifespan(app)[0]["type"] == "lifespan.startup.complete"


def test_it_fits_into_a_lifespan_of_your_own(store: ModelStore) -> None:
    """As a context manager, entered with the app."""
    iris = ServedModel(store, "iris", allow=SKLEARN_LINEAR)

    assert asyncio.run(start(iris)) == 1.0


def test_one_app_that_stops_leaves_the_other_its_model(store: ModelStore) -> None:
    """Two apps in one process may serve the same one."""
    iris = ServedModel(store, "iris", allow=SKLEARN_LINEAR)

    async def main() -> float:
        async with iris.lifespan(None):
            async with iris.lifespan(None):
                pass
            return float((await iris()).C)

    assert asyncio.run(main()) == 1.0
    assert iris.version is None


# Following a lockdown -------------------------------------------------------------------------------------------------


def alter(store: ModelStore, version: int) -> bytes:
    """Change a byte of a version's file. Returns what it was."""
    path = store.find("iris", version).path
    content = path.read_bytes()
    path.write_bytes(content[:-30] + bytes([content[-30] ^ 1]) + content[-29:])
    return content


def following(store: ModelStore, lockdown: Lockdown, **options: Any) -> ServedModel:
    return ServedModel(store, "iris", allow=SKLEARN_LINEAR, follow=lockdown, **options)


async def served(iris: ServedModel, version: int) -> None:
    """Wait until this version is served."""
    await asyncio.to_thread(wait_until, lambda: iris.version is not None and iris.version.version == version)


def test_a_pin_holds_from_the_start(store: ModelStore) -> None:
    """A worker that starts in an incident does not first serve what was taken out of service."""
    lockdown = Lockdown(store=MemoryStore())
    asyncio.run(lockdown.pin_model("iris", 2))
    asyncio.run(lockdown.pin_model("wine", 7))
    assert asyncio.run(start(following(store, lockdown))) == 2.0


@pytest.mark.parametrize("trouble", ["down", "unreadable"])
def test_a_pin_that_is_seen_only_after_the_start_holds_from_then_on(
    store: ModelStore, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that could not find out what is pinned does not answer with what was taken out of service."""
    shared = MemoryStore()
    asyncio.run(Lockdown(store=shared).pin_model("iris", 2))
    get = shared.get

    async def troubled(*keys: bytes) -> tuple[bytes | None, ...]:
        if trouble == "down":
            raise ZeroDivisionError
        return tuple(b"nonsense" for _ in keys)

    shared.get = troubled  # type: ignore[method-assign]
    lockdown = Lockdown(store=shared)
    iris = following(store, lockdown)

    async def main() -> None:
        async with iris.lifespan(None):
            assert (await iris()).C == 1.0  # nobody knows better; where it is installed, Lockdown refuses meanwhile
            with monkeypatch.context() as patched:
                patched.setattr(iris, "_try", lambda _: None)  # it takes its time
                shared.get = get  # type: ignore[method-assign]
                await lockdown.blocks()
                with pytest.raises(UnavailableError):
                    await iris()
            await served(iris, 2)
            assert (await iris()).C == 2.0
            await lockdown.pin_model("iris", 1)
            assert (await iris()).C == 2.0  # from now on it is one that was meant

    asyncio.run(main())


def test_pins_are_followed_whatever_a_handler_of_logs_does(store: ModelStore) -> None:
    """One that raises ends nothing, and no version is called refused that is served."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.__dict__["event"])
            if told[-1] in {"model.served", "model.kept"}:
                raise ZeroDivisionError

    lockdown = Lockdown(store=MemoryStore())
    iris = following(store, lockdown)
    logger = logging.getLogger("mlguard.audit")
    logger.setLevel(logging.INFO)
    handler = Broken()
    told: list[str] = []

    async def main() -> None:
        async with iris.lifespan(None):
            logger.addHandler(handler)
            await lockdown.pin_model("iris", 7)  # which there is not
            await asyncio.to_thread(wait_until, lambda: "model.kept" in told)
            for version in (2, 1):
                await lockdown.pin_model("iris", version)
                await served(iris, version)
                assert iris._refused is None

    try:
        asyncio.run(main())
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def test_a_pin_is_followed_and_its_end(store: ModelStore, caplog: pytest.LogCaptureFixture) -> None:
    """While the app runs: to the version that is pinned, and back to what is promoted by then."""
    caplog.set_level(logging.INFO, "mlguard.audit")
    lockdown = Lockdown(store=MemoryStore())
    iris = following(store, lockdown)

    async def main() -> list[float]:
        strengths = []
        async with iris.lifespan(None):
            strengths.append((await iris()).C)
            pin = await lockdown.pin_model("iris", 2)
            await served(iris, 2)
            strengths.append((await iris()).C)
            store.promote("iris", 2)
            await lockdown.pin_model("iris", 1)  # in the place of the other one
            await served(iris, 1)
            strengths.append((await iris()).C)
            await lockdown.lift(pin)
            await served(iris, 2)
            return [*strengths, (await iris()).C]

    assert asyncio.run(main()) == [1.0, 2.0, 1.0, 2.0]
    events = [record.__dict__ for record in caplog.records if record.__dict__.get("event") == "model.served"]
    assert [event["facts"]["version"] for event in events] == [1, 2, 1, 2]
    assert iris.version is None


def test_a_request_goes_on_with_the_model_that_it_began_with(store: ModelStore) -> None:
    """What changes does so between requests."""
    lockdown = Lockdown(store=MemoryStore())
    iris = following(store, lockdown)
    app = FastAPI(lifespan=iris.lifespan)
    lockdown.install(app)
    began, go_on = asyncio.Event(), asyncio.Event()

    @app.get("/slow")
    async def slow(model: Annotated[Any, Depends(iris)]) -> float:
        began.set()
        await go_on.wait()
        return float(model.C)

    @app.get("/quick")
    async def quick(model: Annotated[Any, Depends(iris)]) -> float:
        return float(model.C)

    async def main() -> tuple[float, float]:
        async with (
            iris.lifespan(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client,
        ):
            old = asyncio.create_task(client.get("/slow"))
            await began.wait()
            await lockdown.pin_model("iris", 2)
            await served(iris, 2)
            new = (await client.get("/quick")).json()
            go_on.set()
            return (await old).json(), new

    assert asyncio.run(main()) == (1.0, 2.0)


def test_a_version_that_is_refused_changes_nothing(store: ModelStore, caplog: pytest.LogCaptureFixture) -> None:
    """The one before is served on, that is told once, and the other is tried again in a while."""
    caplog.set_level(logging.INFO, "mlguard")
    clock = Clock(1000.0)
    lockdown = Lockdown(store=MemoryStore())
    iris = following(store, lockdown, clock=clock)
    content = alter(store, 2)
    path = store.root / "iris" / "versions" / "2" / "model.joblib"

    def refusals() -> list[Any]:
        records = [record.__dict__ for record in caplog.records]
        return [record["facts"] for record in records if record.get("event") == "model.kept"]

    async def main() -> None:
        async with iris.lifespan(None), iris.lifespan(None):
            await lockdown.pin_model("iris", 2)
            await asyncio.to_thread(wait_until, refusals)
            assert (await iris()).C == 1.0
            clock.now += 31
            await asyncio.to_thread(wait_until, lambda: iris._refused is not None and iris._refused[1] > clock.now)
            assert (await iris()).C == 1.0
            path.write_bytes(content)
            clock.now += 31
            await served(iris, 2)

    asyncio.run(main())
    assert refusals() == [{"model": "iris", "version": 1, "refused": 2, "why": "ModelSignatureError"}]
    assert str(store.root) not in str(refusals())
    assert caplog.text.count("1 is served on") == 1


def test_a_pinned_version_that_is_refused_stops_the_start(store: ModelStore) -> None:
    """There is none before it that could be served on."""
    lockdown = Lockdown(store=MemoryStore())
    asyncio.run(lockdown.pin_model("iris", 2))
    alter(store, 2)
    with pytest.raises(ModelSignatureError):
        asyncio.run(start(following(store, lockdown)))


class _Nothing:
    """Pins nothing, and counts how often it is asked."""

    knows = True

    def __init__(self) -> None:
        self.asked = 0

    async def start(self) -> None:
        """There is nothing to find out."""

    def pinned(self, model: str) -> int | None:
        self.asked += 1
        return None


def test_nothing_is_loaded_where_nothing_is_pinned(store: ModelStore, caplog: pytest.LogCaptureFixture) -> None:
    """However often it looks, and also when another version is promoted: that is for the next start."""
    caplog.set_level(logging.INFO, "mlguard.audit")
    pins = _Nothing()
    iris = ServedModel(store, "iris", allow=SKLEARN_LINEAR, follow=pins)

    async def main() -> float:
        async with iris.lifespan(None):
            store.promote("iris", 2)
            await asyncio.to_thread(wait_until, lambda: pins.asked > 3)
            return float((await iris()).C)

    assert asyncio.run(main()) == 1.0
    assert [record.__dict__.get("event") for record in caplog.records].count("model.served") == 1


def test_two_apps_load_a_pinned_version_once(store: ModelStore, caplog: pytest.LogCaptureFixture) -> None:
    """They share it."""
    caplog.set_level(logging.INFO, "mlguard.audit")
    lockdown = Lockdown(store=MemoryStore())
    iris = following(store, lockdown)

    async def main() -> None:
        async with iris.lifespan(None), iris.lifespan(None):
            caplog.clear()
            await lockdown.pin_model("iris", 2)
            await served(iris, 2)
            await asyncio.gather(*(asyncio.to_thread(iris._try, 2) for _ in range(3)))

    asyncio.run(main())
    assert [record.__dict__.get("event") for record in caplog.records].count("model.served") == 1
    iris._try(1)  # after the end, nothing is loaded
    assert iris.version is None
