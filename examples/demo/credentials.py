"""Keys, a password and a model made for one run. The service gets digests and a hash, the callers get the secrets."""

import asyncio
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from examples.demo.command_line import output_of
from examples.demo.redis import running_redis
from examples.demo.release import measure_usual, release
from mlguard import APIKey, ModelStore, Passwords

#: What the service reads from a directory, beside the hash of a password.
_SECRETS = ("partner", "token", "model-key", "input-key", "monitor-key", "MLGUARD_AUDIT_KEY")


@dataclass(frozen=True)
class Credentials:
    """The secrets of the callers, and the environment that tells the service about them.

    Attributes:
        alice: May predict.
        bob: Has a key, and may do nothing.
        carol: May predict, and has not called yet.
        erin: May predict, until her key is revoked.
        frank: May predict, twice a minute: his key carries a limit of its own.
        mallory: May predict, and wants the model.
        dora: The password of somebody who logs in.
        partner: Shared with the service, to sign requests.
        stranger: A key that the service never heard of.
        environment: What the service reads. Of the API keys it knows digests only, of the password a hash.
        folder: Where its secrets and its models are.
        tokens: What Dora was given for her password.
    """

    alice: str = field(repr=False)
    bob: str = field(repr=False)
    carol: str = field(repr=False)
    erin: str = field(repr=False)
    frank: str = field(repr=False)
    mallory: str = field(repr=False)
    dora: str = field(repr=False)
    partner: str = field(repr=False)
    stranger: str = field(repr=False)
    environment: dict[str, str] = field(repr=False)
    folder: Path
    tokens: list[str] = field(default_factory=list, repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """All that must never be read in an answer or a log."""
        keys = (self.alice, self.bob, self.carol, self.erin, self.frank, self.mallory, self.stranger)
        kept = (path.read_text().strip() for path in (self.folder / "secrets").iterdir())
        return (*keys, self.dora, self.partner, *kept, *self.tokens)

    @property
    def audit(self) -> Path:
        """The folder of the audit log."""
        return self.folder / "audit"

    def revoke(self, caller: str) -> None:
        """Take back somebody's keys, on the command line, while the service runs."""
        output_of("keys", "revoke", caller, environment=self.environment)


@contextmanager
def generated() -> Iterator[Credentials]:
    """Fresh ones. Their folder is there until the block ends."""
    with tempfile.TemporaryDirectory(prefix="mlguard-demo-keys-") as name, running_redis(Path(name)) as redis:
        folder = Path(name)
        file = {"MLGUARD_API_KEYS_FILE": str(folder / "keys.json")}
        password = secrets.token_urlsafe(32)
        kept = {secret: secrets.token_urlsafe(32) for secret in _SECRETS}
        for place in ("secrets", "audit"):
            (folder / place).mkdir(mode=0o700)
        for secret, value in {**kept, "dora": asyncio.run(Passwords().hash(password))}.items():
            (folder / "secrets" / secret).write_text(f"{value}\n")

        def key(name: str, *options: str) -> str:
            return output_of("keys", "new", name, *options, environment=file)

        yield Credentials(
            alice=key("alice", "--scope", "predict"),
            bob=key("bob"),
            carol=key("carol", "--scope", "predict"),
            erin=key("erin", "--scope", "predict"),
            frank=key("frank", "--scope", "predict", "--limit", "2/minute"),
            mallory=key("mallory", "--scope", "predict"),
            dora=password,
            partner=kept["partner"],
            stranger=APIKey.generate("stranger", scopes={"predict"})[1],
            environment={
                **file,
                "MLGUARD_SECRETS": f"dir://{folder / 'secrets'}",
                "MLGUARD_STORE_URL": redis,
                "MLGUARD_AUDIT_LOG": str(folder / "audit"),
                **_released(folder, kept["model-key"]),
            },
            folder=folder,
        )


def _released(folder: Path, secret: str) -> dict[str, str]:
    """Release a model, with a key to sign it that nobody has afterwards."""
    key, signer = generate_private_key(SECP256R1()), folder / "model-key.pub"
    signer.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    store = ModelStore(folder / "models", key=signer, signing_key=key, encryption_key=secret)
    release(store)
    usual = folder / "usual-queries.json"
    measure_usual(usual, key)
    return {"MODEL_STORE": str(store.root), "MODEL_SIGNER": str(signer), "USUAL_QUERIES": str(usual)}
