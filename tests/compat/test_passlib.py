"""Hashes of the real passlib: they verify, and are replaced by argon2id at the next login."""

import importlib
import importlib.metadata
import logging
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import bcrypt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from pwdlib.hashers.bcrypt import BcryptHasher

from mlguard import ConfigurationError
from mlguard.compat.bcrypt import PasslibBcrypt
from mlguard.compat.passlib import PasslibHashes

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "'crypt' is deprecated", DeprecationWarning)
    from passlib import hash as passlib_hash
    from passlib.context import CryptContext, LazyCryptContext

PASSWORD = "correct horse Ünïcode 🐎"
CHEAP = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),))
ALL = CryptContext(
    schemes=[
        "bcrypt", "bcrypt_sha256", "argon2", "pbkdf2_sha256", "pbkdf2_sha512", "sha512_crypt", "sha256_crypt", "scrypt",
    ],
    deprecated="auto",
)  # fmt: skip
BCRYPT_5 = int(importlib.metadata.version("bcrypt").partition(".")[0]) >= 5


def bcrypt_hash(password: str = PASSWORD, ident: bytes = b"2b") -> str:
    """As passlib made it with older versions of bcrypt: of the first 72 bytes."""
    made = bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(4))
    return (b"$" + ident + made[3:]).decode()


