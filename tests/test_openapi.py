"""A person who opens /docs can authorise and try the call; in production there is no /docs."""

from typing import Annotated, Any

import numpy as np
import orjson
import pytest
from fastapi import APIRouter, Depends, FastAPI, Security
from pydantic import BaseModel

from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    Features,
    JWTAuth,
    RateLimit,
    SignatureAuth,
    harden,
)
from mlguard.memory_store import MemoryStore
from tests.asgi import call

PAGES = ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect")


class Numbers(BaseModel):
    features: list[float]


def guarded_app(**settings: Any) -> FastAPI:
    """An app with every guard, in an included router."""
    caller = APIKeyAuth(APIKeys([APIKey.generate("alice")[0]]))
    token = JWTAuth("k3Zq8vN1xW5tR7yB2mC9dF4gH6jL0pQs", algorithms=["HS256"])
    signed = SignatureAuth({"robot": "k3Zq8vN1xW5tR7yB2mC9dF4gH6jL0pQs"}, store=MemoryStore())
    steady = RateLimit("60/minute", by=caller, store=MemoryStore())
    rows = Features(columns=["confidential", "other"], low=0, high=10, max_rows=5)
    app, router = FastAPI(), APIRouter()

    @router.post("/predict", dependencies=[Security(caller, scopes=["predict"]), Depends(steady)])
    async def predict(x: Annotated[np.ndarray, Depends(rows)]) -> int:
        return len(x)

    @router.post("/model", dependencies=[Depends(token)])
    async def model(body: Numbers) -> None: ...

    @router.get("/signed", dependencies=[Depends(signed)])
    async def read() -> None: ...

    @app.get("/hidden", include_in_schema=False, dependencies=[Depends(caller)])
    async def hidden() -> None: ...

    @app.get("/open")
    async def open_(q: int = 0) -> None: ...

    app.include_router(router, prefix="/v1")
    harden(app, **settings)
    return app


@pytest.mark.parametrize("path", PAGES)
def test_documentation_is_off_in_production(path: str) -> None:
    """Nothing about the service is published by default."""
    assert call(guarded_app(), path, method="GET").status == 404


@pytest.mark.parametrize("path", PAGES)
def test_documentation_is_on_in_development(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLGUARD_ENV=development turns the pages on; they may load Swagger's assets and nothing else."""
    monkeypatch.setenv("MLGUARD_ENV", "development")
    answer = call(guarded_app(), path, method="GET")
    assert answer.status == 200
    assert "https://cdn.jsdelivr.net" in answer.headers["content-security-policy"]


def test_documentation_can_be_switched_off_in_development(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument wins over the environment."""
    monkeypatch.setenv("MLGUARD_ENV", "development")
    assert call(guarded_app(docs=False), "/docs", method="GET").status == 404


def test_guarded_route_shows_padlock_body_and_refusals() -> None:
    """What Swagger UI needs to let a person authorise and try the call."""
    schema = call(guarded_app(docs=True), "/openapi.json", method="GET").json
    predict = schema["paths"]["/v1/predict"]["post"]
    assert {name for one in predict["security"] for name in one} == {"APIKeyAuth"}
    assert set(predict["responses"]) >= {"200", "401", "403", "413", "415", "422", "429"}
    body = predict["requestBody"]["content"]["application/json"]
    assert predict["requestBody"]["required"] is True
    assert list(body["schema"]["properties"]) == ["features"]
    assert "confidential" not in str(schema)
    assert {scheme["type"] for scheme in schema["components"]["securitySchemes"].values()} == {"apiKey", "http"}


def test_refusals_are_documented_as_problems() -> None:
    """Every 4xx that a guard gives refers to one schema, also FastAPI's own 422."""
    schema = call(guarded_app(docs=True), "/openapi.json", method="GET").json
    problem = {"$ref": "#/components/schemas/mlguard.Problem"}
    for path, method in (("/v1/predict", "post"), ("/v1/model", "post"), ("/v1/signed", "get"), ("/open", "get")):
        for status, response in schema["paths"][path][method]["responses"].items():
            if int(status) >= 400:
                assert response["content"] == {"application/problem+json": {"schema": problem}}
    assert "HTTPValidationError" not in str(schema)
    assert {"type", "title", "status", "detail", "request_id"} == set(
        schema["components"]["schemas"]["mlguard.Problem"]["required"]
    )


def test_unguarded_route_gets_no_refusals_of_guards() -> None:
    """Only what a route really demands is documented."""
    schema = call(guarded_app(docs=True), "/openapi.json", method="GET").json
    assert set(schema["paths"]["/open"]["get"]["responses"]) == {"200", "422"}
    assert "/hidden" not in schema["paths"]


def test_documented_example_is_accepted() -> None:
    """The example that Swagger UI fills in passes the guard."""
    rows = Features(columns=3, low=[0, -5, 10], high=[1, -4, 20], max_rows=2)
    app = FastAPI()

    @app.post("/predict")
    async def predict(x: Annotated[np.ndarray, Depends(rows)]) -> int:
        return len(x)

    harden(app, docs=True)
    schema = call(app, "/openapi.json", method="GET").json
    content = schema["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    example = content.get("example") or content["schema"].get("example") or content["schema"]["examples"][0]
    answer = call(app, headers=[(b"content-type", b"application/json")], chunks=[orjson.dumps(example)])
    assert answer.status == 200


def test_own_openapi_responses_are_kept() -> None:
    """A response that a developer documented is not overwritten."""
    caller = APIKeyAuth(APIKeys([APIKey.generate("alice")[0]]))
    app = FastAPI()

    @app.get("/predict", dependencies=[Depends(caller)], responses={401: {"description": "mine"}})
    async def predict() -> None: ...

    harden(app, docs=True)
    schema = call(app, "/openapi.json", method="GET").json
    assert schema["paths"]["/predict"]["get"]["responses"]["401"]["description"] == "mine"
    assert call(app, "/openapi.json", method="GET").json == schema


def test_schema_that_a_developer_trimmed_is_left_trimmed() -> None:
    """An ``openapi`` function of the app's own may leave routes out, and may still use FastAPI's error schema."""
    app = FastAPI()

    @app.get("/predict")
    async def predict(q: int) -> None: ...

    def trimmed() -> dict[str, Any]:
        reference = {"$ref": "#/components/schemas/HTTPValidationError"}
        return {
            "paths": {"/other": {"get": {"responses": {"400": {"content": reference}}}}},
            "components": {"schemas": {"HTTPValidationError": {"type": "object"}}},
        }

    app.openapi = trimmed  # type: ignore[method-assign]  # the way that FastAPI's documentation gives
    harden(app, docs=True)
    schema = call(app, "/openapi.json", method="GET").json
    assert set(schema["paths"]) == {"/other"}
    assert set(schema["components"]["schemas"]) == {"HTTPValidationError", "mlguard.Problem"}
