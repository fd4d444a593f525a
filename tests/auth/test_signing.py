"""RFC 9421 signatures as the guard judges them: what passes, and every way in which nothing else does."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import httpx
import httpx2
import pytest
from fastapi import Depends, FastAPI, Form, Request, Security, WebSocket
from fastapi.security import SecurityScopes
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, HTTPSignatureKeyResolver, algorithms
from http_message_signatures.httpx2 import adapt_message
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from mlguard import _guard
from mlguard.auth.message_signatures import (
    MalformedSignatureError,
    Message,
    ReceivedSignature,
    content_digest,
    read_signature,
    sign,
    signature_base,
    signature_params,
)
from mlguard.auth.signing import SignatureAuth
from mlguard.client import HTTPSignature
from mlguard.errors import ConfigurationError, InsufficientScopeError, NotAuthenticatedError, StoreFullError
from mlguard.memory_store import MemoryStore

NOW = 1_700_000_000
ALICE = hashlib.sha256(b"of alice").digest()
BOB = hashlib.sha256(b"of bob").digest()
BODY = b'{"features": [1, 2, 3, 4]}'
COVERED = ("@method", "@authority", "@path", "@query", "content-digest")
PARAMETERS: Mapping[str, Any] = {"created": NOW, "nonce": "n-1", "keyid": "alice"}


# A request as an ASGI server hands it over ----------------------------------------------------------------------------


@dataclass
class Call:
    """A request, in the bytes that a server would pass on."""

    method: str = "POST"
    path: bytes = b"/predict"
    query: bytes = b"v=2"
    headers: dict[str, list[bytes]] = field(default_factory=lambda: {"host": [b"api.example.com"]})
    body: bytes = BODY
    scheme: str = "https"

    def scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "http_version": "1.1",
            "method": self.method,
            "scheme": self.scheme,
            "path": self.path.partition(b"?")[0].decode("latin-1"),
            "raw_path": self.path,
            "query_string": self.query,
            "headers": [(name.encode(), value) for name, values in self.headers.items() for value in values],
        }

    def message(self) -> Message:
        return Message(
            self.method,
            self.scheme,
            self.headers["host"][0].decode(),
            self.path.decode(),
            self.query.decode(),
            self.headers,
        )

    def having(self, name: str, *values: bytes) -> "Call":
        """The same request with other values of one header field; none removes it."""
        headers = {key: lines for key, lines in self.headers.items() if key != name}
        if values:
            headers[name] = list(values)
        return replace(self, headers=headers)


def signed(
    call: Call | None = None,
    *,
    components: Sequence[str] = COVERED,
    key: bytes = ALICE,
    label: str = "sig1",
    params: str | None = None,
    **changes: Any,
) -> Call:
    """The request with a signature; ``changes`` are signature parameters, ``None`` leaves one out."""
    call = call or Call()
    if "content-digest" in components and "content-digest" not in call.headers:
        call = call.having("content-digest", content_digest(call.body).encode())
    parameters = {name: value for name, value in {**PARAMETERS, **changes}.items() if value is not None}
    params = params or signature_params(components, parameters)
    covered: list[str] = re.findall(r'[( ]"([^"]*)"', params.partition(")")[0])
    signature = base64.b64encode(sign(key, signature_base(call.message(), covered, params))).decode()
    call = call.having("signature-input", f"{label}={params}".encode())
    return call.having("signature", f"{label}=:{signature}:".encode())


def guard(**settings: Any) -> SignatureAuth:
    keys = settings.pop("keys", {"alice": ALICE, "bob": BOB})
    settings.setdefault("store", MemoryStore())
    settings.setdefault("clock", lambda: NOW)
    return SignatureAuth(keys, **settings)


def accept(auth: SignatureAuth, call: Call, *scopes: str) -> _guard.Principal:
    """Run the guard on the request, as FastAPI does without ``harden``."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": call.body, "more_body": False}

    async def run() -> _guard.Principal:
        return await auth(Request(call.scope(), receive), SecurityScopes(list(scopes)))

    return asyncio.run(run())


def refuse(auth: SignatureAuth, call: Call) -> str:
    """Check that the request gets the one and only 401, and return the reason that the operator sees."""
    with pytest.raises(NotAuthenticatedError) as caught:
        accept(auth, call)
    assert caught.value.status_code == 401
    assert caught.value.headers == {"WWW-Authenticate": "Signature"}
    assert caught.value.detail == NotAuthenticatedError.default_detail
    assert caught.value.reason.isprintable()
    assert len(caught.value.reason) < 200
    return caught.value.reason


# The standard ---------------------------------------------------------------------------------------------------------


def test_rfc_9421_b_2_5_is_reproduced() -> None:
    """RFC 9421, appendix B.2.5: the base, the Signature-Input member and the signature come out byte for byte."""
    key = base64.b64decode("uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==")
    message = Message(
        "POST",
        "https",
        "example.com",
        "/foo",
        "param=Value&Pet=dog",
        {"date": [b"Tue, 20 Apr 2021 02:07:55 GMT"], "content-type": [b"application/json"]},
    )
    components = ("date", "@authority", "content-type")
    params = signature_params(components, {"created": 1618884473, "keyid": "test-shared-secret"})
    assert params == '("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"'
    base = signature_base(message, components, params)
    assert base.decode() == (
        '"date": Tue, 20 Apr 2021 02:07:55 GMT\n'
        '"@authority": example.com\n'
        '"content-type": application/json\n'
        '"@signature-params": ("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"'
    )
    assert base64.b64encode(sign(key, base)) == b"pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8="