def made_by_passlib(password: str = PASSWORD) -> dict[str, str]:
    """One hash of each scheme, with little work, by passlib itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing argon2.__version__", DeprecationWarning)
        return {
            "argon2": passlib_hash.argon2.using(rounds=1, memory_cost=64, parallelism=1).hash(password),
            "argon2i": passlib_hash.argon2.using(type="I", rounds=1, memory_cost=64, parallelism=1).hash(password),
            "pbkdf2_sha256": passlib_hash.pbkdf2_sha256.using(rounds=10).hash(password),
            "pbkdf2_sha512": passlib_hash.pbkdf2_sha512.using(rounds=10).hash(password),
            "sha512_crypt": passlib_hash.sha512_crypt.using(rounds=1000).hash(password),
            "sha256_crypt": passlib_hash.sha256_crypt.using(rounds=1000).hash(password),
            "scrypt": passlib_hash.scrypt.using(rounds=4).hash(password),
        }


#: Made by passlib 1.7.4 with bcrypt 4.0.1, which passlib still works with. The password is PASSWORD.
RECORDED = {
    "bcrypt": "$2b$04$jaukoyb3Z8fs2rZVWbnNtuCVeQ.VjOhqNBpb4eLo8XNl0s4Km5PGi",
    "bcrypt, 2a": "$2a$04$VUU2fc/czv8Q71qJJqVLS.HaxaLHr31W6rHSiLoKYWCetSg5Am7Ii",
    "bcrypt_sha256": "$bcrypt-sha256$v=2,t=2b,r=4$G94mW5Am//EFOjoZRSws/.$k.4eaMx7AvgpPhmFhw7SIt9GBbUNldu",
    "bcrypt_sha256, version 1": "$bcrypt-sha256$2a,4$u7dyUPaCy3nEQYVuWp.p9O$4aiuyLnqHq3BajLpO/C9IoxxkxnmDcG",
}
RECORDED_LONG = "$2b$04$rNMZO8pugedJSG.khUpMaeSNQ8o9mKS9MoV6/eMJBmR3dwstKDf0m"  # of LONG
HASHES = {**made_by_passlib(), **RECORDED, "bcrypt, 2y": bcrypt_hash(ident=b"2y")}


@pytest.fixture(scope="module")
def hashes() -> PasslibHashes:
    return PasslibHashes(ALL, upgrade_to=CHEAP)


# What verifies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HASHES)
def test_hash_verifies_and_is_replaced(name: str, hashes: PasslibHashes) -> None:
    """At the first login it is replaced by an argon2id hash of the same password; at the next, nothing happens."""
    holds, new = hashes.verify_and_update(PASSWORD, HASHES[name])
    assert holds
    assert new is not None
    assert new.startswith("$argon2id$v=19$m=8,t=1,p=1$")
    assert hashes.verify_and_update(PASSWORD, new) == (True, None)
    assert hashes.verify_and_update(PASSWORD + "!", new) == (False, None)


@pytest.mark.parametrize("name", HASHES)
@pytest.mark.parametrize("password", ["", "wrong", PASSWORD + "x", PASSWORD[:-1], PASSWORD.upper()])
def test_another_password_does_not_verify(name: str, password: str, hashes: PasslibHashes) -> None:
    """Whatever is close to it, and there is nothing to store then."""
    assert hashes.verify_and_update(password, HASHES[name]) == (False, None)


@pytest.mark.parametrize("name", HASHES)
def test_bytes_are_the_text_that_they_spell(name: str, hashes: PasslibHashes) -> None:
    """As both passlib and pwdlib take passwords and hashes."""
    holds, new = hashes.verify_and_update(PASSWORD.encode(), HASHES[name].encode())
    assert holds
    assert new is not None
    assert hashes.verify_and_update(PASSWORD, new) == (True, None)


def test_passlib_itself_still_fails_or_still_agrees() -> None:
    """The reason for all of this: with bcrypt 5 passlib cannot verify one bcrypt hash. Where it can, it agrees."""
    stored = bcrypt_hash()
    try:
        answer = CryptContext(["bcrypt"]).verify(PASSWORD, stored)
    except ValueError:
        assert BCRYPT_5
    else:
        assert answer
    assert PasslibHashes(CryptContext(["bcrypt"]), upgrade_to=CHEAP).verify_and_update(PASSWORD, stored)[0]


LONG = "é" * 36 + "tail"  # 76 bytes, the cut between two characters
CUT = "x" + "é" * 36 + "tail"  # and within one


@pytest.mark.parametrize("password", [LONG, CUT, "a" * 72, "a" * 73, "a" * 255, "a" * 256, "a" * 4096])
def test_long_password_verifies_against_bcrypt_as_it_did(password: str, hashes: PasslibHashes) -> None:
    """Bcrypt looks at 72 bytes: passlib cut there, and so did whoever set that password. argon2id takes it whole."""
    holds, new = hashes.verify_and_update(password, bcrypt_hash(password))
    assert holds
    assert new is not None
    assert hashes.verify_and_update(password, new) == (True, None)
    assert hashes.verify_and_update(password[:-1], new) == (False, None)


def test_long_password_verifies_against_what_passlib_made(hashes: PasslibHashes) -> None:
    """A hash of 76 bytes that passlib itself has cut."""
    assert hashes.verify_and_update(LONG, RECORDED_LONG)[0]
    assert not hashes.verify_and_update(LONG[:-5], RECORDED_LONG)[0]


def test_bcrypt_vouches_for_72_bytes(hashes: PasslibHashes) -> None:
    """The 72nd counts, the 73rd does not: the old hash knows no better."""
    stored = bcrypt_hash("a" * 80)
    assert hashes.verify_and_update("a" * 72 + "another", stored)[0]
    assert not hashes.verify_and_update("a" * 71 + "b" * 9, stored)[0]


def test_zero_bytes_hide_nothing(hashes: PasslibHashes) -> None:
    """Neither does a password end at one, nor does one after the end of bcrypt's view verify."""
    for password in ("a\0", "a\0b", "\0", "a" * 72 + "\0"):
        assert hashes.verify_and_update(password, bcrypt_hash("a")) == (False, None)
        assert hashes.verify_and_update(password, bcrypt_hash("a" * 72)) == (False, None)
        assert hashes.verify_and_update(password, bcrypt_hash("")) == (False, None)


def test_schemes_of_the_context_are_the_ones_that_are_read() -> None:
    """A hash of a scheme that the context does not have lets nobody in, although passlib would know it."""
    only = PasslibHashes(CryptContext(["sha512_crypt"]), upgrade_to=CHEAP)
    assert only.verify_and_update(PASSWORD, HASHES["sha512_crypt"])[0]
    for name in ("pbkdf2_sha256", "bcrypt", "scrypt"):
        assert only.verify_and_update(PASSWORD, HASHES[name]) == (False, None)


def test_context_that_is_lazy_works() -> None:
    """Some apps make theirs on first use."""
    lazy = PasslibHashes(LazyCryptContext(["bcrypt"]), upgrade_to=CHEAP)
    assert lazy.verify_and_update(PASSWORD, bcrypt_hash())[0]


def test_weaker_argon2_is_replaced() -> None:
    """What passlib made with less work than is asked of new hashes."""
    better = PasswordHash((Argon2Hasher(time_cost=2, memory_cost=64, parallelism=1),))
    holds, new = PasslibHashes(ALL, upgrade_to=better).verify_and_update(PASSWORD, HASHES["argon2"])
    assert holds
    assert new is not None
    assert "m=64,t=2,p=1" in new


