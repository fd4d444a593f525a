"""Secrets and keys that are in print: those of others, and whatever stands on our own pages."""

import ast
import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from joserfc.jwk import import_key

from mlguard import APIKeys, ConfigurationError, JWTAuth, SignatureAuth
from mlguard.auth._key_sets import KeySetError, read_key_set
from mlguard.auth.secrets import check_strength, secret_bytes
from mlguard.memory_store import MemoryStore
from tests.servers import ROOT
from tests.test_docs import PAGES, blocks

# In pieces, so that nobody's scanner takes them for leaks.
PRINTED = [
    b'_5#y2L"F4Q8z\n\xec]/',
    b"8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
    b"603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
    b"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    b"hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg",
    b"cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=",
    b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    b"8f742231b10e8888abcd99yyyzzz85a5",
    b"It's a Secret to Everybody",
    b"sk_test_4eC39HqLyjWDarjtT1zdp7dc",
]


@pytest.mark.parametrize("secret", PRINTED, ids=range(len(PRINTED)))
def test_secrets_of_well_known_pages_are_refused(secret: bytes) -> None:
    """As they stand there, in capitals, in hex, in base64 of either alphabet, and as the bytes that they spell."""
    spellings = [secret, secret.hex().encode(), base64.b64encode(secret), secret.rstrip(b"=")]
    if secret.decode("latin-1").isprintable():
        spellings.append(secret.upper())
    if re.fullmatch(rb"[\w-]{43}=?|[\w-]{86}", secret):
        raw = base64.urlsafe_b64decode(secret + b"=" * (-len(secret) % 4))
        spellings += [raw, raw.hex().encode(), base64.b64encode(raw)]
    if re.fullmatch(rb"[0-9a-f]+", secret):
        spellings.append(bytes.fromhex(secret.decode()))
    for spelling in spellings:
        with pytest.raises(ConfigurationError, match="documentation") as refusal:
            check_strength(spelling, where="here")
        assert spelling.decode("latin-1") not in str(refusal.value)


EC: dict[str, str | list[str]] = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
JWT_IO = """-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9
q9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==
-----END PUBLIC KEY-----
"""


@pytest.mark.parametrize("key", [EC, import_key(EC), JWT_IO, JWT_IO.encode(), {"k": JWT_IO}])
def test_a_key_whose_private_half_is_in_print_verifies_nothing(key: object) -> None:
    """Anybody can sign tokens for it: those of jwt.io have been found in services that were in use."""
    with pytest.raises(ConfigurationError, match="printed in documentation"):
        JWTAuth(key, algorithms=["ES256"])  # type: ignore[arg-type]  # each of them is one of these


def test_a_provider_with_such_a_key_has_none() -> None:
    """In a JWK Set it is left out."""
    document = ('{"keys": [' + repr(EC).replace("'", '"') + "]}").encode()
    with pytest.raises(KeySetError, match="printed in documentation"):
        read_key_set(document, ("ES256",))


# Our own pages --------------------------------------------------------------------------------------------------------

_VALUE = re.compile(r"[\w-]+=[\"']?([^\s\"'`,;|<>]+)")
_QUOTED = re.compile(r'"([^"\s]*)"')
_WORD = re.compile(r"[\w+/.~-]{20,}={0,2}")

#: What stands on a page and looks strong, and is plainly none: patterns, texts, names of ciphers.
NO_SECRETS = re.compile(r".*[\\^]|.*<\||.*[^\x20-\x7e]|ECDHE\+", re.DOTALL)


def _looks_random(word: str) -> bool:
    mixed = all(re.search(kind, word) for kind in ("[A-Z]", "[a-z]", "[0-9]"))
    return mixed or re.fullmatch("[0-9a-fA-F-]+", word) is not None


def _constants(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            yield node.value if isinstance(node.value, str) else node.value.decode("latin-1")


def _of_page(page: Path) -> Iterator[str]:
    yield from filter(_looks_random, _WORD.findall(page.read_text("utf-8")))
    for kind, _, text, _ in blocks(page):
        if kind == "python":
            yield from _constants(text)
        else:
            yield from [*_VALUE.findall(text), *_QUOTED.findall(text)]


def _strong(texts: Iterator[str]) -> list[str]:
    """Those that mlguard would take for a secret."""
    found = []
    for text in texts:
        if re.search(r"\s", text) or NO_SECRETS.match(text):
            continue
        try:
            secret_bytes(text, where="here")
        except ConfigurationError:
            continue
        found.append(text)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_nothing_that_a_page_shows_is_taken_for_a_secret(page: Path) -> None:
    """Whoever copies a value from README or docs into a setting is told so at the start."""
    assert _strong(_of_page(page)) == []


def test_nothing_in_the_examples_is_taken_for_a_secret() -> None:
    """The same for what people copy whole."""
    examples = [*(ROOT / "examples").rglob("*.py")]
    assert examples
    assert {path.name: found for path in examples if (found := _strong(_constants(path.read_text("utf-8"))))} == {}


def test_the_pages_are_really_read() -> None:
    """A strong secret on a page would be found, wherever it stood."""
    strong = "Vq3tYxw0ZkLr8HcNfUe5RjabPa2GsT7dMi"
    assert _strong(iter([strong])) == [strong]
    assert _strong(_constants(f"key = {strong!r}")) == [strong]
    assert _VALUE.findall(f"export MLGUARD_API_KEYS='{strong}'") == [strong]


@pytest.mark.parametrize("mode", ["production", "development"])
@pytest.mark.parametrize(
    "weak", ["changeme", "password", "hunter2", "x" * 64, "${TOKEN}", "your-256-bit-secret-goes-here!"]
)
def test_a_weak_secret_starts_nothing(weak: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In production, and in development no less: what works there is what gets deployed."""
    monkeypatch.setenv("MLGUARD_ENV", mode)
    monkeypatch.setenv("MLGUARD_API_KEYS", f"alice={weak}")
    for start in (
        lambda: JWTAuth(weak, algorithms=["HS256"]),
        lambda: SignatureAuth({"robot": weak}, store=MemoryStore()),
        lambda: APIKeys([f"alice={weak}"]),
        APIKeys.from_env,
    ):
        with pytest.raises(ConfigurationError) as refusal:
            start()
        assert weak not in str(refusal.value)