def test_rfc_9421_examples_of_components() -> None:
    """The derived components of RFC 9421, section 2.2, and its combined fields of section 2.1."""
    message = Message(
        "POST",
        "https",
        "WWW.Example.com:443",
        "/path",
        "param=value",
        {"cache-control": [b"max-age=60 ", b"   must-revalidate"], "x-empty": [b""], "x-ows": [b"\t Leading. "]},
    )
    expected = {
        "@method": "POST",
        "@target-uri": "https://www.example.com/path?param=value",
        "@authority": "www.example.com",
        "@scheme": "https",
        "@request-target": "/path?param=value",
        "@path": "/path",
        "@query": "?param=value",
        "cache-control": "max-age=60, must-revalidate",
        "x-empty": "",
        "x-ows": "Leading.",
    }
    assert {name: message.component(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("scheme", "authority", "value"),
    [
        ("http", "a.example:80", "a.example"),
        ("ws", "a.example:80", "a.example"),
        ("wss", "a.example:443", "a.example"),
        ("https", "a.example:", "a.example"),
        ("https", "a.example:80", "a.example:80"),
        ("https", "[::1]:443", "[::1]"),
        ("https", " A.example:8443 ", "a.example:8443"),
        ("spdy", "a.example:80", "a.example:80"),
    ],
)
def test_authority_is_normalised(scheme: str, authority: str, value: str) -> None:
    """The host is lower case, and only the scheme's own port goes (RFC 9421, section 2.2.3)."""
    assert Message("GET", scheme, authority, "/", "", {}).component("@authority") == value


def test_empty_path_and_query() -> None:
    """An empty path is "/", an absent query is "?" and not part of the request target."""
    message = Message("GET", "https", "a.example", "", "", {})
    assert [message.component(name) for name in ("@path", "@query", "@request-target", "@target-uri")] == [
        "/",
        "?",
        "/",
        "https://a.example/",
    ]


class PeerKeys(HTTPSignatureKeyResolver):
    """The key look-up of http_message_signatures."""

    def resolve_public_key(self, key_id: str) -> bytes:
        return {"alice": ALICE}[key_id]

    resolve_private_key = resolve_public_key


URLS = ["https://api.example.com/predict?v=2", "https://API.example.com:8443/a%20b/%E2%82%AC?x=%2F&y=", "http://h:80"]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("body", [b"", BODY])
def test_an_independent_implementation_accepts_our_signatures(url: str, body: bytes) -> None:
    """http_message_signatures verifies what HTTPSignature made, digest included."""
    request = HTTPSignature("alice", ALICE)(httpx2.Request("POST", url, content=body))
    verifier = HTTPMessageVerifier(signature_algorithm=algorithms.HMAC_SHA256, key_resolver=PeerKeys())
    [result] = verifier.verify(
        adapt_message(request),
        require_components=("@method", "@authority", "@path", "@query"),
        body=body,
    )
    assert result.parameters["keyid"] == "alice"
    assert result.body == (body or None)


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("body", [b"", BODY])
def test_we_accept_the_signatures_of_an_independent_implementation(url: str, body: bytes) -> None:
    """A request signed by http_message_signatures passes, with more components than are demanded."""
    request = httpx2.Request("POST", url, content=body, headers={"X-Model": "iris"})
    signer = HTTPMessageSigner(signature_algorithm=algorithms.HMAC_SHA256, key_resolver=PeerKeys())
    signer.sign(
        adapt_message(request),
        key_id="alice",
        nonce="unique",
        created=datetime.now(UTC),
        expires=datetime.now(UTC) + timedelta(minutes=1),
        tag="predictions",
        covered_component_ids=(
            *("@method", "@authority", "@path", "@query", "@scheme", "@target-uri", "@request-target", "x-model"),
        ),
        body=body,
    )
    raw_path, _, query = request.url.raw_path.partition(b"?")
    headers: dict[str, list[bytes]] = {}
    for name, value in request.headers.raw:
        headers.setdefault(name.decode().lower(), []).append(value)
    call = Call("POST", raw_path, query, headers, body, request.url.scheme)
    assert accept(SignatureAuth({"alice": ALICE}, store=MemoryStore()), call).id == "alice"


# What passes ----------------------------------------------------------------------------------------------------------


def test_a_signed_request_names_its_caller() -> None:
    """The principal is the key id, with the scopes configured for it."""
    principal = accept(guard(scopes={"alice": ["predict"]}), signed(), "predict")
    assert principal == _guard.Principal("alice", frozenset({"predict"}), "signature")


def test_a_missing_scope_is_a_403() -> None:
    """A genuine signature without the scope that the route demands is refused with 403."""
    with pytest.raises(InsufficientScopeError) as caught:
        accept(guard(scopes={"alice": {"predict"}}), signed(), "admin")
    assert caught.value.headers is not None
    assert caught.value.headers["WWW-Authenticate"].startswith("Signature error=")


def test_keys_are_rotated_by_key_id() -> None:
    """Old and new key live side by side; once the old one is removed its signatures fail."""
    both = guard(keys={"old": ALICE, "new": BOB})
    assert accept(both, signed(keyid="old", key=ALICE)).id == "old"
    assert accept(both, signed(keyid="new", key=BOB)).id == "new"
    assert "unknown key id 'old'" in refuse(guard(keys={"new": BOB}), signed(keyid="old", key=ALICE))


def test_one_key_cannot_sign_for_another() -> None:
    """Bob's secret under Alice's key id is refused."""
    assert "does not match" in refuse(guard(), signed(key=BOB))


@pytest.mark.parametrize("secret", [ALICE, ALICE.hex()])
def test_secrets_are_bytes_or_text(secret: str | bytes) -> None:
    """A str secret is its UTF-8."""
    key = secret.encode() if isinstance(secret, str) else secret
    assert accept(guard(keys={"alice": secret}), signed(key=key)).id == "alice"


@pytest.mark.parametrize(
    "digests",
    [
        f"sha-512=:{base64.b64encode(hashlib.sha512(BODY).digest()).decode()}:",
        f"md5=:AAAA:, {content_digest(BODY)}",
        f"{content_digest(BODY)}, sha-512=:{base64.b64encode(hashlib.sha512(BODY).digest()).decode()}:",
    ],
)
def test_digests_of_rfc_9530(digests: str) -> None:
    """SHA-256 and SHA-512 are known, and unknown algorithms are left out."""
    assert accept(guard(), signed(Call().having("content-digest", digests.encode()))).id == "alice"


def test_digest_field_on_two_lines() -> None:
    """Lines of one field are one value, so every digest in them counts."""
    sha512 = f"sha-512=:{base64.b64encode(hashlib.sha512(BODY).digest()).decode()}:".encode()
    assert accept(guard(), signed(Call().having("content-digest", content_digest(BODY).encode(), sha512))).id == "alice"
    assert refuse(guard(), signed(Call().having("content-digest", content_digest(b"").encode(), sha512)))


def test_no_body_needs_no_digest() -> None:
    """Without a body the four derived components are enough; a digest of nothing is welcome."""
    empty = Call(method="GET", body=b"")
    assert accept(guard(), signed(empty, components=COVERED[:4])).id == "alice"
    assert accept(guard(), signed(empty.having("content-length", b"0"), components=COVERED[:4])).id == "alice"
    assert accept(guard(), signed(empty)).id == "alice"


def test_path_comes_from_the_bytes_on_the_wire() -> None:
    """A percent-encoded slash is not a slash, and a query inside raw_path is not part of the path."""
    assert accept(guard(), signed(Call(path=b"/a%2Fb"))).id == "alice"
    assert refuse(guard(), replace(signed(Call(path=b"/a%2Fb")), path=b"/a/b"))
    assert accept(guard(), replace(signed(Call(path=b"/a")), path=b"/a?v=2")).id == "alice"


def test_a_server_without_raw_path() -> None:
    """Where the server gives the decoded path only, it is encoded again as RFC 3986 has it."""
    call = signed(Call(path=b"/caf%C3%A9/a:b@c%20d", query=b"", body=b""), components=COVERED[:4])

    class Decoded(Call):
        decoded = "/café/a:b@c d"

        def scope(self) -> dict[str, Any]:
            scope = super().scope() | {"path": self.decoded}
            del scope["raw_path"], scope["query_string"]
            return scope

    bare = Decoded(call.method, call.path, call.query, call.headers, call.body)
    assert accept(guard(), bare).id == "alice"
    bare.decoded = "/caf\udce9"
    assert refuse(guard(), bare)


def test_authority_can_be_pinned() -> None:
    """The public authority counts behind a proxy that rewrites Host, and stops signatures made for other services."""
    call = signed()
    rewritten = call.having("host", b"10.0.0.7:8000")
    assert refuse(guard(), rewritten)
    assert accept(guard(authority="API.example.com:443"), rewritten).id == "alice"
    assert refuse(guard(authority="other.example.com"), call)


# What does not --------------------------------------------------------------------------------------------------------


def flip(data: bytes, position: int, bit: int) -> bytes:
    """The data with one bit changed."""
    position %= len(data)
    return data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]


