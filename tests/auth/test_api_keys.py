"""API keys as an operator writes them and as an attacker tries them."""

import asyncio
import base64
import contextlib
import hashlib
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Security
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.types import Message

from mlguard._guard import Principal
from mlguard.auth.api_keys import APIKey, APIKeyAuth, APIKeys, require_api_key
from mlguard.errors import ConfigurationError
from mlguard.hardening import harden

ALICE = "Vq3tYxw0ZkLr8HcNfUe5Rj_bPa2GsT7dMi"
BOB = "9fJw2nXs-uQb4LkTz0YhRvC6eGmAo1DpIx"
CAROL = "tZ5gWq8yNc1RxKe3UvHj7PbLs0_FmDa6Oi"
NOON = datetime(2027, 1, 31, 12, tzinfo=UTC)

Headers = Sequence[tuple[bytes, bytes]]


def call(app: FastAPI, headers: Headers = (), path: str = "/") -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.get(path, headers=[*headers])

    return asyncio.run(go())


def key_header(secret: str | bytes) -> Headers:
    return [(b"X-API-Key", secret if isinstance(secret, bytes) else secret.encode())]


def app_with(caller: APIKeyAuth, scopes: Sequence[str] = ()) -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def who(principal: Annotated[Principal, Security(caller, scopes=scopes)]) -> dict[str, Any]:
        return {"id": principal.id, "scopes": sorted(principal.scopes), "method": principal.method}

    return app


def refused(*entries: str) -> str:
    """The text of the ConfigurationError for these entries."""
    with pytest.raises(ConfigurationError) as error:
        APIKeys(entries)
    return str(error.value)


async def start(app: FastAPI) -> list[Message]:
    """Drive the ASGI lifespan through start-up, as a server does."""
    sent: list[Message] = []
    incoming: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    with contextlib.suppress(ConfigurationError):  # raised after it was reported, so that the server sees it too
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return sent


# Keys that are made --------------------------------------------------------------------------------------------------


def test_generated_secret_opens() -> None:
    """The secret that generate hands out proves who the record names, with its scopes."""
    record, secret = APIKey.generate("alice", scopes={"predict", "model:read"})
    answer = call(app_with(APIKeyAuth(APIKeys([record]))), key_header(secret))
    assert answer.status_code == 200
    assert answer.json() == {"id": "alice", "scopes": ["model:read", "predict"], "method": "api-key"}


def test_record_holds_no_secret() -> None:
    """Neither the repr nor the text form of a record, nor the repr of a collection or guard, shows secret or digest."""
    record, secret = APIKey.generate("alice")
    keys = APIKeys([record])
    for text in (repr(record), repr(keys), repr(APIKeyAuth(keys)), str(keys)):
        assert secret not in text
        assert record.digest.hex() not in text
        assert repr(record.digest) not in text
    assert secret not in record.entry
    assert secret[4:] not in record.entry


def test_generated_secrets_differ() -> None:
    """Each secret is new, has 256 bits, and could be put into the environment as it is."""
    made = {APIKey.generate("alice")[1] for _ in range(100)}
    assert len(made) == 100
    for secret in made:
        assert APIKey.parse(secret).digest == hashlib.sha256(secret.encode()).digest()


ids = st.from_regex(r"[A-Za-z0-9._@-]{1,64}", fullmatch=True)
scope_names = st.from_regex(r"[A-Za-z0-9._:/-]{1,64}", fullmatch=True)
zones = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
expiries = st.none() | st.datetimes(timezones=zones)


@settings(deadline=None)
@given(ids, st.frozensets(scope_names, max_size=5), expiries)
def test_entry_round_trips(id: str, scopes: frozenset[str], expires_at: datetime | None) -> None:  # noqa: A002
    """The text form of any record reads back as the same record."""
    record, secret = APIKey.generate(id, scopes=scopes, expires_at=expires_at)
    assert APIKey.parse(record.entry) == record
    assert APIKeys([record.entry]).find(secret.encode()) == record


def test_scopes_as_one_text_are_refused() -> None:
    """scopes="predict" is a mistake that would otherwise become seven scopes of one letter."""
    with pytest.raises(ConfigurationError, match="set of names"):
        APIKey.generate("alice", scopes="predict")
    with pytest.raises(ConfigurationError, match="set of names"):
        APIKey("alice", bytes(32), "predict")  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize("name", ["", "a b", "ä", "a" * 65, "a,b", "a;b", "a=b", "a\n", "a\0"])
