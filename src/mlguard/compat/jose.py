"""python-jose as what checks the signatures of ``JWTAuth``, for apps that have to stay on it.

Tokens that python-jose has *made* need nothing of this: ``JWTAuth`` takes them as they are, and is safer and faster
with joserfc. python-jose sees no token here. It is given a key, an algorithm that the key is bound to, and bytes; its
own parsers, where its known holes are (CVE-2024-33663, CVE-2024-33664), are not even imported.
"""

import warnings
from collections.abc import Callable

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it uses what newer Pythons deprecate
    try:
        from jose import jwk
        from jose.constants import ALGORITHMS
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError('mlguard.compat.jose needs python-jose: pip install "mlguard[jose]"') from missing


def jose_engine(algorithm: str, key: bytes) -> Callable[[bytes, bytes], bool]:
    """Check signatures with python-jose: ``JWTAuth(key, algorithms=["RS256"], engine=jose_engine)``.

    ``JWTAuth`` judges a token's form before the signature and its claims after it, as without an engine. It also reads
    the key, and binds it to the algorithms that fit it.

    Args:
        algorithm: HS256, HS384, HS512, RS256, RS384, RS512, ES256 or ES384: what ``JWTAuth`` and python-jose both have.
        key: The secret, or the public key in PEM.

    Returns:
        A function of the signing input and the signature that says whether the signature holds.

    Raises:
        JWKError: python-jose cannot use the key or the algorithm. ``JWTAuth`` makes a ``ConfigurationError`` of it.
    """
    if algorithm not in ALGORITHMS.HMAC | ALGORITHMS.RSA_DS | ALGORITHMS.EC_DS:
        raise jwk.JWKError("python-jose does not have this signature algorithm")  # it has some for encryption
    bound = jwk.construct(key, algorithm)

    def verify(signing_input: bytes, signature: bytes) -> bool:
        return bool(bound.verify(signing_input, signature))

    return verify