@settings(deadline=None, max_examples=300)
@given(
    part=st.sampled_from(
        ["method", "path", "query", "body", "host", "content-digest", "x-model", "signature-input", "signature"]
    ),
    position=st.integers(0, 500),
    bit=st.integers(0, 7),
)
@example(part="signature", position=len("sig1=:") + 42, bit=0)  # the bits of base64 that carry nothing
@example(part="signature", position=len("sig1=:") + 43, bit=0)
def test_any_changed_bit_is_refused(part: str, position: int, bit: int) -> None:
    """No bit of what is signed, or of the signature itself, can be changed."""
    call = signed(Call().having("x-model", b"iris"), components=(*COVERED, "x-model"))
    if part == "method":
        mutant = replace(call, method=flip(call.method.encode(), position, bit).decode("latin-1"))
    elif part == "path":
        mutant = replace(call, path=flip(call.path, position, bit))
    elif part == "query":
        mutant = replace(call, query=flip(call.query, position, bit))
    elif part == "body":
        mutant = replace(call, body=flip(call.body, position, bit))
    else:
        mutant = call.having(part, flip(call.headers[part][0], position, bit))
    if part == "host" and mutant.headers["host"][0].lower() == b"api.example.com":
        return  # hosts have no case
    auth = guard()
    refuse(auth, mutant)
    if part != "body":
        assert accept(auth, call).id == "alice"  # and the nonce is still good


@pytest.mark.parametrize("parameter", ["created", "nonce", "keyid", "expires", "alg", "tag"])
def test_signature_parameters_are_signed(parameter: str) -> None:
    """A parameter that is changed to another valid value is refused."""
    call = signed(expires=NOW + 60, alg="hmac-sha256", tag="a", created=NOW - 5)
    changed = {
        "created": (b"created=1699999995", b"created=1700000000"),
        "nonce": (b'"n-1"', b'"n-2"'),
        "keyid": (b'"alice"', b'"bob"'),
        "expires": (b"expires=1700000060", b"expires=1700000061"),
        "alg": (b';alg="hmac-sha256"', b""),
        "tag": (b'tag="a"', b'tag="b"'),
    }
    old, new = changed[parameter]
    [text] = call.headers["signature-input"]
    assert old in text
    assert "does not match" in refuse(guard(), call.having("signature-input", text.replace(old, new)))


