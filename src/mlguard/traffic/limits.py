"""What a limit says: windows, and how they are written in code, in key files and in headers."""

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mlguard.errors import ConfigurationError
from mlguard.store import Decision, Window

_UNITS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
_LIMIT = re.compile(rf"([1-9][0-9]{{0,11}}) ?/ ?(?:([1-9][0-9]{{0,4}}) )?({'|'.join(_UNITS)})s?", re.ASCII)
_FORM = 'write a number, \'/\', and second, minute, hour or day, such as "60/minute" or "5/10 seconds"'
_MAX_KNOWN = 1_024  # different sets of limits that callers of one process carry and that need not be read again


@dataclass(frozen=True, slots=True)
class Limits:
    """Several windows that are decided as one.

    Attributes:
        windows: As a store counts them.
        names: As people write them, in one spelling: ``"60/minute"``.
        policy: The value of ``RateLimit-Policy`` (draft-ietf-httpapi-ratelimit-headers).
        policy_header: The same as a raw header.
    """

    windows: tuple[Window, ...]
    names: tuple[str, ...]
    policy: str
    policy_header: tuple[bytes, bytes]

    @classmethod
    def parse(cls, limits: Sequence[str], *, where: str, quote: bool = True) -> "Limits":
        """Read limits.

        Args:
            limits: Each ``"60/minute"`` or ``"5/10 seconds"``.
            where: What carries them, for the error.
            quote: Whether the error may show what cannot be read. Not where a secret could stand by mistake.

        Raises:
            ConfigurationError: One cannot be read, or two have the same window.
        """
        windows = []
        for limit in limits:
            match = _LIMIT.fullmatch(limit.strip()) if isinstance(limit, str) else None
            if match is None:
                raise ConfigurationError(f"{where}: {repr(limit) if quote else 'one of limits'} is no limit; {_FORM}")
            windows.append(Window(int(match[1]), int(match[2] or 1) * _UNITS[match[3]]))
        if len({window.seconds for window in windows}) < len(windows):
            raise ConfigurationError(f"{where}: two limits have the same window; keep the lower one")
        names = tuple(_spell(window) for window in windows)
        policy = ", ".join(
            f'"{name}";q={window.limit};w={window.seconds}' for name, window in zip(names, windows, strict=True)
        )
        return cls(tuple(windows), names, policy, (b"ratelimit-policy", policy.encode()))

    def field(self, decision: Decision) -> str:
        """The value of ``RateLimit`` after a decision."""
        return ", ".join(
            f'"{name}";r={remaining};t={math.ceil(reset)}'
            for name, remaining, reset in zip(self.names, decision.remaining, decision.reset, strict=True)
        )

    def refusal_headers(self, decision: Decision, retry_after: float) -> dict[str, str]:
        """What a refusal carries."""
        return {
            "Retry-After": str(max(1, math.ceil(retry_after))),
            "RateLimit-Policy": self.policy,
            "RateLimit": self.field(decision),
        }


@functools.lru_cache(_MAX_KNOWN)
def limits_of(names: tuple[str, ...]) -> Limits:
    """The limits that a key or a principal carries, read once.

    Raises:
        ConfigurationError: One cannot be read. It is not quoted: in a mistyped key file, a secret can stand there.
    """
    return Limits.parse(names, where="limits of a caller", quote=False)


def _spell(window: Window) -> str:
    unit, seconds = max(
        ((unit, seconds) for unit, seconds in _UNITS.items() if window.seconds % seconds == 0), key=lambda pair: pair[1]
    )
    count = window.seconds // seconds
    return f"{window.limit}/{unit}" if count == 1 else f"{window.limit}/{count} {unit}s"
