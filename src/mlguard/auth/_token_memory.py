"""Tokens that were verified, until they expire: a signature is judged once, and what depends on the time each time."""

import math
import threading
from dataclasses import dataclass

from mlguard._guard import Principal
from mlguard._records import DROPS
from mlguard.auth._jwt_keys import Keys


@dataclass(slots=True)
class VerifiedToken:
    """What a token whose signature and claims hold has proved, whatever time it is.

    Attributes:
        principal: Whom it proves.
        expires: Its ``exp``.
        starts: The latest of its ``iat``, ``nbf`` and ``auth_time``: none of them may lie in the future.
        issued_at: Its ``iat``, if it has one.
        logged_in_at: Its ``auth_time``, if it has one and it matters.
        has_factors: Whether its ``amr`` holds what is demanded.
        revocation_keys: Under which keys it may have been revoked.
        unrevoked_at: When it was last known not to be revoked.
    """

    principal: Principal
    expires: float
    starts: float
    issued_at: float | None
    logged_in_at: float | None
    has_factors: bool
    revocation_keys: tuple[bytes, ...]
    unrevoked_at: float = -math.inf


class TokenMemory:
    """Verified tokens by the digest of the whole token, for as long as the keys are those that verified them.

    Only what was verified gets in, so a flood of forged tokens takes nobody's place. When there is no more room, the
    token that was verified first is forgotten, and verified again when it comes again.

    Args:
        size: How many tokens are remembered; 0 for none.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        # The keys and what they have verified, replaced together: other threads see both or neither.
        self._verified: tuple[Keys | None, dict[bytes, VerifiedToken]] = (None, {})

    def find(self, digest: bytes, keys: Keys) -> VerifiedToken | None:
        """What is remembered of a token, if it was verified with these very keys."""
        verifiers, tokens = self._verified
        return tokens.get(digest) if keys is verifiers else None

    def keep(self, digest: bytes, keys: Keys, token: VerifiedToken, *, now: float) -> None:
        """Remember a token. Once the keys are others, all that was remembered before is forgotten.

        Args:
            digest: Of the token.
            keys: What verified it.
            token: What it proves.
            now: Seconds since 1970: what has expired since makes room.
        """
        if not self._size:
            return
        with self._lock:
            verifiers, tokens = self._verified
            if keys is not verifiers:
                tokens = {}
                self._verified = (keys, tokens)
            for _ in range(min(DROPS, len(tokens))):
                oldest = next(iter(tokens))
                if len(tokens) < self._size and tokens[oldest].expires > now:
                    break
                del tokens[oldest]
            tokens[digest] = token
