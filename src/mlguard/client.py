"""What a caller of a guarded service uses."""

import re
import secrets
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from mlguard.auth.message_signatures import (
    ALGORITHM,
    REQUIRED_COMPONENTS,
    Message,
    content_digest,
    sign,
    signature_base,
    signature_params,
    signing_key,
)

_LABEL = "sig1"
_MAX_COST = 10_000  # of one try of a puzzle, as ProofOfWork has it
_HEX, _ZEROS = re.compile("[0-9a-f]{32}"), re.compile("0{1,6}")
_OWN_FIELDS = ("Signature", "Signature-Input", "Content-Digest")


class _Request(Protocol):
    """What ``httpx.Request`` and ``httpx2.Request`` have in common; neither is imported."""

    method: str
    url: Any
    headers: Any
    stream: Any

    def read(self) -> bytes: ...


_R = TypeVar("_R", bound=_Request)


class HTTPSignature:
    """Signs each request for ``SignatureAuth`` (RFC 9421, ``hmac-sha256``), as ``auth=`` of httpx and of httpx2.

    ::

        client = httpx.Client(base_url="https://api.example.com", auth=HTTPSignature("alice", secret))

    Each call signs afresh, with a new nonce and time, so a retry is no replay. It covers ``@method``, ``@authority``,
    ``@path``, ``@query`` and, when there is a body, ``content-digest`` (RFC 9530) and ``content-type``. The body is
    read into memory first, because its digest goes into the header.

    Keep ``follow_redirects`` off, as it is by default: httpx signs once and sends the same signature wherever it is
    redirected. A redirect from ``http`` to ``https`` would succeed, after the request went over the wire unencrypted.

    Args:
        key_id: The name under which the service knows the secret.
        secret: The shared secret, as str (UTF-8) or bytes, at least 128 bits.
        clock: Seconds since 1970; for tests.

    Raises:
        ConfigurationError: The key id is empty or not ASCII, or the secret is too weak. When built.
        TypeError: The body is an asynchronous stream that has not been read. When called.
    """

    def __init__(self, key_id: str, secret: str | bytes, *, clock: Callable[[], float] = time.time) -> None:
        self._key = signing_key(key_id, secret, where="HTTPSignature(key_id, secret)")
        self._key_id = key_id
        self._clock = clock

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._key_id!r})"

    def __call__(self, request: _R) -> _R:
        """Sign the request and return it."""
        body = _body(request)
        for name in _OWN_FIELDS:
            request.headers.pop(name, None)
        components = list(REQUIRED_COMPONENTS)
        if body or "transfer-encoding" in request.headers:  # an empty stream is announced as a body
            request.headers["Content-Digest"] = content_digest(body)
            components += [name for name in ("content-digest", "content-type") if name in request.headers]
        params = signature_params(
            components,
            {
                "created": int(self._clock()),
                "nonce": secrets.token_urlsafe(16),
                "keyid": self._key_id,
                "alg": ALGORITHM,
            },
        )
        signature = sign(self._key, signature_base(_message(request), components, params))
        request.headers["Signature-Input"] = f"{_LABEL}={params}"
        request.headers["Signature"] = f"{_LABEL}=:{b64encode(signature).decode()}:"
        return request


def solve_challenge(challenge: Mapping[str, Any], *, timeout: float = 90.0) -> str:
    """The solution of a puzzle of ``ProofOfWork``, for the header ``X-Altcha``.

    ::

        answer = client.get("/predict")
        if answer.status_code == 429 and "challenge" in answer.json():
            answer = client.get("/predict", headers={"X-Altcha": solve_challenge(answer.json()["challenge"])})

    Takes as long as the service has set, about a second by default, on one core; one puzzle in twenty takes four.
    In a coroutine, call it by ``asyncio.to_thread``. Needs the extra ``altcha``.

    Args:
        challenge: The member ``challenge`` of the refusal.
        timeout: Seconds after which to give up.

    Raises:
        ImportError: The package altcha is not installed.
        TimeoutError: There was no solution in time.
        ValueError: It is no puzzle of ``ProofOfWork``. Nothing else is solved: another service could ask for hours in
            one try, or for gigabytes of memory.
    """
    import altcha  # noqa: PLC0415  # an extra

    try:
        puzzle = altcha.Challenge.from_dict(dict(challenge))
        _check_puzzle(puzzle.parameters)
    except (TypeError, KeyError, AttributeError):
        raise ValueError("this is no challenge of ProofOfWork") from None
    solution = altcha.solve_challenge(puzzle, timeout=timeout)
    if solution is None:
        raise TimeoutError(f"the challenge was not solved within {timeout:g} s")
    return altcha.Payload(puzzle, solution).to_base64()


def _check_puzzle(parameters: Any) -> None:
    """Refuse what ``ProofOfWork`` does not ask."""
    is_ours = (
        parameters.algorithm == "PBKDF2/SHA-256"
        and type(parameters.cost) is int
        and 1 <= parameters.cost <= _MAX_COST
        and parameters.key_length == 32
        and _HEX.fullmatch(parameters.nonce)
        and _HEX.fullmatch(parameters.salt)
        and _ZEROS.fullmatch(parameters.key_prefix)
    )
    if not is_ours:
        raise ValueError("this is no challenge of ProofOfWork")


def _body(request: _Request) -> bytes:
    if not isinstance(request.stream, Iterable):
        raise TypeError(
            "HTTPSignature signs the body and cannot wait for an asynchronous stream: build the request first, "
            "`await request.aread()`, then `await client.send(request, auth=...)`"
        )
    return request.read()


def _message(request: _Request) -> Message:
    fields: dict[str, list[bytes]] = {}
    for name, value in request.headers.raw:
        fields.setdefault(name.decode("latin-1").lower(), []).append(value)
    path, _, query = request.url.raw_path.decode("ascii").partition("?")
    return Message(
        method=request.method,
        scheme=request.url.scheme,
        authority=request.headers["host"],
        path=path,
        query=query,
        fields=fields,
    )