def test_bad_ids_are_refused(name: str) -> None:
    """An id that could not be written to a log or an entry is refused."""
    with pytest.raises(ConfigurationError, match="id"):
        APIKey.generate(name)


@pytest.mark.parametrize("scope", ["", "a b", "ä", "a" * 65, 'a"', "a,b", "a;b", "a=b", "a\n"])
def test_bad_scopes_are_refused(scope: str) -> None:
    """A scope that could not be written to a header or an entry is refused."""
    with pytest.raises(ConfigurationError, match="scope"):
        APIKey.generate("alice", scopes={"predict", scope})


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33), "a" * 32])
def test_bad_digests_are_refused(digest: Any) -> None:
    """A digest that no secret could ever match is refused."""
    with pytest.raises(ConfigurationError, match="digest"):
        APIKey("alice", digest)


def test_expiry_without_zone_is_refused() -> None:
    """An expiry without a time zone means something else on every machine."""
    with pytest.raises(ConfigurationError, match="time zone"):
        APIKey.generate("alice", expires_at=datetime(2027, 1, 31))  # the mistake


# Keys that are read --------------------------------------------------------------------------------------------------


def found(entries: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> APIKey | None:
    monkeypatch.setenv("MLGUARD_API_KEYS", entries)
    return APIKeys.from_env().find(secret.encode())


def test_environment_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain secrets, named ones and digests live side by side, with scopes, expiry and spaces between entries."""
    digest = hashlib.sha256(CAROL.encode()).hexdigest()
    text = f" {ALICE} , bob={BOB};predict; model:read ,carol=sha256:{digest};predict;expires={NOON.isoformat()} "
    alice, bob, carol = (found(text, secret, monkeypatch) for secret in (ALICE, BOB, CAROL))
    assert alice is not None
    assert alice.scopes == frozenset()
    assert bob == APIKey("bob", hashlib.sha256(BOB.encode()).digest(), frozenset({"predict", "model:read"}))
    assert carol == APIKey("carol", bytes.fromhex(digest), frozenset({"predict"}), NOON)
    assert len(APIKeys.from_env()) == 3
    assert found(text, digest, monkeypatch) is None  # a digest is no secret
    assert found(text, f"sha256:{digest}", monkeypatch) is None


def test_another_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable can have another name, and errors then use it."""
    monkeypatch.setenv("MY_KEYS", ALICE)
    assert APIKeys.from_env("MY_KEYS").find(ALICE.encode()) is not None
    monkeypatch.setenv("MY_KEYS", f"{ALICE},bob=short")
    with pytest.raises(ConfigurationError, match="MY_KEYS, entry 2"):
        APIKeys.from_env("MY_KEYS")


@pytest.mark.parametrize("size", [16, 20, 31, 32, 33, 48, 64])
def test_base64_padding_belongs_to_the_secret(size: int) -> None:
    """The = at the end of a base64 secret is part of it, in both alphabets, and such a secret needs an id."""
    data = (b"\xfb\xef\xbe" + hashlib.sha512(b"some key").digest())[:size]
    for secret in (base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()):
        if secret.endswith("="):
            with pytest.raises(ConfigurationError, match="write id=secret"):
                APIKeys([secret])
        named = APIKeys([f"alice={secret}"]).find(secret.encode())
        assert named is not None
        assert named.id == "alice"


@pytest.mark.parametrize(
    "entry",
    [
        "alice=",
        "recommendation-service-production-eu-1=",
        "the-recommendation-services=",  # spelt as padded base64 could be, but for its one case
        "TheRecommendationServiceOfProductionNo1=",  # in mixed case, but not how base64 would spell it
        "recommendation-service@production.example.org==",
        f"={ALICE}",
    ],
)
def test_unset_variable_is_no_secret(entry: str) -> None:
    """An "id=$SECRET" with an unset SECRET must not make the name the secret; nor may the id be missing."""
    assert ALICE not in refused(entry)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        " ",
        "alice=short",
        "short",
        "alice=changeme-changeme-changeme-changeme",
        "alice=" + "ab" * 30,
        f"alice=sha256:{'0' * 63}",
        f"alice=sha256:{'A' * 64}",
        f"alice=SHA256:{'9fJw2nXs' * 8}",
        f"alice=sha256={hashlib.sha256(b'x').hexdigest()}",
        f"sha256:{'g' * 64}",
        f"alice={ALICE} {BOB}",
        f"{ALICE}\n{BOB}",
        f"alice={ALICE}ä",
        f"alice={ALICE}\udce9",
        f"al ice={ALICE}",
        f"alice ={ALICE}",
        f"{ALICE};",
        f"{ALICE};{BOB}+",
        f"{ALICE};scope=predict",
        f"{ALICE};predict read",
        f"{ALICE};expires=tomorrow",
        f"{ALICE};expires=2027-01-31T00:00:00",
        f"{ALICE};expires=2027-01-31",
        f"{ALICE};expires=2027-01-31T00:00:00Z;expires=2037-01-31T00:00:00Z",
        f"{ALICE};Expires=2027-01-31T00:00:00Z",
        f"{ALICE};expires={BOB}",
        f"alice={'x7Q' * 300}",
    ],
)
def test_entries_that_cannot_work(entry: str) -> None:
    """Malformed, weak and placeholder entries are refused, the entry is numbered, and no part of it is quoted."""
    text = refused(CAROL, entry)
    assert "entry 2" in text
    assert ALICE not in text
    assert BOB not in text


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("", "the entry is empty"),
        (f'"{ALICE}"', "stands in quotes"),
        (f"'{ALICE}'", "stands in quotes"),
        (f'"alice={ALICE};predict"', "stands in quotes"),
        (f'alice="{ALICE}";predict', "stands in quotes"),
        (f"{ALICE};scope=predict", "as in ;predict"),
        (f"{ALICE};expire=2027-01-31T00:00:00Z", "than expires=, not_before="),
        (f"{ALICE};expires=2027-01-31", "expires= takes a date and time with a zone, such as 2027-01-31T00:00:00Z"),
        (f"{ALICE};not_before=tomorrow", "not_before= takes a date and time with a zone"),
    ],
)
def test_a_mistake_in_an_entry_is_told_with_what_is_right(entry: str, told: str) -> None:
    """Whoever reads the error knows what to write, and the entry is not in it."""
    text = refused(CAROL, entry)
    assert told in text
    assert "entry 2" in text
    assert ALICE not in text


