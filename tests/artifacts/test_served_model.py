"""A service starts with the model that it was meant to start with, or not at all."""

import asyncio
import logging
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

from mlguard import ConfigurationError, Features, ModelSignatureError, ModelStore, ServedModel, harden
from mlguard.artifacts.allowed_globals import SKLEARN_LINEAR
from tests.servers import serving

X, Y = load_iris(return_X_y=True)
KEY = generate_private_key(SECP256R1())
ROWS = {"features": X[:2].tolist()}


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore(tmp_path / "models", key=KEY.public_key(), signing_key=KEY)
    for strength in (1.0, 2.0):
        joblib.dump(LogisticRegression(C=strength, max_iter=500).fit(X, Y), tmp_path / "iris.joblib")
        store.save("iris", tmp_path / "iris.joblib")
    store.promote("iris", 1)
    return store


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
    """Callers get a 503, and the log says what is missing."""
    iris = ServedModel(store, "iris", allow=SKLEARN_LINEAR)
    with serving(app_of(iris, None)) as url:
        answer = httpx.post(f"{url}/predict", json=ROWS, trust_env=False)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "lifespan" not in answer.text
    assert "pass FastAPI(lifespan=" in caplog.text


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
