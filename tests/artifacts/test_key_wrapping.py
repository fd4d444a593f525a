"""Keys that encrypt keys: what is one, what it is called, and what it gives away."""

import base64
import copy
import pickle
import secrets
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import OctKey
from pydantic import SecretBytes, SecretStr

from mlguard.artifacts.key_wrapping import ID_LENGTH, KEY_BYTES, KeySource, ModelKey, model_keys
from mlguard.errors import ConfigurationError

RAW = secrets.token_bytes(KEY_BYTES)
TEXT = base64.urlsafe_b64encode(RAW).decode()


@pytest.mark.parametrize(
    "form",
    [
        RAW,
        TEXT,
        TEXT.rstrip("="),
        base64.b64encode(RAW).decode(),
        SecretStr(TEXT),
        SecretBytes(RAW),
    ],
    ids=["bytes", "base64url", "unpadded", "base64", "SecretStr", "SecretBytes"],
)
def test_a_key_is_the_same_in_every_form(form: Any) -> None:
    """As bytes, in either base64, with and without padding, and wrapped by pydantic."""
    assert ModelKey(form).id == ModelKey(RAW).id


def test_the_id_is_the_thumbprint_of_the_standard() -> None:
    """Other software can compute it: the beginning of RFC 7638's thumbprint of the key."""
    assert ModelKey(RAW).id == OctKey.import_key(RAW).thumbprint()[:ID_LENGTH]
    assert ModelKey(secrets.token_bytes(32)).id != ModelKey(RAW).id


@pytest.mark.parametrize(
    "secret",
    [
        None,
        "",
        b"",
        32,
        "changeme",
        "correct horse battery staple",
        TEXT + "\n",
        TEXT[:-5],
        TEXT + "AAAA",
        RAW[:-1],
        RAW + b"x",
        TEXT.encode(),  # a file's bytes would be taken for a key of other bytes
        secrets.token_urlsafe(24).encode(),  # 32 characters, as bytes
        secrets.token_hex(32),
        bytes(32),
        bytes(range(32)),
        base64.b64encode(bytes(32)).decode(),
        base64.b64encode(b"0123456789abcdef" * 2).decode(),
        TEXT[:-2] + chr(ord(TEXT[-2]) + 1) + "=",  # bits set that stand for nothing
        TEXT.replace(TEXT[3], "é"),
        SecretStr(""),
        [RAW],
        bytearray(RAW),
    ],
)
def test_what_is_no_key_is_refused_and_not_repeated(secret: Any) -> None:
    """A password, a key that is cut, text where bytes should be, a pattern: the error quotes nothing of it."""
    with pytest.raises(ConfigurationError) as refusal:
        ModelKey(secret)
    told = "".join(traceback.format_exception(refusal.value))
    for quoted in (TEXT[:12], RAW.hex()[:12], repr(RAW)[2:14], "changeme", "horse"):
        assert quoted not in told


@given(st.one_of(st.text(max_size=60), st.binary(max_size=60)))
def test_anything_else_is_a_configuration_error(secret: str | bytes) -> None:
    """No text and no bytes crash it."""
    try:
        key = ModelKey(secret)
    except ConfigurationError:
        return
    assert len(key.id) == ID_LENGTH


def test_random_keys_are_never_taken_for_weak_ones() -> None:
    """The check of strength refuses none that is made as we say."""
    for _ in range(300):
        ModelKey(secrets.token_bytes(32))
        ModelKey(secrets.token_urlsafe(32))


def test_a_key_shows_its_id_only() -> None:
    """Not in its repr, not in a copy of it in a file, and it has no attributes to list."""
    key = ModelKey(RAW)
    assert repr(key) == f"ModelKey(id={key.id!r})"
    assert str([key]) == f"[{key!r}]"
    assert not hasattr(key, "__dict__")
    for write in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="not written"):
            write(key)


def test_the_first_of_several_keys_writes() -> None:
    """Their order is kept, whatever form each has."""
    other = secrets.token_bytes(32)
    ids = [ModelKey(other).id, ModelKey(RAW).id]
    sources: list[Any] = [[other, TEXT], (ModelKey(other), SecretStr(TEXT)), lambda: [other, RAW]]
    for source in sources:
        assert [key.id for key in model_keys(source)] == ids


def test_a_function_is_asked_each_time() -> None:
    """So that a secret that is rotated is used without a restart."""
    now: list[bytes] = [RAW]
    source = lambda: now[0]  # noqa: E731
    before = model_keys(source)[0].id
    now[0] = secrets.token_bytes(32)
    assert model_keys(source)[0].id != before


@pytest.mark.parametrize("source", [None, [], 7, lambda: None, list, [None], [RAW, None], [[RAW]], [RAW] * 33, {}])
def test_a_source_without_usable_keys_is_refused(source: KeySource) -> None:
    """None at all, one of several that is unset, or more than anybody has."""
    with pytest.raises(ConfigurationError, match="the key for models"):
        model_keys(source)


def test_a_data_key_is_unwrapped_by_its_key_and_what_it_is_bound_to() -> None:
    """Another key, other associated data or one bit of difference: nothing comes out."""
    pytest.importorskip("tink")
    key = ModelKey(RAW)
    wrapped = key.wrap(b"data key", b"bound")
    assert b"data key" not in wrapped
    assert key.unwrap(wrapped, b"bound") == b"data key"
    assert key.unwrap(wrapped, b"bounds") is None
    assert ModelKey(secrets.token_bytes(32)).unwrap(wrapped, b"bound") is None
    for at in range(len(wrapped)):
        changed = bytearray(wrapped)
        changed[at] ^= 1
        assert key.unwrap(bytes(changed), b"bound") is None
    for short in (b"", wrapped[:-1], wrapped[:27]):
        assert key.unwrap(short, b"bound") is None