def test_new_hashes_are_argon2id_with_the_parameters_of_owasp() -> None:
    """By default."""
    hashes = PasslibHashes(CryptContext(["bcrypt"]))
    new = hashes.hash(PASSWORD)
    assert new.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert hashes.verify_and_update(PASSWORD, new) == (True, None)


def test_many_logins_at_once_agree(hashes: PasslibHashes) -> None:
    """In threads, where password hashes belong: each gets its own answer."""
    answers: list[tuple[bool, bool]] = []

    def log_in(name: str, right: bool) -> None:
        holds, new = hashes.verify_and_update(PASSWORD if right else "wrong", HASHES[name])
        answers.append((holds == right, (new is not None) == right))

    logins = [(name, right) for name in HASHES for right in (True, False)] * 3
    threads = [threading.Thread(target=log_in, args=login) for login in logins]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [(True, True)] * len(logins)


# What is refused ------------------------------------------------------------------------------------------------------

UNREADABLE: list[Any] = [
    "",
    "!",
    "*",
    PASSWORD,
    None,
    7,
    b"\xff\xfe",
    "$2b$",
    "$2b$04$short",
    "$2b$99$" + "a" * 53,
    "$2b$04$" + "." * 21 + "a" * 32,
    "$2b$04$" + "+" * 53,
    "$2b$32$" + "." * 53,
    "$2$04$" + "." * 53,
    "$2x$04$" + "." * 53,
    "$bcrypt-sha256$v=3,t=2b,r=4$" + "a" * 22 + "$" + "a" * 31,
    "$bcrypt-sha256$v=2,t=2b,r=4$" + "a" * 21 + "O",
    "$argon2id$v=19$m=8,t=1,p=1$broken",
    "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$" + "!" * 20,
    "$6$rounds=1000$salt$short",
    "$pbkdf2-sha256$0$a$b",
    "$scrypt$ln=99,r=8,p=1$aaaa$aaaa",
    "a" * 100_000,
]


@pytest.mark.parametrize("stored", UNREADABLE)
def test_hash_that_cannot_be_read_lets_nobody_in(
    stored: Any, hashes: PasslibHashes, caplog: pytest.LogCaptureFixture
) -> None:
    """A crash would tell that the account exists. The log neither quotes the hash nor the password."""
    with caplog.at_level(logging.DEBUG, "mlguard"):
        assert hashes.verify_and_update(PASSWORD, stored) == (False, None)
    assert PASSWORD not in caplog.text
    assert not stored or len(str(stored)) < 4 or str(stored) not in caplog.text
    assert all(record.exc_info is None for record in caplog.records)


def test_unreadable_hash_is_logged(hashes: PasslibHashes, caplog: pytest.LogCaptureFixture) -> None:
    """The operator learns that a user cannot log in, and of which kind the error was."""
    hashes.verify_and_update(PASSWORD, "$unknown$")
    assert caplog.messages == ["a stored password hash cannot be checked, and lets nobody in (UnknownHashError)"]


@pytest.mark.parametrize("stored", ["", "!", "*", "$unknown$"])
def test_hash_that_cannot_be_read_takes_as_much_work_as_another(stored: str) -> None:
    """Who has no usable password, as Django and Unix write it, cannot be told from nobody by the time of a login."""
    work = []

    class Counted(PasswordHash):
        def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
            work.append("argon2")
            return super().hash(password, salt=salt)

    hashes = PasslibHashes(CryptContext(["pbkdf2_sha256"]), upgrade_to=Counted(CHEAP.hashers))
    assert hashes.verify_and_update(PASSWORD, stored) == (False, None)
    assert work == ["argon2"]


@pytest.mark.parametrize("password", ["a" * 4097, b"a" * 4097, "é" * 2049, "\ud800", "a\udfff"])
def test_password_that_cannot_be_one_is_refused(password: Any, hashes: PasslibHashes) -> None:
    """Longer than passlib took, or half a character from JSON: no work is done, and no error keeps it."""
    for stored in HASHES.values():
        assert hashes.verify_and_update(password, stored) == (False, None)
    with pytest.raises(ValueError, match="longer than 4096 bytes") as refused:
        hashes.hash(password)
    assert refused.value.__context__ is None