def test_a_quote_at_one_end_is_a_part_of_a_secret() -> None:
    """A secret may have any sign that can be seen; only what stands in quotes was meant without them."""
    for secret in (f'"{ALICE}', f"{ALICE}'", f"'{ALICE}\""):
        assert APIKey.parse(secret).digest == hashlib.sha256(secret.encode()).digest()
    assert "no secret behind its id" not in refused("'")


def test_a_variable_in_quotes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they stand around several entries, of which none is in quotes by itself."""
    monkeypatch.setenv("MLGUARD_API_KEYS", f"'{ALICE},{BOB}'")
    with pytest.raises(ConfigurationError, match="MLGUARD_API_KEYS: it stands in quotes") as error:
        APIKeys.from_env()
    assert ALICE not in str(error.value)


def test_a_forgotten_comma_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the number of the entry that is not there."""
    monkeypatch.setenv("MLGUARD_API_KEYS", f"{ALICE},")
    with pytest.raises(ConfigurationError, match="MLGUARD_API_KEYS, entry 2: the entry is empty"):
        APIKeys.from_env()


@pytest.mark.parametrize("text", [None, "", "  ", "\n"])
def test_unset_environment_is_refused(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable, or an empty one, is an error that names the variable and how to make a key."""
    if text is not None:
        monkeypatch.setenv("MLGUARD_API_KEYS", text)
    with pytest.raises(ConfigurationError, match=r"MLGUARD_API_KEYS is not set.*token_urlsafe"):
        APIKeys.from_env()


@pytest.mark.parametrize("text", [f"{ALICE},", f",{ALICE}", f"{ALICE},,{BOB}", ",", f"{ALICE},{ALICE}"])
def test_empty_and_double_entries_are_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forgotten entry or a secret listed twice is a mistake, not something to guess about."""
    monkeypatch.setenv("MLGUARD_API_KEYS", text)
    with pytest.raises(ConfigurationError) as error:
        APIKeys.from_env()
    assert ALICE not in str(error.value)


def test_one_secret_for_two_ids_is_refused() -> None:
    """Nobody could tell the two callers apart, also if one is given by its digest."""
    digest = hashlib.sha256(ALICE.encode()).hexdigest()
    assert "same secret" in refused(f"alice={ALICE}", f"bob=sha256:{digest}")


def test_no_keys_are_refused() -> None:
    """An empty collection, or a text in place of a list, cannot work."""
    assert "at least one key" in refused()
    with pytest.raises(ConfigurationError, match="list of keys"):
        APIKeys(f"{ALICE},{BOB}")


def test_anonymous_ids_reveal_nothing() -> None:
    """A plain secret gets a stable id of its own that is no part and no plain hash of it."""
    first, again, other = (APIKey.parse(secret) for secret in (ALICE, ALICE, BOB))
    assert first.id == again.id != other.id
    token = first.id.removeprefix("key-")
    assert token not in ALICE
    assert len(token) * 4 <= 48
    for algorithm in ("md5", "sha1", "sha256", "sha512", "blake2b"):
        inner = hashlib.new(algorithm, ALICE.encode())
        assert token not in inner.hexdigest()
        assert token not in hashlib.new(algorithm, inner.digest()).hexdigest()


visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=24, max_size=80)
anything = st.text(st.characters(min_codepoint=0, max_codepoint=0x2FF), max_size=40)
joints = st.sampled_from(["", "=", ";", ",", " ", "==", ";expires=", "=sha256:", "\n", ";predict;"])


