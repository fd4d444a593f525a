"""Starts that must fail: the model is not the one that was released, or its key is another one."""

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from examples.demo.credentials import Credentials
from examples.demo.process import StartError, running
from examples.demo.verdict import Outcome


@dataclass(frozen=True)
class Start:
    """One thing that is wrong when the service starts.

    Attributes:
        title: What it is.
        spoil: Does it.
        log: What the operator reads.
    """

    title: str
    spoil: Callable[[Path], None]
    log: str


def try_starts(app: str, environment: Mapping[str, str], keys: Credentials) -> Iterator[Outcome]:
    """Start the service where it must not start."""
    for start in STARTS:
        outcome = Outcome(start.title)
        start.spoil(keys.folder)
        try:
            with running(app, environment):
                outcome.wrong = "the service has started all the same"
        except StartError as error:
            said = str(error)
            outcome.log = next((line for line in said.splitlines() if start.log in line), said)
            if start.log not in said:
                outcome.wrong = f"the log does not say {start.log!r}"
            if any(secret in said for secret in keys.secrets):
                outcome.wrong = "the log holds what it must not: a secret"
        yield outcome


def _change_secret(folder: Path) -> None:
    (folder / "secrets" / "model-key").write_text(secrets.token_urlsafe(32))


def _change_model(folder: Path) -> None:
    (file,) = folder.rglob("model.joblib.enc")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


STARTS = [
    Start("a start with another key for the model", _change_secret, log="the file is encrypted under the key"),
    Start("a start with one byte of the model changed", _change_model, log="is not as it was signed"),
]