@settings(max_examples=60)
@given(st.text(max_size=80), st.text(max_size=120))
def test_arbitrary_hashes_never_crash(password: str, stored: str) -> None:
    """Whatever stands in the database is an answer, and no yes."""
    assert PasslibHashes(ALL, upgrade_to=CHEAP).verify_and_update(password, stored) == (False, None)


STARTS = ["$2b$04$", "$argon2id$v=19$m=8,t=1,p=1$", "$6$", "$pbkdf2-sha256$1$", "$bcrypt-sha256$"]


@settings(max_examples=60)
@given(st.sampled_from(STARTS), st.text(st.characters(codec="ascii"), max_size=70))
def test_arbitrary_tails_of_hashes_never_crash(start: str, tail: str) -> None:
    """The same for what looks like a hash."""
    assert PasslibHashes(ALL, upgrade_to=CHEAP).verify_and_update(PASSWORD, start + tail) == (False, None)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: PasslibHashes("bcrypt"), "takes passlib's CryptContext"),
        (lambda: PasslibHashes(CHEAP), "takes passlib's CryptContext"),
        (lambda: PasslibHashes(ALL, upgrade_to=ALL), "takes pwdlib's PasswordHash"),
        (lambda: PasslibHashes(ALL, upgrade_to=Argon2Hasher()), "takes pwdlib's PasswordHash"),  # type: ignore[arg-type]
        (lambda: PasslibHashes(CryptContext(["bcrypt", "plaintext"])), "plaintext is no hash"),
        (lambda: PasslibHashes(CryptContext(["ldap_plaintext"])), "ldap_plaintext is no hash"),
        (lambda: PasslibHashes(CryptContext(["postgres_md5"])), "postgres_md5 needs the user's name"),
    ],
)
def test_what_cannot_work_is_a_configuration_error(make: Callable[[], object], told: str) -> None:
    """At construction, and not at somebody's login."""
    with pytest.raises(ConfigurationError, match=told):
        make()


def test_scheme_without_its_backend_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passlib finds out at the first login that it has nothing to compute a hash with."""

    def fail() -> str:
        raise ValueError("password cannot be longer than 72 bytes")

    monkeypatch.setattr(passlib_hash.scrypt, "get_backend", fail)
    with pytest.raises(ConfigurationError, match=r"no backend for scrypt \(ValueError\)"):
        PasslibHashes(CryptContext(["scrypt"]))


def test_repr_names_the_schemes() -> None:
    """For the reader of a traceback."""
    assert repr(PasslibHashes(CryptContext(["bcrypt", "sha512_crypt"]))) == "PasslibHashes(bcrypt, sha512_crypt)"


# Without passlib ------------------------------------------------------------------------------------------------------


def test_pwdlib_alone_does_it_for_bcrypt() -> None:
    """``PasslibBcrypt`` behind argon2id: old hashes verify and are replaced, long passwords too."""
    hashes = PasswordHash((*CHEAP.hashers, PasslibBcrypt()))
    for password in (PASSWORD, "a" * 80, LONG):
        holds, new = hashes.verify_and_update(password, bcrypt_hash(password))
        assert holds
        assert new is not None
        assert hashes.verify_and_update(password, new) == (True, None)
    for password in ("wrong", "\ud800", "a\0"):
        assert hashes.verify_and_update(password, bcrypt_hash("a")) == (False, None)
    assert hashes.verify_and_update(b"a", bcrypt_hash("a").encode())[0]
    for stored in ("", "$2b$04$short", "$2x$04$" + "." * 53, "a" * 60, bcrypt_hash("a") + "\n"):
        assert not PasslibBcrypt().verify("a", stored)


def test_hasher_of_pwdlib_shuts_out_long_passwords() -> None:
    """Why it is not enough: it raises, with bcrypt 5, where passlib let in."""
    if BCRYPT_5:
        with pytest.raises(ValueError, match="72 bytes"):
            BcryptHasher().verify("a" * 80, bcrypt_hash("a" * 80))


@pytest.mark.parametrize("package", ["passlib", "bcrypt"])
def test_missing_package_names_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not installed it reads what to install."""
    monkeypatch.delitem(sys.modules, f"mlguard.compat.{package}")
    for name in (package, f"{package}.context"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mlguard\[passlib\]"'):
        importlib.import_module(f"mlguard.compat.{package}")