@pytest.mark.parametrize("missing", COVERED)
def test_each_demanded_component_must_be_covered(missing: str) -> None:
    """A signature over less than the whole request is refused, and the reason says what is missing."""
    call = Call().having("content-length", str(len(BODY)).encode())
    reason = refuse(guard(), signed(call, components=[name for name in COVERED if name != missing]))
    assert missing in reason


@pytest.mark.parametrize(("name", "value"), [("content-length", b"26"), ("transfer-encoding", b"chunked")])
def test_an_announced_body_without_a_signed_digest_is_refused_unread(name: str, value: bytes) -> None:
    """The header alone says that the signature does not cover the body, so nothing of it is read."""

    async def receive() -> dict[str, Any]:
        raise NotImplementedError

    call = signed(
        Call().having(name, value).having("content-digest", content_digest(BODY).encode()), components=COVERED[:4]
    )
    with pytest.raises(NotAuthenticatedError, match="401"):
        asyncio.run(guard()(Request(call.scope(), receive), SecurityScopes()))


def test_an_unannounced_body_without_a_signed_digest_is_refused() -> None:
    """HTTP/2 need not announce a body: one that comes anyway is refused."""
    assert "body" in refuse(guard(), signed(components=COVERED[:4]))


@pytest.mark.parametrize(
    "digest",
    [
        None,
        b"",
        b"md5=:AAAA:",
        b"sha-256",
        b'sha-256="text"',
        b"sha-256=(:AAAA:)",
        b"sha-256=:AAAA:",
        b"sha-512=:" + base64.b64encode(hashlib.sha256(BODY).digest()) + b":",
        b"sha-256=:!:",
        b"\xe9",
        content_digest(BODY).encode() + b", " + content_digest(BODY).encode(),
    ],
)
def test_a_covered_digest_must_be_readable(digest: bytes | None) -> None:
    """A digest that is absent, unknown, malformed or there twice is refused before the nonce is spent."""
    store = MemoryStore()
    good = signed()
    broken = good.having("content-digest") if digest is None else good.having("content-digest", digest)
    if digest is None or not digest.isascii():
        refuse(guard(store=store), broken)
    else:
        refuse(guard(store=store), signed(broken))
    assert accept(guard(store=store), good).id == "alice"


@pytest.mark.parametrize("digests", [(b"", BODY), (BODY, b"")])
def test_every_known_digest_must_match(digests: tuple[bytes, bytes]) -> None:
    """One right digest does not make up for a wrong one."""
    sha512 = base64.b64encode(hashlib.sha512(digests[1]).digest()).decode()
    value = f"{content_digest(digests[0])}, sha-512=:{sha512}:"
    assert "body" in refuse(guard(), signed(Call().having("content-digest", value.encode())))


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("signature-input", ()),
        ("signature", ()),
        ("signature-input", (b"{input}", b"{input}")),
        ("signature", (b"{signature}", b"{signature}")),
        ("signature-input", (b"{input}, sig2=();created=1",)),
        ("signature", (b"{signature}, sig2=:AAAA:",)),
        ("signature", (b"other=:AAAA:",)),
        ("signature", (b"sig1=AAAA",)),
        ("signature", (b'sig1="AAAA"',)),
        ("signature", (b"sig1=::",)),
        ("signature", (b"sig1=(:AAAA:)",)),
        ("signature", (b"{signature};x",)),
        ("signature", (b"{signature},",)),
        ("signature", (b"sig1=:\xe9:",)),
        ("signature-input", (b"",)),
        ("signature-input", (b"sig1",)),
        ("signature-input", (b"sig1=1",)),
        ("signature-input", (b"{input}, {input}",)),
        ("signature-input", (b"sig1=( (",)),
        ("signature-input", (b"\xe9",)),
        ("signature-input", (b"{input};x=\xe9",)),
        ("signature-input", (b"{input} x",)),
        ("signature-input", (b"(" * 4000,)),
        ("host", ()),
        ("host", (b"api.example.com", b"api.example.com")),
        ("host", (b"",)),
        ("host", (b":443",)),
        ("host", (b"api.example.com\xe9",)),
        ("content-digest", ()),
    ],
)
def test_malformed_fields_are_refused(name: str, lines: tuple[bytes, ...]) -> None:
    """Absent, doubled, ambiguous and unreadable fields are the same 401."""
    call = signed()
    [received], [signature] = call.headers["signature-input"], call.headers["signature"]
    filled = [line.replace(b"{input}", received).replace(b"{signature}", signature) for line in lines]
    refuse(guard(), call.having(name, *filled))


