"""JWK Sets: which keys can verify tokens, and what becomes of a set that is broken, on the web or in a file."""

import base64
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import Depends, FastAPI
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from mlguard import ConfigurationError, JWTAuth
from mlguard.auth._jwt_keys import KeyHealth
from mlguard.auth._key_sets import KeySetError, read_key_set
from mlguard.auth._key_sources import KeyFile
from mlguard.auth.jwks import PublishedKeys
from tests.asgi import call
from tests.auth.jwt_attacks import NOW
from tests.auth.provider import jwk, jwks, private_key, token
from tests.clock import Clock
from tests.servers import wait_until

WEAK = {**RSAKey.import_key(rsa.generate_private_key(65537, 2048)).as_dict(private=False)}
WEAK["n"] = base64.urlsafe_b64encode(b"\xc1" * 128).rstrip(b"=").decode()  # joserfc makes no weak keys
P256 = ECKey.import_key(ec.generate_private_key(ec.SECP256R1())).as_dict(private=False)
P521 = ECKey.import_key(ec.generate_private_key(ec.SECP521R1())).as_dict(private=False)
OKP = OKPKey.generate_key("Ed25519").as_dict(private=False)
OCT = OctKey.generate_key(256).as_dict(private=True)
#: Keys that are meant for something else: left out, and nothing to be said about it.
OTHERS = {
    "for encryption": jwk("x", use="enc", alg="RSA-OAEP"),
    "to encrypt": {**jwk("x"), "key_ops": ["encrypt"]},
    "operations that are none": {**jwk("x"), "key_ops": "verify"},
    "another algorithm": jwk("x", alg="RS512"),
    "an algorithm that is none": jwk("x", alg=["RS256"]),
    "another kind": {**OKP, "kid": "x"},
    "another curve": {**P521, "kid": "x"},
    "an unknown kind": {"kty": "AKP", "kid": "x"},
    "a kind that is none": {"kty": ["RSA"], "kid": "x"},
}
#: Keys that should not be in a set.
FAULTS = {
    "weak": ({**WEAK, "kid": "x"}, "1024 bits"),
    "symmetric": ({**OCT, "kid": "x"}, "secret or a private key"),
    "symmetric, in disguise": ({**jwk("x"), "k": "AAAA"}, "secret or a private key"),
    "private": ({**private_key("x").as_dict(private=True), "kid": "x"}, "secret or a private key"),
    "no object": ("x", "no JWK"),
    "nothing": (None, "no JWK"),
    "kid that is none": ({**jwk("x"), "kid": 1}, "no JWK"),
    "no modulus": ({"kty": "RSA", "kid": "x"}, "valid JWK"),
    "off the curve": ({**P256, "kid": "x", "y": P256["x"]}, "valid JWK"),
    "unknown curve": ({**P256, "kid": "x", "crv": "P-000"}, "valid JWK"),
    "without a kid": ({name: value for name, value in jwk("x").items() if name != "kid"}, "without a kid"),
}


