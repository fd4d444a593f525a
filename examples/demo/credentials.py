"""Keys made for one run. The service gets digests, the callers get the secrets."""

import secrets
from dataclasses import dataclass, field
from typing import Self

from mlguard import APIKey


@dataclass(frozen=True)
class Credentials:
    """The secrets of the callers, and the environment that tells the service about them.

    Attributes:
        alice: May predict.
        bob: Has a key, and may do nothing.
        carol: May predict, and has not called yet.
        partner: Shared with the service, to sign requests.
        stranger: A key that the service never heard of.
        environment: What the service reads. Of the API keys it holds digests only.
    """

    alice: str = field(repr=False)
    bob: str = field(repr=False)
    carol: str = field(repr=False)
    partner: str = field(repr=False)
    stranger: str = field(repr=False)
    environment: dict[str, str] = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        """Fresh ones."""
        alice, alice_secret = APIKey.generate("alice", scopes={"predict"})
        bob, bob_secret = APIKey.generate("bob")
        carol, carol_secret = APIKey.generate("carol", scopes={"predict"})
        _, stranger_secret = APIKey.generate("stranger", scopes={"predict"})
        partner_secret = secrets.token_urlsafe(32)
        return cls(
            alice_secret,
            bob_secret,
            carol_secret,
            partner_secret,
            stranger_secret,
            environment={
                "MLGUARD_API_KEYS": ",".join(key.entry for key in (alice, bob, carol)),
                "PARTNER_SECRET": partner_secret,
            },
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        """All that must never be read in an answer or a log."""
        return (self.alice, self.bob, self.carol, self.partner, self.stranger)