INPUT = '("@method" "@authority" "@path" "@query" "content-digest");created=1700000000;nonce="n-1";keyid="alice"'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"@method"', '"@method";req'),
        ('"@method"', '"@method";sf'),
        ('"content-digest"', '"content-digest";bs'),
        ('"content-digest"', '"content-digest";tr'),
        ('"content-digest"', '"content-digest";key="sha-256"'),
        ('"@query"', '"@query" "@query"'),
        ('"@query"', '"@query" "host" "host"'),
        ("created=1700000000", "created=1700000000.0"),
        ("created=1700000000", 'created="1700000000"'),
        ("created=1700000000", "created=@1700000000"),
        ("created=1700000000", "created"),
        ("created=1700000000;", ""),
        (';nonce="n-1"', ""),
        ('nonce="n-1"', 'nonce=""'),
        ('nonce="n-1"', "nonce=token"),
        ('nonce="n-1"', "nonce=1"),
        ('nonce="n-1"', 'nonce=%"n-1"'),
        ('nonce="n-1"', f'nonce="{"n" * 129}"'),
        (';keyid="alice"', ""),
        ('keyid="alice"', "keyid=alice"),
        ('keyid="alice"', "keyid=:YWxpY2U=:"),
        ('keyid="alice"', 'keyid="alice";alg="hmac-sha512"'),
        ('keyid="alice"', 'keyid="alice";alg="none"'),
        ('keyid="alice"', 'keyid="alice";alg=hmac-sha256'),
        ('keyid="alice"', 'keyid="alice";expires="1800000000"'),
        ('keyid="alice"', 'keyid="alice";unknown=1'),
    ],
)
def test_signatures_outside_the_profile_are_refused(old: str, new: str) -> None:
    """Component parameters, duplicates, wrong types and unknown parameters are refused, however well signed."""
    assert old in INPUT
    refuse(guard(), signed(params=INPUT.replace(old, new)))
    assert accept(guard(), signed(params=INPUT)).id == "alice"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"@method" ', '"@method"  '),
        (";created", "; created"),
        ('keyid="alice"', 'keyid="mallory";keyid="alice"'),
        ("created=1700000000", "created=01700000000"),
    ],
)
def test_only_the_canonical_spelling_is_read(old: str, new: str) -> None:
    """A spelling that parses to the same list is refused, whichever of the two texts was signed."""
    genuine = signed(params=INPUT)
    respelt = f"sig1={INPUT.replace(old, new)}".encode()
    assert refuse(guard(), genuine.having("signature-input", respelt))
    assert refuse(guard(), signed(params=INPUT.replace(old, new)))


@pytest.mark.parametrize(
    "name", ["x-absent", "@status", "@unknown", "@query-param", "@signature-params", "Host", "a b", "é", "", '\\"']
)
def test_unknown_and_absent_components_are_refused(name: str) -> None:
    """A covered component that the request does not have cannot be verified."""
    text = INPUT.replace('"@query"', f'"@query" "{name}"')
    call = signed(params=INPUT).having("signature-input", f"sig1={text}".encode("latin-1"))
    refuse(guard(), call)


@pytest.mark.parametrize("item", ["1", "token", ":AAAA:", "?1"])
def test_components_are_strings(item: str) -> None:
    """A component list holds strings only."""
    text = f"sig1={INPUT}".replace('"@query"', f'"@query" {item}')
    refuse(guard(), signed(params=INPUT).having("signature-input", text.encode()))


@pytest.mark.parametrize("value", [b"\xe9", b"a\nb", b"a\rb", b"a\x00b", b"\x7f"])
def test_values_that_do_not_fit_on_a_line_of_ascii_are_refused(value: bytes) -> None:
    """A line feed in a value could pose as another component; other bytes have no place in a signature base."""
    params = INPUT.replace('"@query"', '"@query" "x-model"')
    call = signed(Call().having("x-model", b"iris"), params=params)
    assert "x-model" in refuse(guard(), call.having("x-model", value))
    assert refuse(guard(), replace(signed(), query=value))
    assert refuse(guard(), replace(signed(), path=b"/" + value))


def test_a_line_feed_cannot_forge_a_component() -> None:
    """The same base text from another split of its lines is refused."""
    components = (*COVERED, "x-a", "x-b")
    honest = signed(Call().having("x-a", b"1").having("x-b", b"2"), components=components)
    forged = honest.having("x-a", b'1\n"x-b": 2')
    assert refuse(guard(), forged)


def test_caps() -> None:
    """Signature fields of 4 KiB and 32 components are read, larger ones are refused."""
    call = Call()
    for number in range(28):
        call = call.having(f"x-{number}", b"1")
    names = [f"x-{number}" for number in range(28)]
    assert accept(guard(), signed(call, components=[*COVERED, *names[:27]])).id == "alice"
    assert "32" in refuse(guard(), signed(call, components=[*COVERED, *names]))
    assert "4096" in refuse(guard(), signed(tag="x" * 4000))
    assert accept(guard(), signed(nonce="n" * 128)).id == "alice"


@pytest.mark.parametrize(
    ("age", "fits"),
    [(300, True), (300.5, False), (301, False), (-30, True), (-30.5, False), (-31, False)],
)
def test_time_is_bounded_both_ways(age: float, fits: bool) -> None:
    """A signature holds for max_age seconds after created and max_skew before it, edges included."""
    time = [float(NOW)]
    auth = guard(clock=lambda: time[0])
    time[0] += age
    if fits:
        assert accept(auth, signed()).id == "alice"
    else:
        assert "clocks" in refuse(auth, signed())


@pytest.mark.parametrize(("expires", "fits"), [(NOW, True), (NOW - 1, False), (-1, False), (999999999999999, True)])
def test_expires_is_honoured(expires: int, fits: bool) -> None:
    """A signer may make a signature end sooner, and not later than max_age."""
    call = signed(expires=expires)
    if fits:
        assert accept(guard(), call).id == "alice"
    else:
        assert refuse(guard(), call)
    assert refuse(guard(clock=lambda: NOW + 301), signed(expires=NOW + 1000))


@pytest.mark.parametrize("created", [-999999999999999, 999999999999999, 0])
def test_absurd_times_are_refused(created: int) -> None:
    """The largest integers that a structured field can hold are times like any other."""
    assert refuse(guard(), signed(created=created))


