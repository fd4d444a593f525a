"""Logging in over HTTP: the right ones get tokens, and nobody learns or breaks anything."""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import pytest
from fastapi import Depends, FastAPI, Security
from hypothesis import given
from hypothesis import strategies as st
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from starlette.requests import HTTPConnection

from mlguard import (
    APIKey,
    APIKeyAuth,
    APIKeys,
    ConfigurationError,
    MemoryStore,
    Passwords,
    Principal,
    RateLimit,
    TokenIssuer,
    User,
    Users,
    harden,
    token_router,
)
from tests.asgi import Answer, acall, call
from tests.auth.logins import CHEAP, OTHER_SECRET, apost, cheap_passwords, get, log_in, make_issuer, post
from tests.clock import Clock

RIGHT = CHEAP.hash("right")
USERS = {
    "alice": User("1", RIGHT, {"predict", "train"}),
    "bob": User("2", CHEAP.hash("also right"), {"predict"}),
    "carol": User("3", RIGHT, {"predict"}, disabled=True),
    "robot": User("4", None, {"predict"}),
}
FORM = "application/x-www-form-urlencoded"


class Service:
    """An app whose users log in, with what stands behind it."""

    def __init__(self, users: Any = None, *, hardened: bool = True, **settings: Any) -> None:
        self.clock = Clock()
        self.issuer = make_issuer(self.clock, store=settings.pop("store", MemoryStore(clock=self.clock)))
        self.users = Users(USERS) if users is None else users
        self.app = FastAPI()
        settings = {"passwords": cheap_passwords(), **settings}
        self.app.include_router(token_router(self.users, self.issuer, **settings))
        caller = self.issuer.auth(token_url="token")

        @self.app.get("/predict")
        async def predict(who: Annotated[Principal, Security(caller, scopes=["predict"])]) -> str:
            return who.id

        if hardened:
            harden(self.app)

    def log_in(self, name: str = "alice", password: str = "right", **more: str) -> Answer:
        return log_in(self.app, name, password, **more)

    def refresh(self, token: str, **more: str) -> Answer:
        return post(self.app, "/token/refresh", {"refresh_token": token, **more})

    def revoke(self, token: str) -> Answer:
        return post(self.app, "/token/revoke", {"token": token})

    def predict(self, token: str) -> int:
        return get(self.app, "/predict", token)


@pytest.fixture
def service() -> Service:
    return Service()