@settings(deadline=None)
@given(
    visible | anything.filter(lambda text: len(text) >= 16), st.lists(st.tuples(anything, joints), max_size=3), joints
)
@example(ALICE, [(BOB, "=")], ";b d")
@example(ALICE, [("alice=" + BOB, ";")], "")
@example(ALICE, [("sha256:" + "0" * 64, "=")], ";ä")
def test_errors_never_quote_a_secret(secret: str, around: list[tuple[str, str]], joint: str) -> None:
    """Wherever a secret stands in a mistyped text, the error does not show it, and there is no other error."""
    text = joint + secret + joint + "".join(part + between for part, between in around)
    for entries in (text.split(","), [text], [secret + joint], [part for part, _ in around] + [secret]):
        message = _error_of(entries)
        for piece in (secret, *secret.split(",")):
            if len(piece) >= 12:
                assert piece not in message
                assert repr(piece)[1:-1] not in message


def _error_of(entries: Sequence[str]) -> str:
    try:
        APIKeys(entries)
    except ConfigurationError as error:
        return f"{error} {error.__cause__}"
    return ""


# The guard -----------------------------------------------------------------------------------------------------------


def test_several_live_at_once() -> None:
    """Two callers and two secrets of one caller are live together; each secret is who it says."""
    app = app_with(APIKeyAuth(APIKeys([f"alice={ALICE}", f"alice={BOB};predict", CAROL])))
    assert call(app, key_header(ALICE)).json() == {"id": "alice", "scopes": [], "method": "api-key"}
    assert call(app, key_header(BOB)).json() == {"id": "alice", "scopes": ["predict"], "method": "api-key"}
    assert call(app, key_header(CAROL)).json()["id"].startswith("key-")


def test_expiry_to_the_instant() -> None:
    """A key is live until just before its expiry and refused from that instant on, in any time zone."""
    now = NOON.timestamp()
    expires_at = NOON.astimezone(timezone(timedelta(hours=9)))
    record, secret = APIKey.generate("alice", expires_at=expires_at)
    app = app_with(APIKeyAuth(APIKeys([record]), clock=lambda: now))
    answers = {}
    for offset in (-3600.0, -0.001, 0.0, 0.001, 3600.0):
        now = NOON.timestamp() + offset
        answers[offset] = call(app, key_header(secret)).status_code
    assert answers == {-3600.0: 200, -0.001: 200, 0.0: 401, 0.001: 401, 3600.0: 401}


def hostile_headers() -> dict[str, Headers]:
    return {
        "missing": [],
        "wrong": key_header(CAROL),
        "expired": key_header(BOB),
        "empty": key_header(""),
        "duplicate": [*key_header(ALICE), *key_header(ALICE)],
        "right and wrong": [*key_header(ALICE), *key_header(CAROL)],
        "joined": key_header(f"{ALICE}, {ALICE}"),
        "latin-1": key_header(b"\xe9"),
        "all bytes": key_header(bytes(range(256))),
        "utf-8": key_header("clé-ключ-鍵"),
        "huge": key_header(b"A" * 1_000_000),
        "prefix": key_header(ALICE[:-1]),
        "longer": key_header(ALICE + "x"),
        "case": key_header(ALICE.swapcase()),
        "digest": key_header(hashlib.sha256(ALICE.encode()).hexdigest()),
        "raw digest": key_header(hashlib.sha256(ALICE.encode()).digest()),
        "entry": key_header(f"alice={ALICE}"),
        "quoted": key_header(f'"{ALICE}"'),
        "scheme": key_header(f"APIKey {ALICE}"),
        "elsewhere": [(b"Authorization", f"Bearer {ALICE}".encode()), (b"X-API-Key-", ALICE.encode())],
        "nul": key_header(ALICE.encode() + b"\0"),
    }


