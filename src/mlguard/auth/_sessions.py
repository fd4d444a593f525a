"""What the tokens of one login have in common, and how a refresh token carries it on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Session:
    """One login. Its tokens are never for more than it was granted, nor last longer than it does."""

    id: str
    subject: str
    scopes: frozenset[str]
    authenticated_at: float
    client_id: str | None
    amr: tuple[str, ...]

    def claims(self) -> dict[str, Any]:
        """The claims that its access tokens and its refresh tokens share."""
        return {
            "sid": self.id,
            "auth_time": self.authenticated_at,
            **({} if self.client_id is None else {"client_id": self.client_id}),
            **({"amr": list(self.amr)} if self.amr else {}),
        }


class Refresh(NamedTuple):
    """What a refresh token says: its session, which one of the session it is, from 0 on, and when it expires."""

    session: Session
    number: int
    expires: float


def refresh_claims(session: Session, number: int) -> dict[str, Any]:
    """What a refresh token of this session says, apart from who issues it to whom until when."""
    return {"seq": number, "granted": " ".join(sorted(session.scopes)), **session.claims()}


def read_refresh(claims: Mapping[str, Any]) -> Refresh | None:
    """What the claims of a refresh token say; None if they have another form than :func:`refresh_claims` writes."""
    match claims:
        case {
            "sub": str(subject),
            "sid": str(id_),
            "seq": int(number),
            "granted": str(granted),
            "exp": int() | float() as expires,
            "auth_time": int() | float() as authenticated_at,
        }:
            scopes, amr = frozenset(granted.split()), tuple(claims.get("amr", ()))
            session = Session(id_, subject, scopes, authenticated_at, claims.get("client_id"), amr)
            return Refresh(session, number, expires)
    return None