def error_of(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["error"]


# As the documentation page and other clients ask ----------------------------------------------------------------------


@pytest.mark.parametrize("hardened", [True, False])
def test_login_gives_what_fastapis_documentation_page_expects(hardened: bool) -> None:
    """With a bearer token that works, and nothing on the way keeps it."""
    service = Service(hardened=hardened)
    answer = service.log_in()
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    tokens = answer.json
    assert tokens.keys() == {"access_token", "token_type", "expires_in", "refresh_token", "scope"}
    assert (tokens["token_type"], tokens["expires_in"], tokens["scope"]) == ("bearer", 900, "predict train")
    assert service.predict(tokens["access_token"]) == 200


def test_form_of_the_documentation_page_is_taken(service: Service) -> None:
    """Swagger UI sends all fields, the empty ones too, and sometimes a header for a client that has no name."""
    form = b"grant_type=password&username=alice&password=right&scope=predict&client_id=&client_secret="
    answer = post(service.app, "/token", form, authorization="Basic Og==")
    assert (answer.status, answer.json["scope"]) == (200, "predict")
    for content_type in (f"{FORM}; charset=UTF-8", FORM.title()):
        assert post(service.app, "/token", form, content_type=content_type).status == 200


def test_whole_life_of_a_session(service: Service) -> None:
    """Log in, predict, refresh, predict, log out, and nothing holds any more."""
    first = service.log_in().json
    second = service.refresh(first["refresh_token"]).json
    assert service.predict(second["access_token"]) == 200
    for token in (second["refresh_token"], second["refresh_token"], "unknown", second["access_token"]):
        answer = service.revoke(token)
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["cache-control"] == "no-store"
    assert [service.predict(tokens["access_token"]) for tokens in (first, second)] == [401, 401]
    assert error_of(service.refresh(second["refresh_token"])) == (400, "invalid_grant")


def test_refresh_works_at_the_token_endpoint_too(service: Service) -> None:
    """Where other clients than FastAPI's page look for it (RFC 6749, section 6)."""
    token = service.log_in().json["refresh_token"]
    answer = post(service.app, "/token", {"grant_type": "refresh_token", "refresh_token": token, "scope": "train"})
    assert (answer.status, answer.json["scope"]) == (200, "train")


def test_stolen_refresh_token_is_worth_nothing_after_the_log_out(service: Service) -> None:
    """And using one twice ends the session of both, over HTTP as well."""
    stolen = service.log_in().json["refresh_token"]
    latest = service.refresh(stolen).json
    service.revoke(latest["refresh_token"])
    assert error_of(service.refresh(stolen)) == (400, "invalid_grant")
    stolen = service.log_in().json["refresh_token"]
    latest = service.refresh(stolen).json
    assert error_of(service.refresh(stolen)) == (400, "invalid_grant")
    assert error_of(service.refresh(latest["refresh_token"])) == (400, "invalid_grant")
    assert service.predict(latest["access_token"]) == 401


def test_router_works_under_a_prefix_and_in_another_app() -> None:
    """As any router."""
    issuer = make_issuer(Clock())
    app, outer = FastAPI(), FastAPI()
    app.include_router(token_router(Users(USERS), issuer, passwords=cheap_passwords()), prefix="/auth")
    outer.mount("/v1", app)
    harden(outer)
    assert post(outer, "/v1/auth/token", {"username": "alice", "password": "right"}).status == 200


# Scopes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "granted"),
    [("", "predict train"), ("train", "train"), ("train admin", "train"), (" predict  predict ", "predict")],
)
def test_scopes_are_narrowed_to_those_of_the_user(asked: str, granted: str, service: Service) -> None:
    """Whoever asks for more gets what there is."""
    tokens = service.log_in(scope=asked).json
    assert tokens["scope"] == granted
    assert service.predict(tokens["access_token"]) == (200 if "predict" in granted else 403)


@pytest.mark.parametrize("asked", ["admin", "pre\\dict", '"predict"', "é", "a\nb", "predict\x00"])
def test_scopes_of_which_nothing_can_be_granted_are_said(asked: str, service: Service) -> None:
    """At the login and at a refresh, which is not used up by it."""
    assert error_of(service.log_in(scope=asked)) == (400, "invalid_scope")
    token = service.log_in(scope="predict").json["refresh_token"]
    assert error_of(service.refresh(token, scope=asked)) == (400, "invalid_scope")
    assert error_of(service.refresh(token, scope="train")) == (400, "invalid_scope")
    assert service.refresh(token).status == 200


def test_what_the_user_may_do_is_asked_anew_at_every_refresh() -> None:
    """A scope that was taken away is gone, and who was shut out or deleted gets nothing more."""
    users = Users(USERS)
    service = Service(users)
    token = service.log_in().json["refresh_token"]
    users._users["1"] = replace(USERS["alice"], scopes=frozenset({"train"}))
    answer = service.refresh(token)
    assert (answer.status, answer.json["scope"]) == (200, "train")
    users._users["1"] = replace(USERS["alice"], disabled=True)
    assert error_of(service.refresh(answer.json["refresh_token"])) == (400, "invalid_grant")
    del users._users["1"]
    assert error_of(service.refresh(answer.json["refresh_token"])) == (400, "invalid_grant")


# Nobody learns who has an account -------------------------------------------------------------------------------------


def seen(answer: Answer) -> tuple[int, dict[str, str], dict[str, Any]]:
    """What a caller sees of an answer, but for the request's id."""
    headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
    return answer.status, headers, {name: value for name, value in answer.json.items() if name != "request_id"}