@pytest.mark.parametrize("hardened", [False, True])
def test_every_refusal_is_the_same(hardened: bool) -> None:
    """Missing, wrong, expired, doubled and garbage keys get one and the same 401: status, headers and body."""
    caller = APIKeyAuth(APIKeys([f"alice={ALICE}", f"bob={BOB};expires=2020-01-01T00:00:00Z"]))
    app = app_with(caller, ["predict"])
    if hardened:
        harden(app)
    seen = {}
    for case, headers in hostile_headers().items():
        answer = call(app, headers)
        request_id = answer.headers.pop("X-Request-Id", "")
        body = answer.text.replace(request_id, "ID") if request_id else answer.text
        seen[case] = (answer.status_code, tuple(answer.headers.multi_items()), body)
    status, head, body = seen["missing"]
    assert status == 401
    assert ("www-authenticate", "APIKey") in head
    assert seen == dict.fromkeys(seen, seen["missing"])
    assert call(app, key_header(ALICE)).status_code == 403  # the live key, known and without the scope


_live = app_with(APIKeyAuth(APIKeys([f"alice={ALICE}"])))


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=3))
@example([ALICE.encode() + b" "])
@example([b"\xe9" * 34])
def test_no_bytes_crash_or_open(values: list[bytes]) -> None:
    """No header bytes but the secret's own ever give anything but the 401."""
    answer = call(_live, [(b"x-api-key", value) for value in values])
    assert answer.status_code == (200 if values == [ALICE.encode()] else 401)


def test_another_header() -> None:
    """The header can have another name; the case in which a client writes it does not matter."""
    app = app_with(APIKeyAuth(APIKeys([ALICE]), header="X-Service-Key"))
    assert call(app, [(b"x-sErViCe-kEy", ALICE.encode())]).status_code == 200
    assert call(app, key_header(ALICE)).status_code == 401


@pytest.mark.parametrize("header", ["", " ", "X API", "X-API-Key:", "X-Clé", "X\r\nY", "X-API-Key\n"])
def test_bad_header_names_are_refused(header: str) -> None:
    """A name that no request could carry would lock everybody out."""
    with pytest.raises(ConfigurationError, match="header"):
        APIKeyAuth(APIKeys([ALICE]), header=header)


@pytest.mark.parametrize("keys", [None, [ALICE], ALICE, {"alice": ALICE}])
def test_keys_of_another_kind_are_refused(keys: Any) -> None:
    """A bare list is refused when the guard is built, and the text shows no key."""
    with pytest.raises(ConfigurationError, match=r"APIKeys\(") as error:
        APIKeyAuth(keys)
    assert ALICE not in str(error.value)


@pytest.mark.parametrize("hardened", [False, True])
def test_scopes(hardened: bool) -> None:
    """A key without a demanded scope gets a 403 that names the scope (RFC 6750); one with all of them passes."""
    keys = APIKeys([f"alice={ALICE};predict;explain", f"bob={BOB};predict"])
    app = app_with(APIKeyAuth(keys), ["predict", "explain"])
    if hardened:
        harden(app)
    assert call(app, key_header(ALICE)).status_code == 200
    answer = call(app, key_header(BOB))
    assert answer.status_code == 403
    assert answer.headers["WWW-Authenticate"] == 'APIKey error="insufficient_scope", scope="predict explain"'
    assert call(app).status_code == 401


@pytest.mark.parametrize("hardened", [False, True])
def test_scopes_in_nested_routers(hardened: bool) -> None:
    """Scopes demanded by app, outer router, inner router and route all hold, each on its own."""
    names = ["app", "outer", "inner", "route"]
    caller_keys = {scope: secrets.token_urlsafe(32) for scope in names}
    everything = secrets.token_urlsafe(32)
    entries = [f"no-{gap}={key};{';'.join(n for n in names if n != gap)}" for gap, key in caller_keys.items()]
    caller = APIKeyAuth(APIKeys([*entries, f"all={everything};{';'.join(names)}"]))
    inner = APIRouter(prefix="/inner", dependencies=[Security(caller, scopes=["inner"])])

    @inner.get("/", dependencies=[Security(caller, scopes=["route"])])
    async def deep(who: Annotated[Principal, Depends(caller)]) -> str:
        return who.id

    outer = APIRouter(prefix="/outer", dependencies=[Security(caller, scopes=["outer"])])
    outer.include_router(inner)
    app = FastAPI(dependencies=[Security(caller, scopes=["app"])])
    app.include_router(outer)
    if hardened:
        harden(app)
    assert call(app, key_header(everything), "/outer/inner/").json() == "all"
    for gap, key in caller_keys.items():
        answer = call(app, key_header(key), "/outer/inner/")
        assert answer.status_code == 403, gap
        assert answer.headers["WWW-Authenticate"].endswith(f'scope="{gap}"')
    assert call(app, (), "/outer/inner/").status_code == 401