def test_unknown_and_wrong_keys_look_the_same() -> None:
    """The caller cannot tell an unknown key id from a wrong signature; the operator can, without control characters."""
    assert refuse(guard(), signed(keyid="mallory")) == "unknown key id 'mallory'"
    assert len(refuse(guard(), signed(keyid="m" * 2000))) < 100
    assert refuse(guard(), signed(key=BOB)) == "the signature of key id 'alice' does not match"


# Hostile text ---------------------------------------------------------------------------------------------------------

FRAGMENTS = st.sampled_from(
    [
        *(
            "sig1",
            "=",
            "(",
            ")",
            ";",
            ",",
            ":",
            '"',
            "\\",
            "@",
            "?1",
            "%",
            " ",
            "\t",
            "é",
            "\n",
            "\0",
            "-",
            "1",
            "9" * 16,
        ),
        *("1.5", "AAAA", '"@method"', '"@path"', "created", "keyid", '"alice"', "nonce", "@99999999999999", '%"%e9"'),
    ]
)
HOSTILE = st.one_of(
    st.binary(max_size=200),
    st.lists(FRAGMENTS, max_size=30).map(lambda parts: "".join(parts).encode("latin-1")),
)


@settings(deadline=None, max_examples=150)
@given(received=HOSTILE, signature=HOSTILE, digest=HOSTILE, host=HOSTILE)
def test_hostile_text_is_a_401(received: bytes, signature: bytes, digest: bytes, host: bytes) -> None:
    """Whatever is in the signature fields, the answer is the same 401, never a crash."""
    genuine = signed()
    for mutant in (
        genuine.having("signature-input", received),
        genuine.having("signature", signature),
        genuine.having("signature-input", received).having("signature", signature),
        genuine.having("signature-input", b"sig1=" + received).having("signature", b"sig1=" + signature),
        genuine.having("content-digest", digest),
        genuine.having("host", host),
    ):
        refuse(guard(), mutant)


@settings(deadline=None, max_examples=300)
@given(text=HOSTILE)
def test_hostile_text_behind_a_genuine_head(text: bytes) -> None:
    """Text added to a genuine field makes it malformed or a false one."""
    genuine = signed()
    for name in ("signature-input", "signature"):
        if text.strip(b" \t"):
            refuse(guard(), genuine.having(name, genuine.headers[name][0] + text))


@settings(deadline=None, max_examples=300)
@given(text=HOSTILE)
def test_the_reader_raises_nothing_else(text: bytes) -> None:
    """The pure reader knows one error only."""
    with contextlib.suppress(MalformedSignatureError):
        read_signature({"signature-input": [text], "signature": [b"sig1=:AAAA:"]})


# Replay ---------------------------------------------------------------------------------------------------------------


class SlowStore(MemoryStore):
    """A store that waits on something before it answers, as one over the network does."""

    suspends = True
    forgets_on_restart = False

    async def add_nonce(self, key: bytes, ttl: float, *, owner: bytes) -> bool:
        await asyncio.sleep(0)
        added = await super().add_nonce(key, ttl, owner=owner)
        await asyncio.sleep(0)
        return added


def test_a_replay_is_refused_by_every_guard_that_shares_the_store() -> None:
    """A nonce that was used at one guard is used up at the other."""
    store = MemoryStore()
    call = signed()
    assert accept(guard(store=store), call).id == "alice"
    assert "replay" in refuse(guard(store=store), call)
    assert accept(guard(store=store), signed(nonce="n-2")).id == "alice"


def test_nonces_of_two_keys_do_not_collide() -> None:
    """Bob may use the nonce that Alice used."""
    auth = guard()
    assert accept(auth, signed()).id == "alice"
    assert accept(auth, signed(keyid="bob", key=BOB)).id == "bob"


def test_a_bad_signature_burns_no_nonce() -> None:
    """Somebody who guesses or sees a nonce cannot use it up without the key."""
    auth = guard()
    refuse(auth, signed(key=BOB))
    refuse(auth, signed(created=NOW - 1000))
    assert accept(auth, signed()).id == "alice"


def test_a_nonce_is_remembered_as_long_as_its_signature_holds() -> None:
    """A signature from the edge of the future is refused as a replay up to the last second of its life, and beyond."""
    time = [NOW - 30.0]
    clock = lambda: time[0]  # noqa: E731
    auth = guard(clock=clock, store=MemoryStore(clock=clock))
    call = signed()
    assert accept(auth, call).id == "alice"
    time[0] = NOW + 300.0
    assert "replay" in refuse(auth, call)
    time[0] = NOW + 300.25
    assert "too old" in refuse(auth, call)


def test_no_room_for_a_nonce_is_a_503() -> None:
    """When a nonce cannot be remembered, the request is not admitted."""
    auth = guard(store=MemoryStore(max_nonces=1))
    accept(auth, signed())
    with pytest.raises(StoreFullError):
        accept(auth, signed(nonce="n-2"))


def test_a_caller_that_uses_up_its_room_hinders_nobody_else() -> None:
    """Alice's flood of genuine signatures is a 503 for her, with the time to wait, and none for Bob."""
    time = [float(NOW)]
    clock = lambda: time[0]  # noqa: E731
    auth = guard(clock=clock, store=MemoryStore(max_nonces=20, clock=clock))
    assert [accept(auth, signed(nonce=str(n))).id for n in range(2)] == ["alice", "alice"]
    with pytest.raises(StoreFullError) as full:
        accept(auth, signed(nonce="2"))
    assert full.value.headers == {"Retry-After": "332"}  # max_age, max_skew, the second of created, and rounded up
    assert "replay" in refuse(auth, signed(nonce="0"))
    assert accept(auth, signed(keyid="bob", key=BOB)).id == "bob"
    time[0] += 332
    assert accept(auth, signed(nonce="2", created=NOW + 332)).id == "alice"


