"""HTTPSignature: what httpx and httpx2 send with it, SignatureAuth accepts."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import httpx2
import pytest
from fastapi import Depends, FastAPI, Request, Response
from hypothesis import given, settings
from hypothesis import strategies as st

from mlguard._guard import Principal
from mlguard.auth.signing import SignatureAuth
from mlguard.client import HTTPSignature
from mlguard.errors import ConfigurationError
from mlguard.memory_store import MemoryStore

SECRET = hashlib.sha256(b"of alice").hexdigest()
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
LIBRARIES: list[Any] = [httpx, httpx2]

both = pytest.mark.parametrize("library", LIBRARIES, ids=["httpx", "httpx2"])


def make_app() -> FastAPI:
    app = FastAPI()
    auth = SignatureAuth({"alice": SECRET}, store=MemoryStore())

    @app.api_route("/{path:path}", methods=METHODS)
    async def echo(request: Request, caller: Annotated[Principal, Depends(auth)]) -> Response:
        return Response(await request.body(), headers={"X-Caller": caller.id})

    return app


APP = make_app()
SIGNATURE = HTTPSignature("alice", SECRET)


def call(library: Any, method: str, url: str, **arguments: Any) -> Any:
    """Send one request to the guarded app."""

    async def main() -> Any:
        transport = library.ASGITransport(APP)
        async with library.AsyncClient(transport=transport, auth=SIGNATURE) as client:
            return await client.request(method, url, **arguments)

    return asyncio.run(main())


PATHS = st.one_of(
    # Starlette's ``{path:path}`` takes everything but a line feed.
    st.text(st.characters(exclude_characters="\n"), max_size=20).map(lambda text: quote(text, errors="replace")),
    st.text("abc/._~!$&'()*+,;=:@-%é €\"<>[]^`{|}", max_size=20),
)
QUERIES = st.one_of(
    st.text(max_size=20).map(lambda text: "?" + quote(text, safe="&=", errors="replace")),
    st.text("abc?/&=%+é ;:@'\"", max_size=20).map(lambda text: "?" + text),
    st.just(""),
)
HOSTS = st.sampled_from(["api.example.com", "API.Example.COM", "api.example.com:80", "api.example.com:8443", "[::1]:8"])
URLS = st.tuples(st.sampled_from(["http://", "https://"]), HOSTS, st.just("/"), PATHS, QUERIES).map("".join)
HEADERS = st.dictionaries(
    st.sampled_from(["X-Model", "Content-Type", "X-Trace", "Content-Digest", "Signature", "Signature-Input"]),
    st.text('abc =:;",/1', max_size=20),
)


@settings(deadline=None, max_examples=200)
@given(
    library=st.sampled_from(LIBRARIES),
    method=st.sampled_from(METHODS),
    url=URLS,
    headers=HEADERS,
    body=st.binary(max_size=200),
)
def test_what_is_signed_is_accepted(library: Any, method: str, url: str, headers: dict[str, str], body: bytes) -> None:
    """Any method, path, query, header and body that the client can send comes through."""
    answer = call(library, method, url, headers=headers, content=body)
    assert answer.status_code == 200
    assert answer.headers["x-caller"] == "alice"
    assert answer.content == (b"" if method == "HEAD" else body)


@both
@pytest.mark.parametrize(
    "arguments",
    [
        {"json": {"features": [1, 2]}},
        {"data": {"a": "b"}},
        {"files": {"file": ("x.csv", b"1,2,3", "text/csv")}},
        {"params": {"a": "b c/é"}},
        {"headers": {"Host": "Other.example.com:443"}},
    ],
)
def test_every_kind_of_body(library: Any, arguments: dict[str, Any]) -> None:
    """JSON, forms, files and query parameters are signed as they are sent."""
    assert call(library, "POST", "https://api.example.com/predict", **arguments).status_code == 200


@both
@pytest.mark.parametrize("chunks", [[b"a", b"b"], []])
def test_streams_are_read_first(library: Any, chunks: list[bytes]) -> None:
    """A synchronous stream, an empty one too, is read into memory and signed."""

    def stream() -> Iterator[bytes]:
        yield from chunks

    answer = call(library, "POST", "https://api.example.com/", content=stream())
    assert (answer.status_code, answer.content) == (200, b"".join(chunks))


@both
def test_an_unread_asynchronous_stream_is_refused_with_the_fix(library: Any) -> None:
    """The signature needs the whole body, so an asynchronous stream has to be read first, and then it passes."""

    async def stream() -> AsyncIterator[bytes]:
        yield b"abc"

    with pytest.raises(TypeError, match="asynchronous stream"):
        call(library, "POST", "https://api.example.com/", content=stream())

    async def main() -> int:
        async with library.AsyncClient(transport=library.ASGITransport(APP)) as client:
            request = client.build_request("POST", "https://api.example.com/", content=stream())
            await request.aread()
            return int((await client.send(request, auth=SIGNATURE)).status_code)

    assert asyncio.run(main()) == 200


@both
def test_each_attempt_is_signed_afresh(library: Any) -> None:
    """A retry of the same request is no replay: its nonce is new, its old signature gone."""

    async def main() -> list[int]:
        async with library.AsyncClient(transport=library.ASGITransport(APP)) as client:
            request = client.build_request("POST", "https://api.example.com/predict", json=[1])
            return [(await client.send(request, auth=SIGNATURE)).status_code for _ in range(3)]

    assert asyncio.run(main()) == [200, 200, 200]


@both
def test_what_is_covered(library: Any) -> None:
    """With a body the digest and the content type are covered, without one only the request line and host."""
    signature = HTTPSignature("alice", SECRET, clock=lambda: 1618884473.9)
    request = signature(library.Request("POST", "https://api.example.com/predict", json=[1]))
    [label, parameters] = request.headers["Signature-Input"].split(";", 1)
    assert label == 'sig1=("@method" "@authority" "@path" "@query" "content-digest" "content-type")'
    assert parameters.startswith("created=1618884473;nonce=")
    assert parameters.endswith(';keyid="alice";alg="hmac-sha256"')
    assert "content-digest" in request.headers
    bare = signature(library.Request("GET", "https://api.example.com/", headers={"Content-Type": "text/plain"}))
    assert bare.headers["Signature-Input"].startswith('sig1=("@method" "@authority" "@path" "@query");')
    assert "content-digest" not in bare.headers
    untyped = signature(library.Request("POST", "https://api.example.com/", content=b"x"))
    assert '"content-digest");' in untyped.headers["Signature-Input"]


def test_synchronous_clients_take_it_too() -> None:
    """Both libraries' own types accept it as ``auth=``, and call it for each request."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=request.headers["Signature-Input"])

    def answer2(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, text=request.headers["Signature-Input"])

    url = "https://api.example.com/"
    with httpx.Client(auth=SIGNATURE, transport=httpx.MockTransport(answer)) as client:
        assert client.get(url).text != client.get(url).text
    with httpx2.Client(auth=SIGNATURE, transport=httpx2.MockTransport(answer2)) as client2:
        assert client2.get(url).text != client2.get(url).text


def test_a_content_type_that_cannot_be_signed_is_an_error_here() -> None:
    """A covered header must be ASCII, or the service would refuse it: the developer hears of it at once."""
    request = httpx.Request("POST", "https://api.example.com/", content=b"x", headers={b"Content-Type": b"\xe9"})
    with pytest.raises(ValueError, match="content-type"):
        SIGNATURE(request)


@pytest.mark.parametrize(
    ("key_id", "secret"),
    [("", SECRET), ("é", SECRET), ("a\r\nb", SECRET), ("alice", "short"), ("alice", ""), ("alice", None)],
)
def test_settings_that_cannot_work(key_id: str, secret: Any) -> None:
    """A key id that cannot be sent and a weak secret are refused when the object is built."""
    with pytest.raises(ConfigurationError):
        HTTPSignature(key_id, secret)


def test_the_repr_shows_no_secret() -> None:
    """Only the key id is shown."""
    assert repr(SIGNATURE) == "HTTPSignature('alice')"
