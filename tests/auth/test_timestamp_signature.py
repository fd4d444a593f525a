"""The simple ``timestamp.signature`` header: what it covers, for how long, and with which secrets."""

import hashlib
import hmac
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard.auth.timestamp_signature import sign_request, verify_signature
from mlguard.errors import ConfigurationError, NotAuthenticatedError

NOW = 1_618_884_473
SECRET = hashlib.sha256(b"one").digest()
OTHER = hashlib.sha256(b"two").hexdigest()


def verify(header: str | None, secret: Any = SECRET, **changes: Any) -> None:
    arguments: dict[str, Any] = {"method": "POST", "target": "/predict?v=2", "body": b"{}", "clock": lambda: NOW}
    verify_signature(secret, header, **{**arguments, **changes})


def sign(secret: str | bytes = SECRET, **changes: Any) -> str:
    arguments: dict[str, Any] = {"method": "POST", "target": "/predict?v=2", "body": b"{}", "timestamp": NOW}
    return sign_request(secret, **{**arguments, **changes})


def refuse(header: str | None, secret: Any = SECRET, **changes: Any) -> None:
    with pytest.raises(NotAuthenticatedError) as caught:
        verify(header, secret, **changes)
    assert caught.value.headers == {"WWW-Authenticate": "Signature"}
    assert caught.value.status_code == 401


def test_the_signed_text_is_the_documented_one() -> None:
    """Anybody can make the header from the docstring alone: four netstrings under HMAC-SHA256."""
    digest = hashlib.sha256(b"").hexdigest()
    text = f"10:1618884473,4:POST,12:/predict?v=2,64:{digest},"
    assert sign_request.__doc__ is not None
    assert text in sign_request.__doc__
    expected = hmac.new(SECRET, text.encode(), "sha256").hexdigest()
    assert sign(body=b"") == f"1618884473.{expected}"


def test_openssl_makes_the_same_header() -> None:
    """An independent implementation, the openssl command, comes to the same signature."""
    text = f"10:1618884473,4:POST,12:/predict?v=2,64:{hashlib.sha256(b'{}').hexdigest()},"
    command = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{SECRET.hex()}"]
    try:
        made = subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("there is no openssl command here")
    verify(f"1618884473.{made.decode().split()[-1]}")


@given(method=st.text(), target=st.text(), body=st.binary())
def test_round_trip(method: str, target: str, body: bytes) -> None:
    """Whatever was signed verifies, and nothing else does under the same header."""
    header = sign(method=method, target=target, body=body)
    verify(header, method=method, target=target, body=body)
    refuse(header, method=method + "x", target=target, body=body)
    refuse(header, method=method, target=target + "x", body=body)
    refuse(header, method=method, target=target, body=body + b"x")


@given(first=st.tuples(st.text(), st.text()), second=st.tuples(st.text(), st.text()))
def test_no_two_requests_share_a_signature(first: tuple[str, str], second: tuple[str, str]) -> None:
    """Moving characters from one part to the next changes the signature."""
    same = sign(method=first[0], target=first[1]) == sign(method=second[0], target=second[1])
    assert same == (first == second)


@given(position=st.integers(0, 74), bit=st.integers(0, 6))
def test_any_changed_bit_is_refused(position: int, bit: int) -> None:
    """No bit of the header can be changed, the timestamp included."""
    header = bytearray(sign().encode())
    header[position] ^= 1 << bit
    refuse(header.decode())


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        ".",
        "1618884473",
        "1618884473.",
        "1618884473." + "0" * 64,
        "1618884473." + "é" * 64,
        "١٦١٨٨٨٤٤٧٣." + "0" * 64,
        "-1." + "0" * 64,
        "9" * 5000 + "." + "0" * 64,
        sign() + "\n",
        " " + sign(),
        sign().upper(),
        "0" + sign(),
    ],
)
def test_malformed_headers_are_refused(header: str | None) -> None:
    """Absent, malformed and respelt headers are the same 401."""
    refuse(header)


@pytest.mark.parametrize(
    ("age", "fits"),
    [(300, True), (300.5, False), (-30, True), (-30.5, False)],
)
def test_time_is_bounded_both_ways(age: float, fits: bool) -> None:
    """A header holds for max_age seconds, and from max_skew seconds before its time, edges included."""
    if fits:
        verify(sign(), clock=lambda: NOW + age)
    else:
        refuse(sign(), clock=lambda: NOW + age)


def test_the_clock_is_the_real_one_by_default() -> None:
    """Without arguments both sides use the time of day."""
    header = sign_request(SECRET, method="GET", target="/")
    verify_signature(SECRET, header, method="GET", target="/")


@pytest.mark.parametrize("secrets", [{SECRET, OTHER}, [SECRET, OTHER], (OTHER, SECRET)])
def test_secrets_are_rotated(secrets: Any) -> None:
    """While one secret replaces another, both are good."""
    verify(sign(SECRET), secrets)
    verify(sign(OTHER), secrets)
    refuse(sign(OTHER), [SECRET])
    refuse(sign(OTHER.encode()), SECRET)


def test_a_text_secret_is_its_utf_8() -> None:
    """A secret may be given as str on one side and as bytes on the other."""
    verify(sign(OTHER), OTHER.encode())


@pytest.mark.parametrize("secret", ["", "short", b"\0" * 32, "abcd" * 16, None])
def test_weak_secrets_are_refused_on_both_sides(secret: Any) -> None:
    """A secret that can be guessed is a configuration error, named and not quoted."""
    with pytest.raises(ConfigurationError, match="secret"):
        sign(secret)
    with pytest.raises(ConfigurationError, match="secret"):
        verify(sign(), [secret])


@pytest.mark.parametrize("settings", [{"max_age": 0}, {"max_age": float("nan")}, {"max_skew": -1}, {"secret": []}])
def test_settings_that_cannot_work(settings: dict[str, Any]) -> None:
    """No secret at all, and times that admit nothing or everything, are configuration errors."""
    with pytest.raises(ConfigurationError):
        verify(sign(), **settings)
