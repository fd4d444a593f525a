"""Secrets and keys that are in print. People copy them, and everybody else has them too.

Only digests are kept, so that nobody copies one from here.
"""

import base64
import hashlib

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

#: SHA-256 of each as text in lower case, base64 in the URL-safe alphabet and without padding.
_SECRETS = frozenset(
    {
        "570dad43de1af4c925f92c16a68a50936da42b7dd6fdeb24850507a1199aac89",  # FastAPI's OAuth2 tutorial
        "2598f7d6adc142d88161630f3db12ab2bd3403521c281811e5e1ce60d4ac5d76",  # Flask's quickstart
        "9cb335cb7b5fb805934637d85c4f57c695baac019c0a57ceffd0afe43144c9cb",  # the same, in earlier versions
        "2ef2503d964e9668092e6878d3c390ca7909bbbffabd781857115e3be4bb3e5a",  # NIST SP 800-38A, AES-128; FIPS 197
        "c12ce25303a023aa1317614428c0ac8ef707c5a370d7c766353c66df5d2cb46f",  # the same, AES-192
        "837e8e636d452b6133d5a5c56de1eb57c08a94bbe632804fa621a49014c5c034",  # the same, AES-256
        "465d9ad5d5528ebe287b5dce4fb51620833d09b290e49ddcc70ca6c4a0aea01b",  # jwt.io
        "c1d2e8726375f11fda33d032c5d84eec753aba4bad251dfdfaf8bdd8c4d26243",  # RFC 7515, appendix A.1
        "03cf6dc15510c178079793372edd09e634ac49f4cae267b3e4191a5141f2a46e",  # RFC 7520, section 3.5
        "829b2140c4df846e78da47ebc1ca14d4ad08de46ad7f8a2f4940c77bcc22da21",  # RFC 9421, appendix B.1.5
        "f62707ad3bc600a90497920d8b87c6f3cb254316cd700172d32bfedc8c7a030b",  # the Fernet specification
        "2b5ab1cb7beba5e473616aa045618fb420a9924eb0abb03f8b1e51e645de4ea6",  # Standard Webhooks
        "fb4844f5c8d3515fda5265c1402cf31a56fecde33a2861b23a035cb8b1ef90a2",  # the same, without its prefix
        "6adbfd178516c8efe5896d4d0d66d2704d167cbb4ca881efde33af658d39826f",  # Slack: verifying requests
        "1f1a27b03ccaddef305483caf8dae04377e7093daee64508801829fb3bc71b0b",  # GitHub: validating webhooks
        "414b0f60b0b31da2fe9712ff7576cbc1bf871a378c15cf7e511e1837b7267f33",  # Stripe's API reference
        "30a5154b77ab8b2ddbe19f5e7af72f33cc2a4a41f22940d965102650a1c72863",  # RFC 4122
        "a3a9e1ed9732cab28868127be00f1ce921acaefdd5c3b23a6e9e0072bd9c1a34",  # Wikipedia and many API references
        "986c0dc956dc822b5d8f698661b9eb1ef880786ff9043c16744d2a420e99e9bb",  # the same
        "73cdb82de14dd69bd52ad4ff7a6ff58c5e17175adc8b5b372841908634cfdd53",  # our page on moving from fastapi-users
    }
)
#: SHA-256 of each public key whose private key is in print too, as DER.
_KEYS = frozenset(
    {
        "f56c8b01227f62ddbc16eb29a6ac0b310e276760a5e06302fa881a35146f6bc7",  # jwt.io, RS256 and its relatives
        "a40f0f2e2974dc76a82df6ffe08ed0d79955c79e7ad0c20d97ae8f9246ade1c1",  # jwt.io, ES256
        "6fd13c2435a361e7c588cd17f55f5ad3df0177a66c1727a6a200845f4d7ab88c",  # RFC 7515, appendix A.2
        "2bd1bb0c44a897c30a7aa0991cde38d8062fe441de50da0f46825344f602e827",  # RFC 7515, appendix A.3
        "06e3fd8fda29bb60ab59557de61edb0aecdb231134be30e75b455f8e1b792fa9",  # RFC 8037, appendix A; RFC 8032
    }
)
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def is_in_print(secret: bytes) -> bool:
    """Whether a secret is, as it is or in hex or base64."""
    spellings = (_folded(secret), secret.hex().encode(), _folded(base64.b64encode(secret)))
    return not _SECRETS.isdisjoint(hashlib.sha256(spelling).hexdigest() for spelling in spellings)


def has_private_key_in_print(public_key: PublicKeyTypes) -> bool:
    """Whether anybody can sign what this key verifies."""
    der = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest() in _KEYS


def _folded(text: bytes) -> bytes:
    return text.lower().translate(_URL_SAFE).rstrip(b"=")
