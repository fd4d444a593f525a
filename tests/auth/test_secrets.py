"""Weak, patterned and published secrets are refused; random ones are not."""

import base64
import hashlib
import random
import secrets
import string
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretBytes, SecretStr

from mlguard.auth._key_forms import is_key
from mlguard.auth.secrets import check_strength, secret_bytes
from mlguard.errors import ConfigurationError

RANDOM = "Vq3tYxw0ZkLr8HcNfUe5Rj_bPa2GsT7dMi"


def _refused(secret: bytes) -> str:
    with pytest.raises(ConfigurationError) as refusal:
        check_strength(secret, where="THE_SETTING")
    text = str(refusal.value)
    assert "THE_SETTING" in text
    assert "secrets.token_urlsafe(32)" in text
    return text


@pytest.mark.parametrize(
    "secret",
    [
        b"",
        b"x",
        b"hunter2",
        secrets.token_hex(15).encode(),  # 120 bits
        b"83710492518364702951847362509184736251",  # 38 digits: 126 bits
        RANDOM[:19].encode(),  # looks like 2 x 19 characters, is 124 bits
        bytes.fromhex("8f1b3cd07ae5c9244e6d92b1f07a33"),  # 15 raw bytes
    ],
)
def test_short_is_refused(secret: bytes) -> None:
    """Under 128 bits (length times log2 of the alphabet), a secret is refused, and the text names setting and fix."""
    assert "128 bits" in _refused(secret)


@pytest.mark.parametrize(
    "secret",
    [
        b"837104925183647029518473625091847362510",  # 39 digits: 129 bits
        b"7b1e94c2d8f03a5f61e07c2b9a4d385e",  # 32 hex digits: 128 bits
        b"7B1E94C2D8F03A5F61E07C2B9A4D385E",
        RANDOM[:22].encode(),
        bytes.fromhex("8f1b3cd07ae5c9244e6d92b1f07a3351"),  # 16 raw bytes
    ],
)
def test_just_long_enough_is_accepted(secret: bytes) -> None:
    """At 128 bits a random secret passes, whatever its alphabet."""
    check_strength(secret, where="here")


@pytest.mark.parametrize(
    "secret",
    [
        b"a" * 64,
        b"ab" * 40,
        b"deadbeef" * 8,
        b"sk-live-" + b"deadbeef" * 8,  # a prefix hides no repetition
        b"deadbeef" * 8 + b"!Xy",
        (RANDOM[:20] * 2).encode(),
        (RANDOM[:11] * 3 + "q").encode(),
        b"0123456789abcdef0123456789abcdef",
        b"abcdefghijklmnopqrstuvwxyz0123456789",
        b"AbCdEfGhIjKlMnOpQrStUvWxYz0123456789",
        b"zyxwvutsrqponmlkjihgfedcba9876543210",
        b"000102030405060708090a0b0c0d0e0f",  # FIPS 197, appendix C
        b"00112233445566778899aabbccddeeff",
        b"a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6",
        b"1112121222121122211212221122121112221211222121212",
        bytes(range(40)),
        bytes(range(0, 80, 2)),
    ],
)
def test_pattern_is_refused(secret: bytes) -> None:
    """What repeats itself, uses hardly any characters or counts is refused, however long it is."""
    assert "pattern" in _refused(secret)


@pytest.mark.parametrize(
    "secret",
    [
        b"09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
        b"09D25E094FAA6CA2556C818166B7A9563B93F7099F6F0F4CAA6CF63B88E8D3E7",
        b"192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",
        b"2b7e151628aed2a6abf7158809cf4f3c",
        b"a-string-secret-at-least-256-bits-long",
        b"your-256-bit-secret-for-this-service",
        b"SecretStr('**********')-Xq3tYxw0Zk",
        b"123e4567-e89b-12d3-a456-426614174000",
        b"PlaceholderForTheKeyOfAlice99",
        base64.b64encode(b"please-replace-me-before-production-42"),
        b"please-replace-me-before-production-42".hex().encode(),
        base64.b64encode(base64.b64encode(b"your-256-bit-secret-for-this-service")),
        b"uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==",
        base64.b64decode("uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="),
        bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"),
        b"ChangeMe-Xq3tYxw0ZkLr8HcNfUe5",
        b"django-insecure-u7w!2k$9x@d4&vq8z",
        b"please-replace-me-before-production-42",
        b"correcthorsebatterystaple-and-some-more",
    ],
)
def test_published_is_refused(secret: bytes) -> None:
    """Placeholders and secrets printed in documentation are refused in any case."""
    assert "documentation" in _refused(secret)


@pytest.mark.parametrize("word", ["password", "secret", "changeme", "admin", "test", "123456", "", "hello", "mlguard"])
@pytest.mark.parametrize("name", ["md5", "sha1", "sha256", "sha512"])
def test_digest_of_a_common_word_is_refused(name: str, word: str) -> None:
    """What ``echo secret | sha256sum`` prints is in every table of digests, in whatever case and spelling."""
    for text in (word, word.upper(), word.capitalize(), word + "\n"):
        digest = hashlib.new(name, text.encode()).digest()
        for secret in (digest, digest.hex().encode(), digest.hex().upper().encode(), base64.b64encode(digest)):
            assert "common word" in _refused(secret)