# Restart --------------------------------------------------------------------------------------------------------------


def started_at(time: float, **settings: Any) -> SignatureAuth:
    """A guard that was built at this time and is called at the same time, with nothing in its store."""
    return guard(clock=lambda: time, **settings)


def test_a_request_from_before_a_restart_is_refused() -> None:
    """The new process has forgotten the nonces, so what was recorded before it is no good, new nonce or not."""
    call = signed()
    assert accept(started_at(NOW), call).id == "alice"
    after = started_at(NOW + 5)
    for old in (call, signed(nonce="n-2"), signed(created=NOW - 200)):
        assert "before this process started" in refuse(after, old)
    assert accept(after, signed(created=NOW + 5)).id == "alice"


@pytest.mark.parametrize(
    ("start", "grace", "fits"),
    [
        (NOW + 0.999, 0, True),  # the same second
        (NOW + 1, 0, False),
        (NOW + 1.999, 1, True),
        (NOW + 2, 1, False),
        (NOW + 10.5, 10, True),
        (NOW + 11, 10, False),
        (NOW - 29, 0, True),  # a clock that runs ahead
    ],
)
def test_callers_whose_clocks_differ_after_a_restart(start: float, grace: float, fits: bool) -> None:
    """Signed in the second of the start it is good, and for as long before it as the grace lasts."""
    auth = started_at(start, restart_grace=grace)
    if fits:
        assert accept(auth, signed()).id == "alice"
    else:
        assert "before this process started" in refuse(auth, signed())


def test_a_clock_that_is_a_second_behind_is_no_trouble() -> None:
    """By default a caller who signs just after the start, by a clock that is a second late, is let in."""
    assert accept(started_at(NOW + 1.2), signed()).id == "alice"


def test_a_store_that_outlives_the_process_knows_what_was_used() -> None:
    """With it, a request from before the restart is good if it is new, and a replay if it is not."""
    store = SlowStore()
    assert accept(started_at(NOW, store=store), signed()).id == "alice"
    after = started_at(NOW + 100, store=store)
    assert "replay" in refuse(after, signed())
    assert accept(after, signed(nonce="n-2")).id == "alice"


def test_a_worker_that_is_forked_later_begins_when_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that replaces another is forked from the process that built the guard, long ago, without its nonces."""
    time = [float(NOW)]
    auth = guard(clock=lambda: time[0])
    time[0] += 100
    assert accept(auth, signed()).id == "alice"
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert "before this process started" in refuse(auth, signed(nonce="n-2"))
    assert accept(auth, signed(nonce="n-3", created=NOW + 100)).id == "alice"


# In an app ------------------------------------------------------------------------------------------------------------


def app_with(auth: SignatureAuth) -> FastAPI:
    app = FastAPI()

    @app.post("/predict")
    async def predict(
        request: Request,
        caller: Annotated[_guard.Principal, Security(auth, scopes=["predict"])],
        again: Annotated[_guard.Principal, Depends(auth)],
    ) -> dict[str, Any]:
        return {"caller": caller.id, "same": caller is again, "bytes": len(await request.body())}

    @app.post("/form")
    async def form(name: Annotated[str, Form()], caller: Annotated[_guard.Principal, Depends(auth)]) -> str:
        raise NotImplementedError

    @app.websocket("/ws")
    async def ws(websocket: WebSocket, caller: Annotated[_guard.Principal, Depends(auth)]) -> None:
        await websocket.accept()
        await websocket.send_text(caller.id)
        await websocket.close()

    return app


def run(app: FastAPI, calls: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://api.example.com") as client:
            return await calls(client)

    return asyncio.run(main())


def test_one_request_uses_its_nonce_once() -> None:
    """A guard that is demanded with several scopes in one request judges once."""
    auth = SignatureAuth({"alice": ALICE}, scopes={"alice": {"predict"}}, store=MemoryStore())
    answer = run(app_with(auth), lambda c: c.post("/predict", content=BODY, auth=HTTPSignature("alice", ALICE)))
    assert (answer.status_code, answer.json()) == (200, {"caller": "alice", "same": True, "bytes": len(BODY)})


def test_the_same_request_sent_at_once_is_admitted_once() -> None:
    """Of ten copies on their way at the same time, one is answered."""
    auth = SignatureAuth({"alice": ALICE}, scopes={"alice": {"predict"}}, store=SlowStore())
    assert auth.suspends

    async def calls(client: httpx.AsyncClient) -> list[int]:
        request = HTTPSignature("alice", ALICE)(client.build_request("POST", "/predict", content=BODY))
        answers = await asyncio.gather(*[client.send(request) for _ in range(10)])
        return sorted(answer.status_code for answer in answers)

    assert run(app_with(auth), calls) == [200] + [401] * 9


def test_anonymous_and_raw_bytes_over_http() -> None:
    """No signature, and header bytes that are not ASCII, are the same 401 answer."""
    auth = SignatureAuth({"alice": ALICE}, store=MemoryStore())
    hostile = {b"Signature": b"\xe9", b"Signature-Input": b"\xff\xfe"}

    async def calls(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.post("/predict"), await client.post("/predict", headers=hostile)]

    first, second = run(app_with(auth), calls)
    assert first.status_code == second.status_code == 401
    assert first.content == second.content
    assert first.headers == second.headers
    assert first.headers["www-authenticate"] == "Signature"


def test_a_form_without_harden_is_refused_with_the_fix() -> None:
    """The form was parsed before anybody could check its digest: the developer is told, and nothing gets through."""
    auth = SignatureAuth({"alice": ALICE}, store=MemoryStore())
    with pytest.raises(ConfigurationError, match="harden"):
        run(app_with(auth), lambda c: c.post("/form", data={"name": "x"}, auth=HTTPSignature("alice", ALICE)))


def test_a_connection_without_its_body_is_refused_with_the_fix() -> None:
    """Called with a bare connection there is no way to the body, so nothing gets through."""
    with pytest.raises(ConfigurationError, match="harden"):
        asyncio.run(guard()(HTTPConnection(signed().scope()), SecurityScopes()))


def websocket(app: FastAPI, headers: list[tuple[bytes, bytes]]) -> list[dict[str, Any]]:
    """Open a WebSocket and return what the app sent."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "websocket",
        "scheme": "wss",
        "path": "/ws",
        "raw_path": b"/ws",
        "query_string": b"",
        "headers": headers,
        "subprotocols": [],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def test_websockets() -> None:
    """A signed handshake opens the socket, an unsigned or replayed one does not."""
    app = app_with(SignatureAuth({"alice": ALICE}, store=MemoryStore()))
    request = HTTPSignature("alice", ALICE)(httpx.Request("GET", "wss://api.example.com/ws"))
    headers = [(name.lower(), value) for name, value in request.headers.raw]
    types = [message["type"] for message in websocket(app, headers)]
    assert types == ["websocket.accept", "websocket.send", "websocket.close"]
    for refused in (headers, [(b"host", b"api.example.com")]):
        assert "websocket.accept" not in [message["type"] for message in websocket(app, refused)]