def document(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def found(data: bytes, header: dict[str, Any], algorithms: tuple[str, ...] = ("RS256", "ES256")) -> Any:
    return read_key_set(data, algorithms).keys.find(header)


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_a_key_for_something_else_is_left_out(other: object) -> None:
    """It cannot be used, and it is no fault of the set."""
    read = read_key_set(document(other, jwk("one")), ("RS256", "ES256"))
    assert (len(read.keys), read.faults) == (1, ())
    assert read.keys.find({"kid": "x"}) is None
    with pytest.raises(KeySetError, match="no usable key for RS256, ES256"):
        read_key_set(document(other), ("RS256", "ES256"))


@pytest.mark.parametrize(("fault", "text"), FAULTS.values(), ids=FAULTS.keys())
def test_a_key_that_should_not_be_there_is_left_out_and_told(fault: object, text: str) -> None:
    """The others still serve, and the log can name the key by its place."""
    read = read_key_set(document(fault, jwk("one")), ("RS256", "ES256"))
    assert len(read.keys) == len(read.faults) == 1
    assert text in read.faults[0]
    assert read.keys.find({"kid": "x"}) is None


def test_a_key_is_bound_to_what_fits_it_and_to_what_it_says() -> None:
    """A key for RS256 verifies no ES256, and a key that names no algorithm only what fits its kind."""
    keys = document(jwk("one"), {**P256, "kid": "two"})
    assert found(keys, {"kid": "one"}).keys() == {"RS256"}
    assert found(keys, {"kid": "two"}).keys() == {"ES256"}
    assert found(keys, {"kid": "../one"}) is None
    assert found(keys, {}) is None, "several keys, and none is named"


def test_two_keys_of_one_kid() -> None:
    """The same key twice is one; two of different algorithms stand side by side; two of one algorithm are none."""
    assert found(document(jwk("one"), jwk("one")), {"kid": "one"}).keys() == {"RS256"}
    assert found(document(jwk("one"), {**P256, "kid": "one"}), {"kid": "one"}).keys() == {"RS256", "ES256"}
    same = [{**jwk(name), "kid": "same"} for name in ("one", "two", "three")]
    read = read_key_set(document(*same, jwk("four")), ("RS256",))
    assert read.keys.find({"kid": "same"}) is None
    assert read.keys.find({"kid": "four"}) is not None
    assert "neither is used" in read.faults[0]


def test_a_single_key_needs_no_kid() -> None:
    """There is nothing to choose."""
    alone = {name: value for name, value in jwk("one").items() if name != "kid"}
    assert found(document(alone), {}).keys() == {"RS256"}
    assert found(document(jwk("one")), {}).keys() == {"RS256"}


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"{}", b'{"keys":null}', b'{"keys":{}}', b"\xff", b'{"keys":[],"keys":[]}', b" " * 262_145],
)
def test_what_is_no_set_is_refused(data: bytes) -> None:
    """In words that hold nothing of it."""
    with pytest.raises(KeySetError):
        read_key_set(data, ("RS256",))
    with pytest.raises(KeySetError, match="more than 100 keys"):
        read_key_set(document(*({"kid": str(n)} for n in range(101))), ("RS256",))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["RSA", "EC", "OKP", "RS256"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
CHANGES = st.dictionaries(st.sampled_from(["kty", "kid", "n", "e", "use", "alg", "key_ops", "crv", "x", "y"]), JSON)


@given(st.lists(st.tuples(st.sampled_from([jwk("one"), P256, OKP, {}]), CHANGES), max_size=3))
def test_whatever_a_set_holds_is_a_set_or_a_refusal(keys: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Nothing in it crashes the reading."""
    try:
        read = read_key_set(document(*({**key, **changes} for key, changes in keys)), ("RS256", "ES256", "EdDSA"))
    except KeySetError:
        return
    assert len(read.keys) >= 1


# Files --------------------------------------------------------------------------------------------------------------


class Service:
    """An endpoint behind the keys of a file."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock(1_000.0)
        self.keys = PublishedKeys(
            KeyFile(path), ["RS256"], refresh_every=1, max_stale=3_600, timeout=5, strict=True, clock=self.clock
        )
        self.keys.load_now()
        auth = JWTAuth(self.keys, algorithms=["RS256"], audience="api", clock=lambda: NOW)
        self.app = FastAPI()

        @self.app.get("/me", dependencies=[Depends(auth)])
        async def me() -> None: ...

    def ask(self, kid: str) -> int:
        return call(self.app, "/me", method="GET", headers=[(b"authorization", b"Bearer " + token(kid))]).status

    def later(self) -> None:
        """Two seconds pass, after which a request has the file read first."""
        self.clock.now += 2


def replace(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def test_a_file_is_reread_when_it_changes(tmp_path: Path) -> None:
    """A new key is let in, an old one that has left is refused, without a restart."""
    path = tmp_path / "keys.json"
    path.write_bytes(jwks("one"))
    service = Service(path)
    assert [service.ask("one"), service.ask("two")] == [200, 401]
    replace(path, jwks("two"))
    service.later()
    assert [service.ask("two"), service.ask("one")] == [200, 401]


@pytest.mark.parametrize("broken", [b"", b"{", jwks("two")[:-1], document({**WEAK, "kid": "x"}, jwk("two")), None])
def test_a_broken_file_keeps_the_old_keys(
    tmp_path: Path, broken: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so once, health says so, and nobody is refused for it."""
    path = tmp_path / "keys.json"
    path.write_bytes(jwks("one"))
    service = Service(path)
    replace(path, broken) if broken is not None else path.unlink()
    for _ in range(3):
        service.later()
        assert [service.ask("one"), service.ask("two")] == [200, 401]
        wait_until(lambda: service.keys._loads.running is None)
    assert service.keys.health.failure
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    replace(path, jwks("two"))
    service.later()
    service.clock.now += 60
    service.ask("two")
    wait_until(lambda: service.keys.health.failure is None)
    assert [service.ask("one"), service.ask("two")] == [401, 200]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "cannot be read"),
        (b"", "not a strict JSON object"),
        (document(), "no usable key"),
        (document({**WEAK, "kid": "x"}, jwk("one")), "1024 bits"),
        (document(OCT, jwk("one")), "secret or a private key"),
        (b" " * 300_000, "larger than"),
    ],
)
def test_a_file_that_cannot_work_is_refused(tmp_path: Path, content: bytes | None, text: str) -> None:
    """At construction: a weak or secret key in a file of one's own is a mistake."""
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=text):
        JWTAuth.from_jwks(path, algorithms=["RS256"], issuer="i", audience="api")


def test_a_file_of_a_provider_works_as_it_is(tmp_path: Path) -> None:
    """Its keys for encryption are no mistake."""
    path = tmp_path / "keys.json"
    path.write_bytes(document(jwk("one"), jwk("x", use="enc", alg="RSA-OAEP")))
    auth = JWTAuth.from_jwks(os.fspath(path), algorithms=["RS256"], issuer="i", audience="api")
    assert repr(auth) == "JWTAuth(keys of file 'keys.json' for RS256, issuer='i')"
    assert auth.health.keys == 1
    assert JWTAuth(jwk("one"), algorithms=["RS256"]).health == KeyHealth(1, None, None)


def test_a_weak_key_on_the_web_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Not at every refresh: only when what is wrong changes."""

    class Source:
        data = document({**WEAK, "kid": "x"}, jwk("one"))

        def read(self, timeout: float) -> bytes:
            return self.data

        def __str__(self) -> str:
            return "test"

    source, clock = Source(), Clock(1_000.0)
    keys = PublishedKeys(source, ["RS256"], refresh_every=300, max_stale=3_600, timeout=5, clock=clock)
    caplog.set_level(logging.WARNING, "mlguard")
    for data in (source.data, source.data + b" ", source.data):
        source.data = data
        keys.load_now()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "1024 bits" in caplog.text


def test_a_load_that_crashes_is_a_failed_load() -> None:
    """Whatever a source raises, its keys of before stay, and the text of the exception is not shown."""

    class Source:
        def read(self, timeout: float) -> bytes:
            raise ZeroDivisionError("hunter2")

    keys = PublishedKeys(Source(), ["RS256"], refresh_every=300, max_stale=3_600, timeout=5, clock=Clock(1_000.0))
    keys.check()
    assert keys.health == KeyHealth(0, None, "ZeroDivisionError")


def test_a_source_that_is_a_mistake_stops_the_start() -> None:
    """What no provider will ever mend is told at once."""

    class Source:
        def read(self, timeout: float) -> bytes:
            raise ConfigurationError("another issuer")

    keys = PublishedKeys(Source(), ["RS256"], refresh_every=300, max_stale=3_600, timeout=5, clock=Clock(1_000.0))
    with pytest.raises(ConfigurationError, match="another issuer"):
        keys.check()
    with pytest.raises(ConfigurationError, match="another issuer"):
        keys.load_now()


def test_no_thread_to_load_in_is_a_failed_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The request is answered with 503, and another attempt is made later."""
    path = tmp_path / "keys.json"
    path.write_bytes(jwks("one"))
    service = Service(path)
    service.later()

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        assert service.ask("one") == 200
        assert service.keys.health.failure == "no thread to load in"
    service.later()
    assert service.ask("one") == 200
    wait_until(lambda: service.keys.health.failure is None)


def test_child_of_a_fork_loads_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load that was under way in the parent never ends in the child: its thread is not there."""
    hangs, started = threading.Event(), threading.Event()

    class Source:
        def read(self, timeout: float) -> bytes:
            started.set()
            if os.getpid() != -1:
                hangs.wait()
            return jwks("one")

    keys = PublishedKeys(Source(), ["RS256"], refresh_every=300, max_stale=3_600, timeout=5, clock=Clock(1_000.0))
    parent = keys._loads.begin()
    started.wait()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        keys.check()
        assert keys.health.keys == 1
    hangs.set()
    assert parent is not None
    parent.result(10)