@pytest.mark.parametrize("hardened", [True, False])
def test_wrong_name_wrong_password_and_disabled_user_look_the_same(hardened: bool) -> None:
    """Status, headers and body, from the first attempt on until long after the limit is used up."""
    attempts = {}
    for name, password in (
        ("alice", "wrong"),
        ("nobody", "right"),
        ("carol", "right"),
        ("carol", "wrong"),
        ("robot", "right"),
        ("alice", "x" * 2000),
        ("nobody", "x" * 2000),
    ):
        service = Service(hardened=hardened)
        attempts[name, password] = [seen(service.log_in(name, password)) for _ in range(13)]
    first, *others = attempts.values()
    assert [status for status, _, _ in first] == [400] * 10 + [429] * 3
    assert all(other == first for other in others)
    if hardened:
        assert first[0][2]["error"] == "invalid_grant"


def test_as_many_passwords_are_hashed_whatever_the_name_is() -> None:
    """The time is that of the same work: one hash, or none where the password cannot be one."""

    class Counting:
        def __init__(self) -> None:
            self.verified = 0

        def hash(self, password: str, /) -> str:
            return CHEAP.hash(password)

        def verify_and_update(self, password: str, stored: str, /) -> tuple[bool, str | None]:
            self.verified += 1
            return CHEAP.verify_and_update(password, stored)

    hasher = Counting()
    service = Service(passwords=Passwords(hasher))
    counts = {}
    for name in ("alice", "nobody", "carol", "robot"):
        for password in ("wrong", "x" * 2000):
            before = hasher.verified
            service.log_in(name, password)
            counts[name, len(password)] = hasher.verified - before
    assert set(counts.items()) == {((name, 5), 1) for name, _ in counts} | {((name, 2000), 0) for name, _ in counts}