def test_the_docs_show_a_padlock() -> None:
    """OpenAPI names the header, says what to sign, and takes a name and a text of one's own."""
    auth = SignatureAuth({"alice": ALICE}, scheme_name="Signed", description="Sign it.")
    schema = app_with(auth).openapi()
    assert schema["components"]["securitySchemes"]["Signed"] == {
        "type": "apiKey",
        "in": "header",
        "name": "Signature",
        "description": "Sign it.",
    }
    assert all("Signed" in padlock for padlock in schema["paths"]["/predict"]["post"]["security"])
    plain = app_with(SignatureAuth({"alice": ALICE})).openapi()
    assert "RFC 9421" in plain["components"]["securitySchemes"]["SignatureAuth"]["description"]


# Configuration --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "settings", "text"),
    [
        ({}, {}, "at least one key"),
        ({"": ALICE}, {}, "key id"),
        ({"é": ALICE}, {}, "key id"),
        ({"a\nb": ALICE}, {}, "key id"),
        ({1: ALICE}, {}, "key id"),
        ({"alice": None}, {}, "key 1"),
        ({"alice": b"short"}, {}, "key 1"),
        ({"alice": ALICE[:15]}, {}, "key 1"),
        ({"alice": "changeme" * 8}, {}, "key 1"),
        ({"alice": ALICE}, {"max_age": 0}, "max_age"),
        ({"alice": ALICE}, {"max_age": -1}, "max_age"),
        ({"alice": ALICE}, {"max_age": float("nan")}, "max_age"),
        ({"alice": ALICE}, {"max_age": float("inf")}, "max_age"),
        ({"alice": ALICE}, {"max_age": 10**400}, "max_age"),
        ({"alice": ALICE}, {"max_age": 300_000}, "max_age"),
        ({"alice": ALICE}, {"max_age": True}, "max_age"),
        ({"alice": ALICE}, {"max_age": "300"}, "max_age"),
        ({"alice": ALICE}, {"max_skew": -1}, "max_skew"),
        ({"alice": ALICE}, {"max_skew": float("nan")}, "max_skew"),
        ({"alice": ALICE}, {"restart_grace": -1}, "restart_grace"),
        ({"alice": ALICE}, {"restart_grace": None}, "restart_grace"),
        ({"alice": ALICE}, {"scopes": {"mallory": {"predict"}}}, "entry 1"),
        ({"alice": ALICE}, {"scopes": {"alice": "predict"}}, "entry 1"),
        ({"alice": ALICE}, {"scopes": {"alice": ["predict admin"]}}, "entry 1"),
        ({"alice": ALICE}, {"scopes": {"alice": [""]}}, "entry 1"),
        ({"alice": ALICE}, {"store": "redis://localhost"}, "store"),
        ({"alice": ALICE}, {"authority": ""}, "authority"),
        ({"alice": ALICE}, {"authority": "https://api.example.com"}, "authority"),
    ],
)
def test_settings_that_cannot_work(keys: Any, settings: dict[str, Any], text: str) -> None:
    """Every setting that cannot work is refused when the guard is built, by name, without the secret."""
    with pytest.raises(ConfigurationError, match=re.escape(text)) as caught:
        SignatureAuth(keys, **settings)
    assert "changeme" not in str(caught.value)


def test_no_skew_is_a_setting() -> None:
    """max_skew=0 allows nothing from the future."""
    assert refuse(guard(max_skew=0), signed(created=NOW + 1))
    assert accept(guard(max_skew=0), signed()).id == "alice"


def test_reprs_show_no_secret() -> None:
    """The guard shows key ids only, a message and a signature neither fields nor signature."""
    call = signed(Call().having("authorization", b"Bearer confidential"))
    assert repr(guard()) == "SignatureAuth(key ids: 'alice', 'bob')"
    assert "confidential" not in repr(call.message())
    received = read_signature(call.headers)
    assert isinstance(received, ReceivedSignature)
    assert repr(received.value)[2:-1] not in repr(received)
    assert hmac.compare_digest(received.value, sign(ALICE, signature_base(call.message(), COVERED, received.params)))
