"""HTTP message signatures (RFC 9421): the text that is signed, and a strict reading of the fields that carry it.

Pure functions, shared by the guard and the client, so that both ends build one text. The profile is narrow on purpose:
one signature a message, ``hmac-sha256``, whole components without parameters, every field in its canonical spelling.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import http_sf

from mlguard.auth.secrets import secret_bytes
from mlguard.errors import ConfigurationError

ALGORITHM = "hmac-sha256"  # RFC 9421, section 3.3.3
#: What each signature must cover; ``content-digest`` too when there is a body.
REQUIRED_COMPONENTS = ("@method", "@authority", "@path", "@query")

MAX_FIELD_BYTES = 4096  # Signature-Input, Signature and Content-Digest together
MAX_COMPONENTS = 32
MAX_NONCE_LENGTH = 128  # characters

_FIELDS = ("signature-input", "signature", "content-digest")
_PARAMETER_TYPES: dict[str, type] = {
    "created": int,
    "expires": int,
    "nonce": str,
    "alg": str,
    "keyid": str,
    "tag": str,
}
_REQUIRED_PARAMETERS = ("created", "nonce", "keyid")
_HTTP_SCHEMES = {"ws": "http", "wss": "https"}  # a WebSocket's handshake is an HTTP request
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_DIGESTS: dict[str, Callable[..., Any]] = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}  # RFC 9530, section 5

_PRINTABLE = re.compile(r"[ -~]+")
# Nothing but visible ASCII, space and tab: a line feed would let one component pose as two (RFC 9421, section 2.5).
_COMPONENT_VALUE = re.compile(r"[\t -~]*")
_COMPONENT_NAME = re.compile(r"@?[a-z0-9!#$%&'*+.^_`|~-]+")


class MalformedSignatureError(ValueError):
    """A message that cannot be signed, or a signature that this profile refuses. The text holds no field value."""


@dataclass(frozen=True, slots=True)
class Message:
    """The parts of a request that a signature can cover.

    Attributes:
        method: The request method, as sent.
        scheme: ``http`` or ``https``; ``ws`` and ``wss`` mean the same.
        authority: Host and port as in the ``Host`` field. Lower-cased here; a port that is the scheme's own is removed.
        path: The path as sent: percent-encoded, without the query.
        query: The query as sent, without the question mark.
        fields: Header field lines in the order received, by lower-case name.
    """

    method: str
    scheme: str
    authority: str
    path: str
    query: str
    fields: Mapping[str, Sequence[bytes]] = field(repr=False)  # credentials may be among them

    def component(self, name: str) -> str:
        """The value of one component (RFC 9421, sections 2.1 and 2.2).

        Raises:
            MalformedSignatureError: The message has no such component, or its value does not fit on one line of ASCII.
        """
        derive = _DERIVED.get(name)
        if derive is not None:
            value = derive(self)
        elif name in self.fields:
            value = field_value(self.fields[name]).decode("latin-1")
        else:
            raise MalformedSignatureError(f"the message has no component {shown(name)}")
        if not _COMPONENT_VALUE.fullmatch(value):
            raise MalformedSignatureError(f"component {shown(name)} holds a character that cannot be signed")
        return value


def _scheme(message: Message) -> str:
    return _HTTP_SCHEMES.get(message.scheme, message.scheme)


def _authority(message: Message) -> str:
    authority = message.authority.strip(" \t").lower()
    authority = authority.removesuffix(_DEFAULT_PORTS.get(_scheme(message), ":")).removesuffix(":")
    if not authority:
        raise MalformedSignatureError("the message has no authority")
    return authority


def _path(message: Message) -> str:
    return message.path or "/"


def _request_target(message: Message) -> str:
    return _path(message) + ("?" + message.query if message.query else "")


_DERIVED: dict[str, Callable[[Message], str]] = {
    "@method": lambda message: message.method,
    "@authority": _authority,
    "@scheme": _scheme,
    "@path": _path,
    "@query": lambda message: "?" + message.query,
    "@request-target": _request_target,
    "@target-uri": lambda message: f"{_scheme(message)}://{_authority(message)}{_request_target(message)}",
}


def field_value(lines: Iterable[bytes]) -> bytes:
    """All lines of one header field as one value (RFC 9421, section 2.1)."""
    return b", ".join(line.strip(b" \t") for line in lines)


# The signature ------------------------------------------------------------------------------------------------------


def signature_params(components: Sequence[str], parameters: Mapping[str, int | str]) -> str:
    """The value of ``@signature-params``, which is also the member of ``Signature-Input`` (RFC 9421, section 2.3)."""
    inner_list: Any = (list(components), dict(parameters))
    return http_sf.ser([inner_list])


def signature_base(message: Message, components: Iterable[str], params: str) -> bytes:
    """The text that is signed (RFC 9421, section 2.5).

    Args:
        message: What is signed.
        components: Names of the components to cover, in order.
        params: The value of ``@signature-params``.

    Raises:
        MalformedSignatureError: A component is absent or cannot be signed.
    """
    lines = [f'"{name}": {message.component(name)}' for name in components]
    return "\n".join([*lines, f'"@signature-params": {params}']).encode("ascii")


def sign(key: bytes, base: bytes) -> bytes:
    """The ``hmac-sha256`` signature of a signature base (RFC 9421, section 3.3.3)."""
    return hmac.digest(key, base, "sha256")


@dataclass(frozen=True, slots=True)
class ReceivedSignature:
    """A signature as received: well-formed, and not yet verified.

    Attributes:
        components: Names of the covered components, in order, each once.
        params: The value of ``@signature-params``.
        key_id: Which key made it.
        nonce: What makes it single-use.
        created: When it was made, in seconds since 1970.
        expires: When it ends, in seconds since 1970, if the signer said so.
        value: The signature itself.
    """

    components: tuple[str, ...]
    params: str
    key_id: str
    nonce: str
    created: int
    expires: int | None
    value: bytes = field(repr=False)


def read_signature(fields: Mapping[str, Sequence[bytes]]) -> ReceivedSignature:
    """The one signature of a message.

    Raises:
        MalformedSignatureError: There is none, or more than one, or it is not of this profile.
    """
    if sum(len(line) for name in _FIELDS for line in fields.get(name, ())) > MAX_FIELD_BYTES:
        raise MalformedSignatureError(f"the signature fields are larger than {MAX_FIELD_BYTES} bytes")
    label, received, spelling = _only_member(fields, "signature-input")
    components, parameters = _inner_list(received)
    signature_label, signature, _ = _only_member(fields, "signature")
    if signature_label != label:
        raise MalformedSignatureError("Signature-Input and Signature have different labels")
    if signature[1] or not isinstance(signature[0], bytes):
        raise MalformedSignatureError("Signature is not a plain byte sequence")
    return ReceivedSignature(
        components=components,
        params=spelling.removeprefix(label + "="),
        key_id=parameters["keyid"],
        nonce=parameters["nonce"],
        created=parameters["created"],
        expires=parameters.get("expires"),
        value=signature[0],
    )


def _only_member(fields: Mapping[str, Sequence[bytes]], name: str) -> tuple[str, Any, str]:
    """Label, value and text of the only member of a field.

    RFC 9421 signs the *serialisation* of the parsed member (section 3.2), many signers sign the text that they sent.
    Only a field in its canonical spelling is taken, so that both are the same bytes and a signature has one spelling.
    """
    lines = fields.get(name, ())
    if len(lines) != 1:
        raise MalformedSignatureError(f"there are {len(lines)} lines of {name}, not one")
    text = lines[0].strip(b" \t")
    members, spelling = _dictionary(name, text)
    if len(members) != 1:
        raise MalformedSignatureError(f"there are {len(members)} members in {name}, not one")
    if spelling.encode() != text:
        raise MalformedSignatureError(f"{name} is not in its canonical spelling")
    [(label, value)] = members.items()
    return label, value, spelling


def _inner_list(received: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    items, parameters = received
    if not isinstance(items, list):
        raise MalformedSignatureError("Signature-Input is not a list of components")
    if len(items) > MAX_COMPONENTS:
        raise MalformedSignatureError(f"more than {MAX_COMPONENTS} components are covered")
    for name, component_parameters in items:
        if component_parameters or not isinstance(name, str) or not _COMPONENT_NAME.fullmatch(name):
            raise MalformedSignatureError("a covered component is not a plain lower-case name")
    components = tuple(name for name, _ in items)
    if len(set(components)) != len(components):
        raise MalformedSignatureError("a component is covered twice")
    _check_parameters(parameters)
    return components, parameters


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        # The exact type, because a boolean is an int, and a token must not pass for a string.
        if type(value) is not _PARAMETER_TYPES.get(name):
            raise MalformedSignatureError(f"signature parameter {shown(name)} is unknown or of the wrong type")
    for name in _REQUIRED_PARAMETERS:
        if name not in parameters:
            raise MalformedSignatureError(f"signature parameter {name!r} is missing")
    if not 0 < len(parameters["nonce"]) <= MAX_NONCE_LENGTH:
        raise MalformedSignatureError(f"the nonce does not have 1 to {MAX_NONCE_LENGTH} characters")
    if parameters.get("alg", ALGORITHM) != ALGORITHM:
        raise MalformedSignatureError(f"the algorithm is not {ALGORITHM}")


# The digest of the body ---------------------------------------------------------------------------------------------


def content_digest(body: bytes) -> str:
    """The value of ``Content-Digest`` for a body (RFC 9530)."""
    return http_sf.ser({"sha-256": hashlib.sha256(body).digest()})


def read_content_digest(lines: Iterable[bytes]) -> dict[str, bytes]:
    """The digests in ``Content-Digest`` that can be checked, by algorithm. Others are left out (RFC 9530, section 2).

    Raises:
        MalformedSignatureError: There is none, or one that no body can have.
    """
    digests: dict[str, bytes] = {}
    members, _ = _dictionary("content-digest", field_value(lines))
    for algorithm, (digest, _) in members.items():
        if algorithm in _DIGESTS:
            if not isinstance(digest, bytes) or len(digest) != _DIGESTS[algorithm]().digest_size:
                raise MalformedSignatureError(f"content-digest has a {algorithm} value of the wrong size")
            digests[algorithm] = digest
    if not digests:
        raise MalformedSignatureError(f"content-digest has none of {', '.join(_DIGESTS)}")
    return digests


def digests_match(digests: Mapping[str, bytes], body: bytes) -> bool:
    """Whether every one of the digests is that of the body."""
    return all(hmac.compare_digest(_DIGESTS[name](body).digest(), digest) for name, digest in digests.items())


def _dictionary(name: str, value: bytes) -> tuple[dict[str, Any], str]:
    """The members of a structured dictionary, and its canonical spelling."""
    with suppress(Exception):  # whatever hostile text makes the parser do, it is a refusal, and quotes nothing
        members: Any = http_sf.parse(value, tltype="dictionary", on_duplicate_key=_refuse_duplicate)
        return members, http_sf.ser(members)
    raise MalformedSignatureError(f"{name} is not a structured dictionary")


def _refuse_duplicate(key: str, context: str) -> NoReturn:
    raise ValueError(f"{context} key {key!r} is there twice")


# Keys ---------------------------------------------------------------------------------------------------------------


def signing_key(key_id: object, secret: object, *, where: str) -> bytes:
    """The bytes of a shared secret, checked.

    Args:
        key_id: Its name.
        secret: The secret, as str (UTF-8) or bytes.
        where: The setting, for the error. Never the key id: the two may have been swapped.

    Raises:
        ConfigurationError: The key id cannot be sent, or the secret is too weak to sign with.
    """
    if not isinstance(key_id, str) or not _PRINTABLE.fullmatch(key_id):
        raise ConfigurationError(f"{where}: a key id must be a string of printable ASCII characters, and not empty")
    return secret_bytes(secret, where=where)


def shown(text: str) -> str:
    """Text from the caller as it may stand in a log: escaped, and short."""
    return repr(text[:64])