def test_log_has_no_name_and_no_password(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """People type their password into the field for the name. The id of a user who exists is there."""
    caplog.set_level(logging.DEBUG)
    service.log_in("alice", "hunter2")
    service.log_in("hunter2", "hunter2")
    service.log_in("carol", "right")
    service.log_in("hunter2\n", "hunter2")
    post(service.app, "/token", b"username=hunter2&password=%ff%fehunter2")
    for _ in range(12):
        service.log_in("hunter2", "hunter2")
    assert "login: wrong password for user '1'" in caplog.text
    assert "login: no such account" in caplog.text
    assert "login: user '3' is disabled" in caplog.text
    assert "rule=rate-limited" in caplog.text
    assert "hunter2" not in caplog.text
    assert "alice" not in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


def test_store_has_no_name(service: Service) -> None:
    """Counts and sessions are kept under digests."""
    service.log_in()
    service.log_in("alice", "wrong")
    store = service.issuer.store
    assert isinstance(store, MemoryStore)
    kept = repr([vars(store), store._records._values])
    assert "alice" not in kept
    assert "right" not in kept


# Brakes on guessing ---------------------------------------------------------------------------------------------------


def guess(service: Service, times: int, name: str = "alice", address: str = "198.51.100.{}") -> list[int]:
    """Statuses of wrong passwords, each from another address where it has a place for a number."""
    return [service.log_in(name, "wrong", address=address.format(number)).status for number in range(times)]


def test_one_account_is_guessed_at_ten_times_from_wherever(service: Service) -> None:
    """Then the right password is refused too, or a guess could be told to be right."""
    assert guess(service, 12) == [400] * 10 + [429] * 2
    refused = service.log_in(address="203.0.113.9")
    assert refused.status == 429
    assert 0 < int(refused.headers["retry-after"]) <= 1_000
    service.clock.now += int(refused.headers["retry-after"])
    assert service.log_in(address="203.0.113.9").status == 200


def test_other_accounts_go_on(service: Service) -> None:
    """Only the one that is attacked is braked."""
    guess(service, 12)
    assert service.log_in("bob", "also right").status == 200


def test_strangers_cannot_shut_an_owner_out(service: Service) -> None:
    """Not from where the account was logged in to before, for as long as they like to go on."""
    assert service.log_in(address="203.0.113.9").status == 200
    for _ in range(3):
        assert 429 in guess(service, 12)
        assert service.log_in(address="203.0.113.9").status == 200
        service.clock.now += 3_600
    assert service.log_in(address="203.0.113.10").status == 200  # for strangers, the brake has been let off
    service.clock.now += 31 * 86_400
    assert 429 in guess(service, 12)
    assert service.log_in(address="203.0.113.9").status == 429  # too long ago


def test_who_has_logged_in_cannot_guess_for_ever(service: Service) -> None:
    """The address has a count of its own, and no more than that; a success takes nothing back."""
    assert service.log_in(address="203.0.113.9").status == 200
    statuses = []
    for _ in range(6):
        statuses += guess(service, 2, address="203.0.113.9")
        statuses.append(service.log_in(address="203.0.113.9").status)
    assert statuses == [400, 400, 200] * 4 + [400, 400, 429] + [429, 429, 429]


def test_every_spelling_of_a_name_is_the_same_account(service: Service) -> None:
    """Some databases take them for the same name, and each would be another ten guesses."""
    spellings = ["alice", "ALICE", "Alice ", "\u212blice", "ålice", "\uff41lice", "al ice", "alice\u200b", "aŁice"]
    assert guess(service, 1) == [400]
    for number, name in enumerate(spellings):
        assert guess(service, 1, name, f"192.0.2.{number}") == [400], name
    assert guess(service, 1) == [429]


@pytest.mark.parametrize("unseen", ["\ufe0f", "\u034f", "\u180b", "\U000e0100", "\u3164", "\u17b4"])
def test_what_cannot_be_seen_in_a_name_makes_no_other_account(unseen: str, service: Service) -> None:
    """MySQL ignores variation selectors, say: a name with one more of them each time would never be braked."""
    assert [guess(service, 1, f"ali{unseen * number}ce", f"192.0.2.{number}") for number in range(12)] == (
        [[400]] * 10 + [[429]] * 2
    )


def test_one_address_guesses_thirty_times(service: Service) -> None:
    """At whatever accounts. It is refused before its form is read; others go on."""
    names = [f"user{number}" for number in range(32)]
    statuses = [service.log_in(name, "wrong", address="198.51.100.7").status for name in names]
    assert statuses == [400] * 30 + [429] * 2
    headers = [(b"content-type", FORM.encode())]
    chunks = [b"username=a", b"&password=b"]
    refused = call(service.app, "/token", headers=headers, chunks=chunks, client=("198.51.100.7", 1))
    assert (refused.status, refused.reads) == (429, 0)
    assert service.log_in(address="198.51.100.8").status == 200


def test_header_of_the_caller_changes_no_address(service: Service) -> None:
    """A forged X-Forwarded-For gives nobody a fresh count."""
    form = {"username": "user", "password": "wrong"}
    for number in range(30):
        post(service.app, "/token", {**form, "username": f"u{number}"}, x_forwarded_for=f"198.51.100.{number}")
    assert post(service.app, "/token", form, x_forwarded_for="203.0.113.1").status == 429


def test_only_failures_count(service: Service) -> None:
    """A busy office behind one address logs in as often as it likes."""
    assert {service.log_in().status for _ in range(40)} == {200}
    token = service.log_in().json["refresh_token"]
    assert service.refresh(token).status == 200
    assert {service.refresh(token).status for _ in range(40)} == {400}  # 256 bits are not guessed
    assert {post(service.app, "/token", {"username": "alice"}).status for _ in range(40)} == {400}
    assert service.log_in().status == 200


def test_limits_can_be_chosen() -> None:
    """By account as text, by address as text or as a limit that knows what an address is."""

    def network(conn: HTTPConnection) -> str:
        return conn.client.host.rpartition(".")[0] if conn.client else ""

    service = Service(failures_by_account=["2/minute"])
    assert guess(service, 3) == [400, 400, 429]
    flooded = Service(failures_by_address=["2/minute"])
    assert guess(flooded, 3, address="192.0.2.1") == [400, 400, 429]
    limit = RateLimit("2/minute", by=network, store=MemoryStore())
    flooded = Service(failures_by_address=limit)
    assert guess(flooded, 3) == [400, 400, 429]
    assert flooded.log_in(address="203.0.113.9").status == 200
    assert flooded.log_in(address="203.0.113.10").status == 200


def test_attempts_at_the_same_time_are_not_let_in_by_the_same_count() -> None:
    """Of a hundred guesses at once, no more than the limit and those under way are hashed; all are answered."""

    async def flood() -> list[Answer]:
        return await asyncio.gather(
            *(
                apost(flooded.app, "/token", {"username": "alice", "password": "wrong"}, address=f"192.0.2.{number}")
                for number in range(100)
            )
        )

    flooded = Service(passwords=cheap_passwords(concurrency=2, max_waiting=60))
    answers = asyncio.run(flood())
    statuses = [answer.status for answer in answers]
    assert statuses.count(503) == 38
    assert 10 <= statuses.count(400) <= 11
    assert statuses.count(429) == 100 - 38 - statuses.count(400)
    refused = next(answer for answer in answers if answer.status == 503)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json["type"] == "urn:mlguard:problem:overloaded"
    assert flooded.log_in("bob", "also right").status == 200


def test_who_has_logged_in_is_let_in_although_nothing_more_can_be_remembered() -> None:
    """The record of an address is a convenience; that of a session is not."""
    clock = Clock()
    service = Service(store=MemoryStore(clock=clock, max_records=1))
    answer = service.log_in()
    assert answer.status == 503  # the address took the room of the session
    assert answer.json["type"] == "urn:mlguard:problem:unavailable"
    service = Service(store=MemoryStore(clock=clock, max_records=2))
    assert [service.log_in(address=address).status for address in ("192.0.2.1", "192.0.2.2")] == [200, 503]


# Hashes ---------------------------------------------------------------------------------------------------------------

DEARER = PasswordHash((Argon2Hasher(time_cost=2, memory_cost=8, parallelism=1),))


def test_hash_out_of_date_is_replaced_at_the_login() -> None:
    """Once, and only by somebody who knew the password."""
    users = Users(USERS)
    service = Service(users, passwords=Passwords(DEARER))
    service.log_in("alice", "wrong")
    assert users._users["1"].password_hash == RIGHT
    assert service.log_in().status == 200
    upgraded = users._users["1"].password_hash
    assert upgraded is not None
    assert ",t=2," in upgraded
    assert service.log_in().status == 200
    assert users._users["1"].password_hash == upgraded


class ReadOnly:
    """A directory that cannot be written to."""

    async def find(self, name: str) -> User | None:
        return USERS.get(name)

    async def get(self, id: str) -> User | None:  # noqa: A002
        return next((user for user in USERS.values() if user.id == id), None)


class Broken(ReadOnly):
    """A directory that can be written to, in theory."""

    async def update_hash(self, user: User, new_hash: str) -> None:
        raise OSError(new_hash)


def test_login_needs_no_directory_that_can_be_written_to(caplog: pytest.LogCaptureFixture) -> None:
    """A hash that cannot be replaced is still the right one. The log does not quote it."""
    for users in (ReadOnly(), Broken()):
        service = Service(users, passwords=Passwords(DEARER))
        token = service.log_in().json["refresh_token"]
        assert service.refresh(token).status == 200
    assert "the upgraded password hash of user '1' was not stored: OSError" in caplog.text
    assert "$argon2" not in caplog.text


def test_password_that_was_changed_during_the_login_opens_no_session() -> None:
    """The old one was right when the hash was read, and everything was revoked before the tokens were minted."""

    class Changing(ReadOnly):
        async def find(self, name: str) -> User | None:
            user = USERS.get(name)
            changing.clock.now += 1
            await changing.issuer.revoke_all("1")
            changing.clock.now += 1
            return user

    changing = Service(Changing())
    assert error_of(changing.log_in()) == (400, "invalid_grant")


# Bad input ------------------------------------------------------------------------------------------------------------

LOGIN = b"username=alice&password=right"


@pytest.mark.parametrize("path", ["/token", "/token/refresh", "/token/revoke"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"&&&",
        b"=",
        b"username=alice",
        b"password=right",
        b"username=&password=right&refresh_token=&token=",
        LOGIN + b"&username=bob&refresh_token=a&refresh_token=a&token=a&token=a",
        b"username=%ff&password=right&refresh_token=%ff&token=%ff",
        b"\xff\xfe=1",
        b"username=al%00ice&password=right",
        b"username=al%0aice&password=right",
        b"username=" + b"a" * 321 + b"&password=right",
        b"&".join(b"field%d=1" % number for number in range(33)),
        b'{"username": "alice", "password": "right"}',
        "username=alice&password=right".encode("utf-16"),
    ],
)
def test_forms_that_are_none_are_invalid_requests(path: str, body: bytes, service: Service) -> None:
    """In the shape that OAuth clients read, and as a problem."""
    answer = post(service.app, path, body)
    assert error_of(answer) == (400, "invalid_request")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json["type"] == "urn:mlguard:problem:invalid-request"
    assert answer.json["error_description"] == answer.json["detail"]
    assert answer.json["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("content_type", ["", "application/json", "multipart/form-data; boundary=x", "text/plain", ","])
def test_other_content_types_are_invalid_requests(content_type: str, service: Service) -> None:
    """RFC 6749 knows one."""
    answer = post(service.app, "/token", LOGIN, content_type=content_type)
    assert error_of(answer) == (400, "invalid_request")


@pytest.mark.parametrize("grant", ["client_credentials", "PASSWORD", "authorization_code", "password refresh_token"])
def test_other_grants_are_not_supported(grant: str, service: Service) -> None:
    """It says so, as RFC 6749 has it."""
    assert error_of(service.log_in(grant_type=grant)) == (400, "unsupported_grant_type")
    answer = post(service.app, "/token/refresh", {"grant_type": "password", "refresh_token": "x"})
    assert error_of(answer) == (400, "unsupported_grant_type")


@pytest.mark.parametrize("hardened", [True, False])
def test_forms_that_are_too_large_are_not_read_to_their_end(hardened: bool) -> None:
    """Sixteen kilobytes are enough for every name, password and token; the length may be declared or not."""
    service = Service(hardened=hardened)
    headers = [(b"content-type", FORM.encode())]
    chunks = [b"username=alice&password="] + [b"x" * 8_000] * 50
    for declared in (True, False):
        answer = call(service.app, "/token", headers=headers, chunks=chunks, declared=declared)
        assert answer.status == 413
        assert answer.reads <= 5


def test_caller_who_hangs_up_half_way_is_no_crash(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged but that."""

    async def half() -> list[Any]:
        sent: list[Any] = []
        messages = iter([{"type": "http.request", "body": b"username=al", "more_body": True}])

        async def receive() -> Any:
            return next(messages, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            sent.append(message)

        await service.app(scope, receive, send)
        return sent

    scope: dict[str, Any] = {}
    asyncio.run(acall(Recorder(scope), "/token", headers=[(b"content-type", FORM.encode())]))
    assert asyncio.run(half())[0]["status"] == 400
    assert "the caller hung up" in caplog.text


class Recorder:
    """An app that keeps the scope of its request."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope |= scope


@given(st.one_of(st.binary(max_size=200), st.builds(LOGIN.__add__, st.binary(max_size=50))))
def test_no_bytes_crash_any_endpoint(body: bytes) -> None:
    """And none but the right ones give a token."""
    for path in ("/token", "/token/refresh", "/token/revoke"):
        assert post(ROBUST.app, path, body).status in {200, 400, 413, 429}


@given(
    st.dictionaries(
        st.sampled_from(["grant_type", "username", "password", "scope", "refresh_token", "token", "client_id"]),
        st.one_of(st.sampled_from(["alice", "right", "password", "refresh_token", "predict"]), st.text(max_size=40)),
    )
)
def test_no_fields_crash_any_endpoint(fields: dict[str, str]) -> None:
    """Whatever stands in them, as text that can be sent."""
    body = "&".join(f"{name}={quote(value, errors='surrogatepass')}" for name, value in fields.items()).encode()
    for path in ("/token", "/token/refresh", "/token/revoke"):
        answer = post(ROBUST.app, path, body)
        assert answer.status in {200, 400}
        if path != "/token/revoke" and answer.status == 200:
            assert (fields["username"], fields["password"]) == ("alice", "right")


ROBUST = Service(failures_by_account=["100000/minute"], failures_by_address=["100000/minute"])


def test_long_password_of_a_form_is_not_cut_off() -> None:
    """1024 bytes hold to the last one, also percent-encoded."""
    long = "é" * 512
    service = Service(Users({"alice": User("1", CHEAP.hash(long), {"predict"})}))
    assert post(service.app, "/token", urlencode({"username": "alice", "password": long}).encode()).status == 200
    assert error_of(service.log_in("alice", long[:-1])) == (400, "invalid_grant")


def test_refresh_tokens_of_others_are_refused(service: Service) -> None:
    """An access token, another issuer's, and what is none."""
    other: TokenIssuer = make_issuer(service.clock, key=OTHER_SECRET)
    foreign = asyncio.run(other.open_session("1"))
    for token in (service.log_in().json["access_token"], foreign.refresh_token, "x", "a.b.c"):
        assert error_of(service.refresh(token)) == (400, "invalid_grant")
        assert service.revoke(token).status == 200


# Settings and documentation -------------------------------------------------------------------------------------------


class NoGet:
    async def find(self, name: str) -> User | None:
        return None


class NotAsync(ReadOnly):
    def find(self, name: str) -> Any:
        return None


PASSWORDS = cheap_passwords()
CALLER = APIKeyAuth(APIKeys([APIKey.generate("alice")[0]]))


@pytest.mark.parametrize(
    "make",
    [
        lambda issuer: token_router(NoGet(), issuer),  # type: ignore[arg-type]
        lambda issuer: token_router(NotAsync(), issuer),
        lambda issuer: token_router({"alice": USERS["alice"]}, issuer),  # type: ignore[arg-type]
        lambda issuer: token_router(Users(USERS), "https://id.example"),  # type: ignore[arg-type]
        lambda issuer: token_router(Users(USERS), issuer, passwords=CHEAP),  # type: ignore[arg-type]
        lambda issuer: token_router(Users(USERS), issuer, passwords=PASSWORDS, failures_by_account="10/minute"),
        lambda issuer: token_router(Users(USERS), issuer, passwords=PASSWORDS, failures_by_account=[]),
        lambda issuer: token_router(Users(USERS), issuer, passwords=PASSWORDS, failures_by_address=["10/min"]),
        lambda issuer: token_router(Users(USERS), issuer, passwords=PASSWORDS, failures_by_address=None),  # type: ignore[arg-type]
        lambda issuer: token_router(
            Users(USERS), issuer, passwords=PASSWORDS, failures_by_address=RateLimit("1/minute", by=CALLER)
        ),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(make: Callable[[Any], object]) -> None:
    """A brake cannot be taken off by a typing error."""
    with pytest.raises(ConfigurationError):
        make(make_issuer(Clock()))


def test_default_passwords_are_those_of_owasp() -> None:
    """A router without further settings checks argon2id."""
    service = Service(Users({"alice": User("1", asyncio.run(Passwords().hash("right")), {"predict"})}), passwords=None)
    assert service.log_in().status == 200


def test_documentation_shows_the_forms_and_the_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who opens /docs can try each of them."""
    monkeypatch.setenv("MLGUARD_ENV", "development")
    document = json.loads(call(Service().app, "/openapi.json", method="GET").body)
    paths = document["paths"]
    assert paths.keys() == {"/token", "/token/refresh", "/token/revoke", "/predict"}
    for path in ("/token", "/token/refresh", "/token/revoke"):
        operation = paths[path]["post"]
        assert operation["requestBody"]["content"].keys() == {FORM}
        assert {"200", "400", "413"} <= operation["responses"].keys()
    login = paths["/token"]["post"]
    assert "429" in login["responses"]
    assert {"username", "password", "scope"} <= login["requestBody"]["content"][FORM]["schema"]["properties"].keys()
    assert document["components"]["securitySchemes"]["OAuth2PasswordBearer"]["flows"]["password"]["tokenUrl"] == "token"


def test_brake_says_what_it_is() -> None:
    """In logs and errors."""
    router = token_router(Users(USERS), make_issuer(Clock()), passwords=PASSWORDS)
    [dependency] = next(route for route in router.routes if getattr(route, "path", "") == "/token").dependencies  # type: ignore[attr-defined]
    assert repr(dependency.dependency) == "FailureBrake(RateLimit('failed logins by address'))"
    assert isinstance(dependency, type(Depends()))
