"""Guards on a real server: uvicorn on loopback, spoken to byte by byte."""

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import numpy as np
import pytest
import uvicorn
from fastapi import Depends, FastAPI, Security, WebSocket
from fastapi.responses import StreamingResponse
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from mlguard import APIKey, APIKeyAuth, APIKeys, Features, Principal, RateLimit, harden
from mlguard.memory_store import MemoryStore

RECORD, SECRET = APIKey.generate("alice", scopes={"predict"})
KEY = f"X-API-Key: {SECRET}\r\n"


def make_app() -> FastAPI:
    """A guarded prediction, a WebSocket behind a key, a stream that breaks."""
    caller = APIKeyAuth(APIKeys([RECORD]))
    per_caller = RateLimit("2/minute", by=caller, store=MemoryStore())
    app = FastAPI()
    rows = Features(columns=2, low=0, high=10, max_rows=1_000)

    @app.post("/predict", dependencies=[Security(caller, scopes=["predict"])])
    async def predict(x: Annotated[np.ndarray, Depends(rows)]) -> float:
        return float(x.sum())

    @app.get("/broken")
    async def broken() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"first"
            raise ZeroDivisionError("secret inside")

        return StreamingResponse(pieces())

    @app.websocket("/ws")
    async def echo(websocket: WebSocket, principal: Annotated[Principal, Security(caller, scopes=["predict"])]) -> None:
        await websocket.accept()
        await websocket.send_text(principal.id)
        await websocket.send_text(await websocket.receive_text())

    @app.websocket("/counted")
    async def counted(websocket: WebSocket, _: Annotated[None, Depends(per_caller)]) -> None:
        await websocket.accept()
        await websocket.close()

    @app.websocket("/crash")
    async def crash(websocket: WebSocket) -> None:
        await websocket.accept()
        raise ZeroDivisionError("secret inside")

    @app.websocket("/typed/{number}")
    async def typed(websocket: WebSocket, number: int) -> None:
        await websocket.accept()

    harden(app, max_body_size=1_000)
    return app


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    """A running server, stopped at the end."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(), log_level="critical", lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    # The socket listens already: a client that connects now is served as soon as the server is up.
    yield listening.getsockname()
    server.should_exit = True
    thread.join(10)
    listening.close()


def talk(address: tuple[str, int], *sent: bytes, until_closed: bool = False) -> bytes:
    """Send bytes, and read until the answer's headers and body are there or the server closes."""
    with socket.create_connection(address, timeout=60) as connection:
        for piece in sent:
            connection.sendall(piece)
        received = b""
        # A server that closes on a body it has not read resets the connection, after what it said.
        while piece := _receive(connection):
            received += piece
            head, _, body = received.partition(b"\r\n\r\n")
            lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if not until_closed and lengths and len(body) >= int(lengths[0]):
                break
        return received


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65_536)
    except ConnectionResetError:
        return b""


def post(*headers: str) -> bytes:
    """The head of a prediction request."""
    lines = "".join(header if header.endswith("\r\n") else header + "\r\n" for header in headers)
    return f"POST /predict HTTP/1.1\r\nHost: service.test\r\nContent-Type: application/json\r\n{lines}\r\n".encode()


def test_chunked_body_is_read(address: tuple[str, int]) -> None:
    """A body without a declared length reaches the model whole."""
    chunks = b"10\r\n" + b'{"features": [1,' + b"\r\n" + b"4\r\n 2]}\r\n0\r\n\r\n"
    answer = talk(address, post(KEY, "Transfer-Encoding: chunked"), chunks)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n3.0")


def test_endless_chunked_body_is_cut_off(address: tuple[str, int]) -> None:
    """A body that never ends is refused as soon as it is too large, and the connection closed."""
    answer = talk(
        address, post(KEY, "Transfer-Encoding: chunked"), b"400\r\n" + b" " * 1024 + b"\r\n", until_closed=True
    )
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer.lower()


def test_refusal_comes_before_the_body_is_sent(address: tuple[str, int]) -> None:
    """Without a key the 401 is there although not one byte of the announced body was sent."""
    answer = talk(address, post("Content-Length: 900"))
    assert answer.startswith(b"HTTP/1.1 401")


def test_refusal_of_a_large_body_closes_the_connection(address: tuple[str, int]) -> None:
    """Gigabytes announced, a kilobyte sent: 401, and nobody waits for the rest."""
    answer = talk(address, post("Content-Length: 9000000000"), b" " * 1024, until_closed=True)
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"connection: close" in answer.lower()


