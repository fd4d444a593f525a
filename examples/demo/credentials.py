"""Keys, a password and a model made for one run. The service gets digests and a hash, the callers get the secrets."""

import asyncio
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from examples.demo.release import release
from mlguard import APIKey, ModelStore, Passwords


@dataclass(frozen=True)
class Credentials:
    """The secrets of the callers, and the environment that tells the service about them.

    Attributes:
        alice: May predict.
        bob: Has a key, and may do nothing.
        carol: May predict, and has not called yet.
        erin: May predict, until her key is revoked.
        frank: May predict, twice a minute: his key carries a limit of its own.
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
    dora: str = field(repr=False)
    partner: str = field(repr=False)
    stranger: str = field(repr=False)
    environment: dict[str, str] = field(repr=False)
    folder: Path
    tokens: list[str] = field(default_factory=list, repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """All that must never be read in an answer or a log."""
        keys = (self.alice, self.bob, self.carol, self.erin, self.frank, self.stranger)
        kept = (path.read_text().strip() for path in (self.folder / "secrets").iterdir())
        return (*keys, self.dora, self.partner, *kept, *self.tokens)

    def revoke(self, caller: str) -> None:
        """Take back somebody's keys, on the command line, while the service runs."""
        _mlguard("keys", "revoke", caller, **self.environment)


@contextmanager
def generated() -> Iterator[Credentials]:
    """Fresh ones. Their folder is there until the block ends."""
    with tempfile.TemporaryDirectory(prefix="mlguard-demo-keys-") as name:
        folder = Path(name)
        file = {"MLGUARD_API_KEYS_FILE": str(folder / "keys.json")}
        password, partner, token, model = (secrets.token_urlsafe(32) for _ in range(4))
        kept = {"partner": partner, "token": token, "model-key": model, "dora": asyncio.run(Passwords().hash(password))}
        (folder / "secrets").mkdir(mode=0o700)
        for secret, value in kept.items():
            (folder / "secrets" / secret).write_text(f"{value}\n")
        yield Credentials(
            alice=_mlguard("keys", "new", "alice", "--scope", "predict", **file),
            bob=_mlguard("keys", "new", "bob", **file),
            carol=_mlguard("keys", "new", "carol", "--scope", "predict", **file),
            erin=_mlguard("keys", "new", "erin", "--scope", "predict", **file),
            frank=_mlguard("keys", "new", "frank", "--scope", "predict", "--limit", "2/minute", **file),
            dora=password,
            partner=partner,
            stranger=APIKey.generate("stranger", scopes={"predict"})[1],
            environment={**file, "MLGUARD_SECRETS": f"dir://{folder / 'secrets'}", **_released(folder, model)},
            folder=folder,
        )


def _released(folder: Path, secret: str) -> dict[str, str]:
    """Release a model, with a key to sign it that nobody has afterwards."""
    key, signer = generate_private_key(SECP256R1()), folder / "model-key.pub"
    signer.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    store = ModelStore(folder / "models", key=signer, signing_key=key, encryption_key=secret)
    release(store)
    return {"MODEL_STORE": str(store.root), "MODEL_SIGNER": str(signer)}


def _mlguard(*arguments: str, **environment: str) -> str:
    """What the command line prints."""
    command = [sys.executable, "-m", "mlguard", *arguments]
    with subprocess.Popen(  # noqa: S603  # our own command
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            printed, notices = process.communicate()
        except BaseException:  # an interrupt must not leave it behind
            process.kill()
            process.wait()
            raise
    if process.returncode:
        raise RuntimeError(f"mlguard {arguments[0]} {arguments[1]}: {notices}")
    return printed.strip()
