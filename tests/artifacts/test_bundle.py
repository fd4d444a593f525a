"""The signature file: nothing but the one form that is written, to the last bit."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from mlguard import ModelSignatureError
from mlguard.artifacts._bundle import open_bundle, write_bundle
from mlguard.artifacts._signing_keys import key_id
from tests.artifacts.models import KEY, OTHER, PUBLIC

KEYS = {key_id(PUBLIC): PUBLIC}
PAYLOAD = b'{"_type":"https://in-toto.io/Statement/v1"}'
BUNDLE = write_bundle(PAYLOAD, KEY)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def changed(change: Callable[[Any], object]) -> bytes:
    """The bundle after a change of what it says."""
    bundle = json.loads(BUNDLE)
    change(bundle)
    return json.dumps(bundle).encode()


def test_what_was_signed_comes_out() -> None:
    """With the key that has signed. White space between the parts makes no difference."""
    assert open_bundle(BUNDLE, KEYS) == (key_id(PUBLIC), PAYLOAD)
    assert open_bundle(json.dumps(json.loads(BUNDLE), indent=4).encode(), KEYS) == (key_id(PUBLIC), PAYLOAD)


def test_what_is_signed_is_the_encoding_of_dsse() -> None:
    """The bytes are those of the specification, and the type of the payload is one of them."""
    signature = base64.b64decode(json.loads(BUNDLE)["dsseEnvelope"]["signatures"][0]["sig"])
    PUBLIC.verify(signature, b"DSSEv1 28 application/vnd.in-toto+json 43 " + PAYLOAD, ECDSA(SHA256()))


def test_no_bit_can_be_flipped() -> None:
    """Every bit of the file, one at a time."""
    for position in range(len(BUNDLE)):
        for bit in range(8):
            flipped = bytearray(BUNDLE)
            flipped[position] ^= 1 << bit
            with pytest.raises(ModelSignatureError):
                open_bundle(bytes(flipped), KEYS)


def test_no_end_can_be_cut_off() -> None:
    """Every length, and one byte too many."""
    for length in range(len(BUNDLE)):
        with pytest.raises(ModelSignatureError):
            open_bundle(BUNDLE[:length], KEYS)
    with pytest.raises(ModelSignatureError):
        open_bundle(BUNDLE + b"\0", KEYS)


def _under(*path: str | int) -> Callable[[Any], Any]:
    def find(bundle: Any) -> Any:
        for step in path:
            bundle = bundle[step]
        return bundle

    return find


MATERIAL = _under("verificationMaterial")
ENVELOPE = _under("dsseEnvelope")
SIGNED = _under("dsseEnvelope", "signatures", 0)

CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "old media type": (
        lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2"),
        "media type",
    ),
    "no media type": (lambda b: b.pop("mediaType"), "bundle does not have the members"),
    "more": (lambda b: b.update(more=1), "bundle does not have the members"),
    "a message's signature": (
        lambda b: b.update(messageSignature=b.pop("dsseEnvelope")),
        "bundle does not have the members",
    ),
    "a certificate": (lambda b: MATERIAL(b).update(certificate={"rawBytes": ""}), "certificate or through Sigstore"),
    "a chain": (lambda b: b.update(verificationMaterial={"x509CertificateChain": {}}), "certificate or through"),
    "material a list": (lambda b: b.update(verificationMaterial=[]), "verification material does not have"),
    "a log": (lambda b: MATERIAL(b).update(tlogEntries=[{}]), "transparency log"),
    "a log of none": (lambda b: MATERIAL(b).update(tlogEntries=None), "transparency log"),
    "a time stamp": (lambda b: MATERIAL(b).update(timestampVerificationData={}), "verification material does not"),
    "a key of its own": (lambda b: MATERIAL(b).update(publicKey={"rawBytes": "", "hint": ""}), "public key does not"),
    "no hint": (lambda b: MATERIAL(b).update(publicKey={}), "public key does not"),
    "hint null": (lambda b: MATERIAL(b).update(publicKey={"hint": None}), "which key has signed"),
    "hint a list": (lambda b: MATERIAL(b).update(publicKey={"hint": []}), "which key has signed"),
    "hint of another": (lambda b: MATERIAL(b).update(publicKey={"hint": "0" * 64}), "another key than may"),
    "another payload type": (lambda b: ENVELOPE(b).update(payloadType="text/plain"), "payload is not of the type"),
    "another payload": (lambda b: ENVELOPE(b).update(payload=encoded(b"{}")), "does not hold"),
    "no payload": (lambda b: ENVELOPE(b).update(payload=""), "base64 that is not canonical"),
    "payload null": (lambda b: ENVELOPE(b).update(payload=None), "base64 that is not canonical"),
    "payload not ASCII": (lambda b: ENVELOPE(b).update(payload="\u0661"), "base64 that is not canonical"),
    "payload wrapped": (lambda b: ENVELOPE(b).update(payload=ENVELOPE(b)["payload"] + "\n"), "not canonical"),
    "payload without padding": (
        lambda b: ENVELOPE(b).update(payload=ENVELOPE(b)["payload"].rstrip("=")),
        "not canonical",
    ),
    "no signature": (lambda b: ENVELOPE(b).update(signatures=[]), "must have one signature"),
    "two signatures": (lambda b: ENVELOPE(b)["signatures"].append(SIGNED(b)), "must have one signature"),
    "signatures an object": (lambda b: ENVELOPE(b).update(signatures={"0": SIGNED(b)}), "must have one signature"),
    "a signature with more": (lambda b: SIGNED(b).update(cert=""), "envelope's signature does not have"),
    "keyid a number": (lambda b: SIGNED(b).update(keyid=1), "keyid is no text"),
    "no sig": (lambda b: SIGNED(b).pop("sig"), "envelope's signature does not have"),
    "sig zero": (lambda b: SIGNED(b).update(sig=encoded(encode_dss_signature(0, 0))), "does not hold"),
    "sig bare": (lambda b: SIGNED(b).update(sig=encoded(b"\0" * 64)), "does not hold"),
    "sig long": (lambda b: SIGNED(b).update(sig=encoded(b"\0" * 73)), "longer than one of a P-256 key"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_form_is_refused(name: str) -> None:
    """With the reason."""
    change, match = CHANGES[name]
    with pytest.raises(ModelSignatureError, match=match):
        open_bundle(changed(change), KEYS)


@pytest.mark.parametrize(
    "change", [lambda b: SIGNED(b).pop("keyid"), lambda b: MATERIAL(b).pop("tlogEntries")], ids=["keyid", "tlogEntries"]
)
def test_what_says_nothing_may_be_left_out(change: Callable[[Any], object]) -> None:
    """As writers that follow the rules of protobuf do."""
    assert open_bundle(changed(change), KEYS) == (key_id(PUBLIC), PAYLOAD)


def test_a_hint_does_not_make_a_key() -> None:
    """A forger who names a key that may sign, and signs with another, is refused; so is one who renames a key."""
    forged = json.loads(write_bundle(PAYLOAD, OTHER))
    MATERIAL(forged)["publicKey"]["hint"] = key_id(PUBLIC)
    with pytest.raises(ModelSignatureError, match="does not hold"):
        open_bundle(json.dumps(forged).encode(), KEYS)
    with pytest.raises(ModelSignatureError, match="another key than may"):
        open_bundle(write_bundle(PAYLOAD, OTHER), KEYS)


def test_a_signature_over_another_type_is_refused() -> None:
    """What the key has signed as something else is no statement: the type is part of what is signed."""
    for signed in (b"DSSEv1 10 text/plain %d %b" % (len(PAYLOAD), PAYLOAD), PAYLOAD):
        sig = encoded(KEY.sign(signed, ECDSA(SHA256())))
        with pytest.raises(ModelSignatureError, match="does not hold"):
            open_bundle(changed(lambda b, sig=sig: SIGNED(b).update(sig=sig)), KEYS)  # type: ignore[misc]


def test_a_signature_in_another_encoding_is_refused() -> None:
    """DER has one encoding of two numbers."""
    r, s = decode_dss_signature(base64.b64decode(SIGNED(json.loads(BUNDLE))["sig"]))
    der = encode_dss_signature(r, s)
    longer = b"\x30\x81" + der[1:]  # the length in two bytes
    with pytest.raises(ModelSignatureError, match=r"does not hold|longer than one"):
        open_bundle(changed(lambda b: SIGNED(b).update(sig=encoded(longer))), KEYS)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"\xef\xbb\xbf" + BUNDLE,
        BUNDLE.decode().encode("utf-16"),
        BUNDLE.replace(b'"keyid":""', b'"keyid":"","keyid":""'),
        BUNDLE.replace(b'{"mediaType"', b'{"mediaType":1,"mediaType"'),
        BUNDLE.replace(b'"tlogEntries":[]', b'"tlogEntries":NaN'),
        BUNDLE + BUNDLE,
        b"[" * 200,
        b"-" * 200,
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(text: bytes) -> None:
    """Members twice, numbers that are none, text behind the end."""
    with pytest.raises(ModelSignatureError):
        open_bundle(text, KEYS)


@pytest.mark.parametrize("part", [b"[", b'"",', b"{", b"0,", b'{"a":'])
def test_a_file_of_many_parts_is_not_parsed(part: bytes) -> None:
    """Whoever writes the file could fill the memory with it."""
    with pytest.raises(ModelSignatureError, match="too many parts"):
        open_bundle(part * 1_000_000, KEYS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(encoded(PAYLOAD)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(
        {"mediaType", "verificationMaterial", "dsseEnvelope", "publicKey", "hint", "payload", "signatures", "sig"}
    )), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip
PLACES = [
    ("mediaType",), ("verificationMaterial",), ("verificationMaterial", "publicKey"),
    ("verificationMaterial", "publicKey", "hint"), ("dsseEnvelope",), ("dsseEnvelope", "payload"),
    ("dsseEnvelope", "payloadType"), ("dsseEnvelope", "signatures"), ("dsseEnvelope", "signatures", 0),
    ("dsseEnvelope", "signatures", 0, "sig"),
]  # fmt: skip


@given(place=st.sampled_from(PLACES), value=JSON)
def test_anything_in_the_place_of_a_part_is_refused(place: tuple[str | int, ...], value: Any) -> None:
    """By the one error that says so, unless it is what was there."""

    def put(bundle: Any) -> None:
        _under(*place[:-1])(bundle)[place[-1]] = value

    try:
        assert open_bundle(changed(put), KEYS) == (key_id(PUBLIC), PAYLOAD)
        assert _under(*place)(json.loads(BUNDLE)) == value
    except ModelSignatureError:
        pass


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    """By the one error that says so."""
    with pytest.raises(ModelSignatureError):
        open_bundle(data, KEYS)
