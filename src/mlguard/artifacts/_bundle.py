"""The signature file: a Sigstore bundle with one DSSE envelope, signed by a plain key.

It is what the OpenSSF's Model Signing writes: https://docs.sigstore.dev/about/bundle/ (version 0.3) around
https://github.com/secure-systems-lab/dsse (version 1). Whoever can write the file can write anything into it, so it is
read strictly: one reading, one signature, one kind of payload, and nothing that is not known.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from mlguard._strict_json import strict_json
from mlguard.artifacts._signing_keys import key_id
from mlguard.errors import ModelSignatureError

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"

_MAX_MARKS = 256  # quotes, brackets and commas; a bundle has about 50, and base64 has none
_MAX_SIGNATURE = 72  # bytes of an ECDSA signature of P-256 in DER


class _Envelope(NamedTuple):
    hint: str
    payload: bytes
    signature: bytes


def write_bundle(payload: bytes, key: EllipticCurvePrivateKey) -> bytes:
    """Sign a payload, and wrap it."""
    signature = key.sign(_pre_authentication(payload), ECDSA(SHA256()))
    bundle = {
        "mediaType": _MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_id(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle, separators=(",", ":")).encode()


def open_bundle(data: bytes, keys: Mapping[str, EllipticCurvePublicKey]) -> tuple[str, bytes]:
    """The id of the key that has signed, and what it has signed. Nothing unsigned comes back.

    Args:
        data: The signature file.
        keys: Who may have signed, by the ids of the keys.

    Raises:
        ModelSignatureError: It is no such bundle, another key has signed, or the signature does not hold.
    """
    envelope = _read(data)
    key = keys.get(envelope.hint)
    if key is None:
        raise ModelSignatureError("the model was signed with another key than may sign it")
    try:
        key.verify(envelope.signature, _pre_authentication(envelope.payload), ECDSA(SHA256()))
    except InvalidSignature:
        raise ModelSignatureError("the signature does not hold: it was altered, or made with another key") from None
    return envelope.hint, envelope.payload


def _pre_authentication(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding, which binds the type of the payload to it."""
    return b"DSSEv1 %d %b %d %b" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _read(data: bytes) -> _Envelope:
    if sum(map(data.count, (b'"', b",", b"[", b"{"))) > _MAX_MARKS:  # or a parser could be made to fill the memory
        raise ModelSignatureError("the signature is no bundle: it has too many parts")
    try:
        bundle = strict_json(data)
    except ValueError:
        raise ModelSignatureError("the signature is no strict JSON, or is cut short") from None
    top = _members(bundle, "bundle", {"mediaType", "verificationMaterial", "dsseEnvelope"})
    if top["mediaType"] != _MEDIA_TYPE:
        raise ModelSignatureError(f"the signature is not of the media type {_MEDIA_TYPE}")
    hint = _hint(top["verificationMaterial"])
    envelope = _members(top["dsseEnvelope"], "envelope", {"payload", "payloadType", "signatures"})
    if envelope["payloadType"] != _PAYLOAD_TYPE:
        raise ModelSignatureError(f"the signature's payload is not of the type {_PAYLOAD_TYPE}")
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise ModelSignatureError("the envelope must have one signature")
    signed = _members(signatures[0], "envelope's signature", {"sig"}, "keyid")
    if not isinstance(signed.get("keyid", ""), str):
        raise ModelSignatureError("the envelope's keyid is no text")
    signature = _decoded(signed["sig"])
    if len(signature) > _MAX_SIGNATURE:
        raise ModelSignatureError("the envelope's signature is longer than one of a P-256 key")
    return _Envelope(hint, _decoded(envelope["payload"]), signature)


def _hint(material: object) -> str:
    """Which key has signed, as the bundle says."""
    if isinstance(material, dict) and not {"certificate", "x509CertificateChain"}.isdisjoint(material):
        raise ModelSignatureError(
            "the model was signed with a certificate or through Sigstore: only a plain P-256 key is verified here"
        )
    members = _members(material, "verification material", {"publicKey"}, "tlogEntries")
    if members.get("tlogEntries", []) != []:
        raise ModelSignatureError("the bundle has entries of a transparency log, which are not verified here")
    hint = _members(members["publicKey"], "public key", {"hint"})["hint"]
    if not isinstance(hint, str):
        raise ModelSignatureError("the bundle does not say which key has signed")
    return hint


def _members(value: object, what: str, needed: set[str], *allowed: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not needed <= value.keys() <= needed.union(allowed):
        raise ModelSignatureError(f"the signature's {what} does not have the members that it must have")
    return value


def _decoded(text: object) -> bytes:
    """Decode base64 in its one canonical spelling (RFC 4648, section 3.5)."""
    if isinstance(text, str) and text.isascii():
        try:
            data = base64.b64decode(text, validate=True)
        except binascii.Error:
            data = b""
        if data and base64.b64encode(data).decode() == text:
            return data
    raise ModelSignatureError("the signature has base64 that is not canonical")