def test_openapi_shows_the_padlock() -> None:
    """The scheme is in the document under the header's name, so that /docs can authorise."""
    caller = APIKeyAuth(APIKeys([ALICE]), header="X-Service-Key", scheme_name="Service key", description="Ask us.")
    document = app_with(caller).openapi()
    assert document["components"]["securitySchemes"] == {
        "Service key": {"type": "apiKey", "in": "header", "name": "X-Service-Key", "description": "Ask us."}
    }
    assert document["paths"]["/"]["get"]["security"] == [{"Service key": []}]


# Built on first use --------------------------------------------------------------------------------------------------


def test_import_needs_no_configuration() -> None:
    """Importing the ready-made guard reads nothing, so it works where no key is set or a wrong one is."""
    for value in (None, "short"):
        environment = {name: text for name, text in os.environ.items() if name != "MLGUARD_API_KEYS"}
        if value is not None:
            environment["MLGUARD_API_KEYS"] = value
        code = "from mlguard.auth.api_keys import require_api_key; print(require_api_key)"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "APIKeyAuth(header='X-API-Key')"


def test_ready_made_guard_reads_the_environment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """require_api_key loads the keys with the first request, not before, and keeps them."""
    monkeypatch.setattr(require_api_key, "_keys", APIKeys.from_env)  # undone afterwards: it is one object for all
    app = app_with(require_api_key)
    monkeypatch.setenv("MLGUARD_API_KEYS", f"alice={ALICE}")
    assert call(app, key_header(ALICE)).json()["id"] == "alice"
    monkeypatch.setenv("MLGUARD_API_KEYS", f"bob={BOB}")
    assert call(app, key_header(ALICE)).status_code == 200
    assert call(app, key_header(BOB)).status_code == 401


def test_no_keys_is_no_open_door() -> None:
    """Without harden and without keys, the request fails and nothing is served."""
    app = app_with(APIKeyAuth(APIKeys.from_env))
    for headers in hostile_headers().values():
        assert call(app, headers).status_code == (500 if len(headers) == 1 else 401)


@pytest.mark.parametrize(
    ("text", "message"), [(None, "MLGUARD_API_KEYS is not set"), ("alice=short", "MLGUARD_API_KEYS, entry 1")]
)
def test_hardened_app_does_not_start_without_keys(
    text: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is told that start-up failed, and why, when the keys are missing or weak; with keys it starts."""
    if text is not None:
        monkeypatch.setenv("MLGUARD_API_KEYS", text)
    app = app_with(APIKeyAuth(APIKeys.from_env))
    harden(app)
    failed = asyncio.run(start(app))
    assert [sent["type"] for sent in failed] == ["lifespan.startup.failed"]
    assert message in failed[0]["message"]
    monkeypatch.setenv("MLGUARD_API_KEYS", ALICE)
    assert [sent["type"] for sent in asyncio.run(start(app))] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


def test_entries_make_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated records, written out and joined with commas, are a valid environment."""
    made = [APIKey.generate(f"caller-{n}", scopes={"predict"}, expires_at=NOON) for n in range(5)]
    monkeypatch.setenv("MLGUARD_API_KEYS", ",".join(record.entry for record, _ in made))
    keys = APIKeys.from_env()
    assert all(keys.find(secret.encode()) == record for record, secret in made)


def test_a_key_of_megabytes_is_not_even_hashed() -> None:
    """Nobody can have the service work on it: no key is longer than 8 KiB, also one that is known."""
    for length, known in ((8_192, True), (8_193, False)):
        secret = secrets.token_urlsafe(8_192)[:length].encode()
        keys = APIKeys([APIKey("alice", hashlib.sha256(secret).digest())])
        assert (keys.find(secret) is not None) is known
