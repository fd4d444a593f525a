"""The endpoint guarded the usual way: what tutorials and answers on the web put together.

A key check as a plain function, a token by python-jose as FastAPI's tutorial has it, slowapi's limiter, and pydantic
validators in Python for what a model does not survive.
"""

import math
import secrets
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from jose import JWTError, jwt
from pydantic import BaseModel, field_validator

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # slowapi uses what newer Pythons deprecate
    from slowapi import Limiter, _rate_limit_exceeded_handler
    from slowapi.errors import RateLimitExceeded
    from slowapi.util import get_remote_address

_JWT_SECRET = secrets.token_hex(32)


def usual(
    answer: Callable[[Any], Any],
    *,
    columns: int,
    max_rows: int,
    low: float,
    high: float,
    limits: tuple[str, ...],
    secret: str,
) -> FastAPI:
    """The app.

    Args:
        answer: The endpoint's work: takes the features, returns the answer.
        columns: Numbers in a row.
        max_rows: Rows in a batch; 1 for a single row, without the outer list.
        low: The smallest value allowed.
        high: The largest value allowed.
        limits: For slowapi, each such as ``"60/minute"``.
        secret: The API key.
    """

    def check_key(key: Annotated[str | None, Depends(APIKeyHeader(name="X-API-Key", auto_error=False))]) -> str:
        for known, name in {secret: "bench"}.items():
            if known == key:
                return name
        raise HTTPException(401, "Invalid API key")

    app = FastAPI()
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]  # slowapi's own
    app.state.limiter = limiter = Limiter(key_func=get_remote_address)
    make_model = _row_model if max_rows == 1 else _batch_model
    model: Any = make_model(columns, max_rows, low, high)
    guards = [Depends(check_key), Depends(_check_token)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)

        @app.post("/predict", response_model=None, dependencies=guards)
        @limiter.limit(";".join(limits))
        async def predict(request: Request, body: model) -> Any:  # noqa: ARG001  # slowapi wants the request
            return answer(body.features)

    return app


def usual_token() -> str:
    """What the ``Authorization`` header must carry, behind ``Bearer``."""
    claims = {"sub": "bench", "scopes": ["predict"], "exp": datetime.now(UTC) + timedelta(hours=1)}
    return str(jwt.encode(claims, _JWT_SECRET, algorithm="HS256"))


async def _check_token(credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> Any:
    try:
        claims = jwt.decode(credentials.credentials, _JWT_SECRET, algorithms=["HS256"])
    except JWTError:
        raise HTTPException(401, "Could not validate credentials") from None
    if "predict" not in claims["scopes"]:
        raise HTTPException(403, "Not enough permissions")
    return claims


def _row_model(columns: int, _: int, low: float, high: float) -> type[BaseModel]:
    class CheckedRow(BaseModel):
        features: list[float]

        @field_validator("features")
        @classmethod
        def check(cls, row: list[float]) -> list[float]:
            return _checked(row, columns, low, high)

    return CheckedRow


def _batch_model(columns: int, max_rows: int, low: float, high: float) -> type[BaseModel]:
    class CheckedBatch(BaseModel):
        features: list[list[float]]

        @field_validator("features")
        @classmethod
        def check(cls, rows: list[list[float]]) -> list[list[float]]:
            if len(rows) > max_rows:
                raise ValueError("too many rows")
            return [_checked(row, columns, low, high) for row in rows]

    return CheckedBatch


def _checked(row: list[float], columns: int, low: float, high: float) -> list[float]:
    if len(row) != columns:
        raise ValueError("wrong number of features")
    for value in row:
        if not math.isfinite(value):
            raise ValueError("must be finite")
        if not low <= value <= high:
            raise ValueError("out of range")
    return row