def test_oversized_body_with_a_key_is_refused_unread(address: tuple[str, int]) -> None:
    """With a key the declared length alone decides."""
    answer = talk(address, post(KEY, "Content-Length: 1001"))
    assert answer.startswith(b"HTTP/1.1 413")


def test_expect_continue_is_refused_without_a_continue(address: tuple[str, int]) -> None:
    """A client that asks first is told no before it sends anything."""
    answer = talk(address, post("Content-Length: 900", "Expect: 100-continue"))
    assert answer.startswith(b"HTTP/1.1 401")


def test_half_sent_body_leaves_the_service_well(address: tuple[str, int]) -> None:
    """A client that goes away in the middle of its body disturbs nobody else."""
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(post(KEY, "Content-Length: 500") + b'{"features": [')
    body = b'{"features": [1, 2]}'
    assert talk(address, post(KEY, f"Content-Length: {len(body)}"), body).endswith(b"3.0")


def test_connection_survives_a_small_refused_body(address: tuple[str, int]) -> None:
    """A refused request with a small body costs no new connection: the next one on it is answered."""
    body = b'{"features": [1, 2]}'
    refused = post(f"Content-Length: {len(body)}") + body
    accepted = post(KEY, f"Content-Length: {len(body)}", "Connection: close") + body
    answer = talk(address, refused, accepted, until_closed=True)
    assert answer.count(b"HTTP/1.1 401") == 1
    assert answer.endswith(b"3.0")


def test_latin_1_key_is_a_401(address: tuple[str, int]) -> None:
    """Bytes that are no ASCII are a wrong key like any other."""
    request = post("Content-Length: 2", "X-API-Key: KEY").replace(b"KEY", b"\xe9\xff") + b"{}"
    assert talk(address, request).startswith(b"HTTP/1.1 401")


def test_broken_stream_is_seen_by_the_client(address: tuple[str, int]) -> None:
    """The stream ends without its last chunk, and nothing of the crash is in it."""
    answer = talk(address, b"GET /broken HTTP/1.1\r\nHost: service.test\r\n\r\n", until_closed=True)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"first" in answer
    assert not answer.endswith(b"0\r\n\r\n")
    assert b"inside" not in answer


def test_websocket_with_a_key_is_served(address: tuple[str, int]) -> None:
    """APIKeyAuth works on a WebSocket handshake and gives the endpoint its principal."""
    with connect(f"ws://{address[0]}:{address[1]}/ws", additional_headers={"X-API-Key": SECRET}) as websocket:
        websocket.send("hello")
        assert [websocket.recv(), websocket.recv()] == ["alice", "hello"]


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "wrong"}])
def test_websocket_without_a_key_is_refused_with_a_problem(address: tuple[str, int], headers: dict[str, str]) -> None:
    """The handshake is answered 401 with a problem, and no connection comes about."""
    url = f"ws://{address[0]}:{address[1]}/ws"
    with pytest.raises(InvalidStatus) as refused, connect(url, additional_headers=headers):
        pass
    response = refused.value.response
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "APIKey"
    assert len(response.headers["x-request-id"]) == 16


def test_websocket_handshakes_are_counted(address: tuple[str, int]) -> None:
    """A limit counts handshakes as it counts requests."""
    url, key = f"ws://{address[0]}:{address[1]}/counted", {"X-API-Key": SECRET}
    for _ in range(2):
        with connect(url, additional_headers=key):
            pass
    with pytest.raises(InvalidStatus) as refused, connect(url, additional_headers=key):
        pass
    assert refused.value.response.status_code == 429
    assert int(refused.value.response.headers["retry-after"]) > 0


def test_websocket_crash_closes_with_1011(address: tuple[str, int]) -> None:
    """The peer learns that it was an internal error, and nothing else."""
    with (
        connect(f"ws://{address[0]}:{address[1]}/crash") as websocket,
        pytest.raises(ConnectionClosedError) as closed,
    ):
        websocket.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1011, "")


def test_websocket_parameters_that_do_not_validate_are_refused(address: tuple[str, int]) -> None:
    """FastAPI's own handler would send the errors as the reason; here nothing is said."""
    with pytest.raises(InvalidStatus) as refused, connect(f"ws://{address[0]}:{address[1]}/typed/attacker"):
        pass
    assert refused.value.response.status_code == 403