@pytest.mark.parametrize(
    "text",
    [
        b"my secret words",
        b"a1b2c3d4" * 4,
        b"${ALICE_PRODUCTION_TOKEN_VALUE}",
        b"awssm://production/alice",
        b"$2b$12$EixZaYVK1fsbw1ZfbX3OXePaWxn96p36WQoeG6Lruj3vjPGga31lW",
        bytes(range(32)),
    ],
)
def test_spelling_makes_no_secret(text: bytes) -> None:
    """Hex and base64 add nothing to what is in them, base64 of base64 neither."""
    for secret in (text.hex().encode(), base64.b64encode(text), base64.b64encode(base64.b64encode(text))):
        with pytest.raises(ConfigurationError):
            check_strength(secret, where="here")


def test_random_secrets_stand_for_nothing() -> None:
    """Of 1 500 random secrets of each usual kind, none is taken for a placeholder, a reference or a hash."""
    make = random.Random("mlguard").randbytes
    for _ in range(1_500):
        data = make(32)
        for secret in (
            base64.urlsafe_b64encode(data).rstrip(b"="),  # token_urlsafe(32)
            data.hex().encode(),  # token_hex(32)
            base64.b64encode(data),
            uuid.UUID(bytes=data[:16], version=4).hex.encode(),
        ):
            check_strength(secret, where="here")


@pytest.mark.parametrize(
    "secret",
    [
        "{8f1d6a0b-7c93-4e54-81f6-0ad47b8ce395}",  # though {token} is a placeholder
        "token_" + "".join(random.Random(7).choices(string.ascii_lowercase, k=40)),
        "secret_" + random.Random(7).randbytes(20).hex(),
        "key-svvjmwi27wfkvqoaone918iyziv0vtjj",  # Mailgun's form, with words of four letters by chance
        "token-yvs44:lpjangtqabgairy1pjaqzycwd92lkgvuckebsqry6ublgbsaopixzj",  # Rancher's
        "base64:" + base64.b64encode(random.Random(7).randbytes(32)).decode(),
        "willow-copper-lantern-meadow-thistle-harbor-pebble-saffron-velvet-ember",
        "a/b+c" + base64.b64encode(random.Random(7).randbytes(32)).decode(),
        "/" + base64.b64encode(random.Random(7).randbytes(32)).decode(),
    ],
)
def test_secret_that_looks_a_little_like_a_name_is_accepted(secret: str) -> None:
    """A random text behind a prefix or in braces, and a passphrase, are secrets."""
    check_strength(secret.encode(), where="here")


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=64), st.sampled_from(["raw", "hex", "base64", "url"]))
def test_nothing_of_a_secret_is_quoted(data: bytes, form: str) -> None:
    """Whatever the verdict, the text never shows the secret."""
    secret = {
        "raw": data,
        "hex": data.hex().encode(),
        "base64": base64.b64encode(data),
        "url": base64.urlsafe_b64encode(data).rstrip(b"="),
    }[form]
    text = ""
    try:
        check_strength(secret, where="here")
    except ConfigurationError as refusal:
        text = str(refusal)
    assert secret not in text.encode()
    assert repr(secret)[2:-1] not in text


def test_long_random_text_holds_no_placeholder() -> None:
    """In thousands of random letters a word comes about by chance, and means nothing."""
    letters = random.Random("mlguard").choices(string.ascii_lowercase, k=5_000)
    check_strength("".join([*letters, "changeme", *letters[::-1]]).encode(), where="here")


@pytest.mark.parametrize("size", [32, 48, 64, 500, 5_000])
def test_random_secrets_are_accepted(size: int) -> None:
    """Secrets from the operating system pass in every usual spelling, long ones too."""
    data = secrets.token_bytes(size)
    digits = "".join(secrets.choice(string.digits) for _ in range(size + 20))
    letters = "".join(secrets.choice(string.ascii_lowercase) for _ in range(size))
    for secret in (data, data.hex().encode(), base64.b85encode(data), digits.encode(), letters.encode()):
        check_strength(secret, where="here")


def test_text_of_nothing_but_backslashes_is_judged_in_one_pass() -> None:
    """A file by mistake, say: were each of them the beginning of another search, this would take an hour."""
    assert not is_key(b"\\" * 300_000)
    assert is_key(b"\\" * 300_000 + b"n-----BEGIN PUBLIC KEY-----")


@pytest.mark.parametrize("secret", [SecretStr("Xq3tYxw0ZkLr8HcNfUe5Zt"), SecretBytes(b"Xq3tYxw0ZkLr8HcNfUe5Zt")])
def test_what_holds_a_secret_is_refused_with_the_way_to_get_it_out(secret: object) -> None:
    """Sources of secrets return it, so that is what people pass."""
    with pytest.raises(ConfigurationError, match=r"the key: pass what the secret holds, by \.get_secret_value\(\)"):
        secret_bytes(secret, where="the key")
