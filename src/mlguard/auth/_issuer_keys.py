"""The keys that a token issuer signs with, and the tokens that it knows for its own.

The header of a token is one of the few that the issuer writes itself. So a token is known by the very bytes of its
header, and nothing of a stranger's token is ever parsed.
"""

import base64
import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from joserfc.jwk import Key, OctKey, import_key

from mlguard._base64url import encode
from mlguard.auth._jwt_keys import Keys, Model, model_of
from mlguard.auth.secrets import secret_bytes
from mlguard.errors import ConfigurationError

#: The ``typ`` of an access token (RFC 9068, section 2.1), and one of ours that no guard takes for such a token.
ACCESS = "at+jwt"
REFRESH = "rt+jwt"
_KINDS = (ACCESS, REFRESH)

_MAX_TOKEN_SIZE = 8192  # as JWTAuth reads by default


class _Verifier(NamedTuple):
    kind: str
    model: Model
    key: Key


class IssuerKeys:
    """Signs with the newest key, and knows the tokens of all of them.

    Args:
        key: One key, or ``{kid: key}``, oldest first.
        algorithm: What all of them sign with.

    Raises:
        ConfigurationError: A key that cannot be read, is weak or does not fit, or a newest one that cannot sign.
    """

    def __init__(self, key: str | bytes | Key | Mapping[str, Any], algorithm: str) -> None:
        if not isinstance(algorithm, str):
            raise ConfigurationError('TokenIssuer(algorithm=...) is one algorithm, such as "ES256"')
        keys = Keys(key, [algorithm])
        named: dict[str | None, Any] = {None: key}
        if isinstance(key, Mapping) and "kty" not in key:
            named = dict(key.items())
        self.algorithm = algorithm
        self._verifiers: dict[str, _Verifier] = {}
        for kid in named:
            model, verifying = (keys.find({} if kid is None else {"kid": kid}) or {})[algorithm]
            for kind in _KINDS:
                self._verifiers[_head(algorithm, kind, kid)] = _Verifier(kind, model, verifying)
        newest = [*named][-1]
        self._heads = {kind: _head(algorithm, kind, newest) for kind in _KINDS}
        self._model = model_of(algorithm)
        self._key = _signing_key(named[newest], algorithm)
        self.is_slow = is_slow(algorithm)

    def sign(self, kind: str, claims: Mapping[str, Any]) -> str:
        """A token of this kind.

        Raises:
            ValueError: It is longer than a ``JWTAuth`` reads.
        """
        signed = f"{self._heads[kind]}.{encode(json.dumps(claims, separators=(',', ':')).encode())}"
        token = f"{signed}.{encode(self._model.sign(signed.encode(), self._key))}"
        if len(token) > _MAX_TOKEN_SIZE:
            raise ValueError(f"a token of more than {_MAX_TOKEN_SIZE} bytes: it has too many scopes")
        return token

    def read(self, token: str) -> tuple[str, dict[str, Any]] | None:
        """The kind and the claims of a token that was signed here, whether it has expired or not; None for others."""
        if not token.isascii() or len(token) > _MAX_TOKEN_SIZE or token.count(".") != 2:
            return None
        head, payload, signature = token.split(".")
        verifier = self._verifiers.get(head)
        if verifier is None:
            return None
        signed = f"{head}.{payload}".encode()
        # A signature of the wrong form makes some of joserfc's algorithms raise.
        with suppress(Exception):
            given = _decoded(signature)
            if encode(given) == signature and verifier.model.verify(signed, given, verifier.key):
                return verifier.kind, json.loads(_decoded(payload))
        return None


def is_slow(algorithm: str) -> bool:
    """Whether a signature takes so long that it belongs into a thread."""
    return algorithm.startswith(("RS", "PS"))


def _head(algorithm: str, kind: str, kid: str | None) -> str:
    """The header. Tokens live longer than a release: its bytes must stay what they are."""
    header = {"alg": algorithm, "typ": kind} | ({} if kid is None else {"kid": kid})
    return encode(json.dumps(header, separators=(",", ":")).encode())


def _decoded(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def _signing_key(key: Any, algorithm: str) -> Key:
    loaded: Key | None = None
    with warnings.catch_warnings(), suppress(Exception):  # an exception could quote the key
        warnings.simplefilter("ignore")  # what joserfc warns of was refused when the key was bound
        if isinstance(key, Key):
            loaded = key
        elif isinstance(key, Mapping):
            loaded = import_key(dict(key))
        elif algorithm.startswith("HS"):
            loaded = OctKey.import_key(secret_bytes(key, where="TokenIssuer(key=...)"))
        else:
            loaded = import_key(key, _KEY_TYPES[algorithm[:2]])
    if loaded is None or not loaded.is_private:
        raise ConfigurationError(
            "TokenIssuer(key=...): the newest key signs, so it must be a private key "
            f"(or, for HS256 and its relatives, a secret) that fits {algorithm}"
        )
    return loaded


_KEY_TYPES: Mapping[str, Any] = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
