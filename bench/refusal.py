"""What a refusal costs: 64 MiB from somebody without a key, over a socket.

Bare FastAPI reads and parses the body before it looks for the key. The body is JSON that it can parse, or it would not
get as far as its 401. The client sends as fast as the server takes it, until the answer is there.
"""

import json
import logging
import select
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Security
from fastapi.security import APIKeyHeader

from bench.predict import ANSWER, LIMITS, Row
from bench.report import Line, Table
from bench.serving import Served, serve
from bench.timing import take_turns
from mlguard.auth.api_keys import APIKey, APIKeyAuth, APIKeys
from mlguard.hardening import harden
from mlguard.traffic.rate import RateLimit

_MIB = 1_048_576
_CHUNK = _MIB
_PATIENCE = 60.0  # seconds without a byte


def bare() -> FastAPI:
    """A key check with what FastAPI has."""
    app = FastAPI()
    key_header = APIKeyHeader(name="X-API-Key", auto_error=False)

    async def check_key(key: Annotated[str | None, Depends(key_header)]) -> None:
        if key is None:
            raise HTTPException(401, "Not authenticated", {"WWW-Authenticate": "APIKey"})

    @app.post("/predict", response_model=None, dependencies=[Depends(check_key)])
    async def predict(body: Row) -> Any:  # noqa: ARG001  # never reached
        return ANSWER

    return app


def guarded() -> FastAPI:
    """The same endpoint behind mlguard."""
    logging.getLogger("mlguard").setLevel(logging.CRITICAL)  # a refusal a line would be the terminal's speed
    key, _ = APIKey.generate("bench", scopes={"predict"})
    app = FastAPI()
    harden(app)
    caller = APIKeyAuth(APIKeys([key]))
    steady = RateLimit(*LIMITS, by=caller)

    @app.post("/predict", response_model=None, dependencies=[Security(caller, scopes=["predict"]), Depends(steady)])
    async def predict(body: Row) -> Any:  # noqa: ARG001  # never reached
        return ANSWER

    return app


async def measure(*, short: bool) -> Table:
    """Both services run throughout and are asked in turns."""
    size = (2 if short else 64) * _MIB
    small, large = _request(64), _request(size)
    with ExitStack() as stack:
        served = {name: stack.enter_context(serve(f"{__name__}:{name}")) for name in ("bare", "guarded")}
        for service in served.values():
            for _ in range(20):
                _refused(service, small)
        growth = {name: _memory_growth(service, large) for name, service in served.items()}

        def call(service: Served) -> Any:
            async def refused() -> None:
                _refused(service, large)

            return refused

        calls = {name: call(service) for name, service in served.items()}
        timing = await take_turns(calls, rounds=1 if short else 9, calls=1)
    work = f"no key, {size // _MIB} MiB body"
    return Table("A refusal, over a socket", [Line(work, timing, 0.05)], [_spell_growth(growth)])


def _request(size: int) -> bytes:
    """A request without a key and with a body of about so many bytes, ready to be sent."""
    number = b"5.843333333333334,"
    body = b'{"features":[' + number * (size // len(number)) + b"0.5]}"
    head = "POST /predict HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _refused(service: Served, request: bytes) -> None:
    """Send a request and wait for the whole answer, which must be a 401."""
    answer = _exchange(service.address, request)
    head_of_answer, _, content = answer.partition(b"\r\n\r\n")
    if not head_of_answer.startswith(b"HTTP/1.1 401 ") or not json.loads(content)["detail"]:
        raise AssertionError(f"not refused as it should be: {answer[:200]!r}")


def _exchange(address: tuple[str, int], request: bytes) -> bytes:
    answer = bytearray()
    unsent = memoryview(request)
    with socket.create_connection(address, timeout=_PATIENCE) as connection:
        connection.setblocking(False)
        while not _is_complete(answer):
            readable, writable, _ = select.select([connection], [connection] if unsent else [], [], _PATIENCE)
            if readable:
                received = connection.recv(65_536)
                if not received:
                    break
                answer += received
            elif writable:
                try:
                    unsent = unsent[connection.send(unsent[:_CHUNK]) :]
                except (ConnectionResetError, BrokenPipeError):  # it has answered and hung up
                    unsent = unsent[:0]
            else:
                raise TimeoutError("the server neither reads nor answers")
    return bytes(answer)


def _is_complete(answer: bytearray) -> bool:
    head, end, content = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(lengths) and len(content) >= int(lengths[0])


def _memory_growth(service: Served, request: bytes) -> int | None:
    """Bytes by which the service's peak memory is above what it used before; None where the system does not tell."""
    try:
        service.reset_peak_memory()
        before = service.memory("VmRSS")
        _refused(service, request)
        return service.memory("VmHWM") - before
    except OSError:
        return None


def _spell_growth(growth: Mapping[str, int | None]) -> str:
    bare_growth, guarded_growth = growth["bare"], growth["guarded"]
    if bare_growth is None or guarded_growth is None:
        return "Peak memory is only measured on Linux."
    met = "yes" if guarded_growth <= _MIB else "NO"
    return (
        f"Peak memory growth: bare {bare_growth / _MIB:.1f} MiB, guarded {guarded_growth / _MIB:.2f} MiB; "
        f"target <= 1 MiB, met: {met}"
    )
