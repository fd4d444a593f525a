"""What a limit says: windows, and how they are written in code, in key files and in headers."""

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from mlguard._numbers import whole
from mlguard.errors import ConfigurationError
from mlguard.store import Decision, Kind, Window

_UNITS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
_LIMIT = re.compile(rf"([1-9][0-9]{{0,11}}) ?/ ?(?:([1-9][0-9]{{0,4}}) )?({'|'.join(_UNITS)})s?", re.ASCII)
_MAX_LIMIT = 10**12 - 1  # of a limit's twelve digits; a header holds numbers of fifteen (RFC 9651)
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
        most: Units that can ever be admitted at once.
    """

    windows: tuple[Window, ...]
    names: tuple[str, ...]
    policy: str
    policy_header: tuple[bytes, bytes]
    most: int

    @classmethod
    def parse(
        cls,
        limits: Sequence[str],
        *,
        where: str,
        quote: bool = True,
        strategy: Kind = "sliding",
        burst: int | None = None,
    ) -> "Limits":
        """Read limits.

        Args:
            limits: Each ``"60/minute"`` or ``"5/10 seconds"``.
            where: What carries them, for the error.
            quote: Whether the error may show what cannot be read. Not where a secret could stand by mistake.
            strategy: How each window counts.
            burst: Units at once for ``gcra``; None: as many as the limit.

        Raises:
            ConfigurationError: One cannot be read, two have the same window, there is no such strategy, or the burst is
                none or stands where there can be none.
        """
        if strategy not in get_args(Kind):
            raise ConfigurationError(f'{where}(strategy=...) is "sliding", "fixed" or "gcra"')
        if burst is not None:
            _check_burst(burst, limits, strategy, where)
        windows = []
        for limit in limits:
            match = _LIMIT.fullmatch(limit.strip()) if isinstance(limit, str) else None
            if match is None:
                raise ConfigurationError(f"{where}: {repr(limit) if quote else 'one of limits'} is no limit; {_FORM}")
            windows.append(Window(int(match[1]), int(match[2] or 1) * _UNITS[match[3]]))
        if len({window.seconds for window in windows}) < len(windows):
            raise ConfigurationError(f"{where}: two limits have the same window; keep the lower one")
        names = tuple(_spell(window) for window in windows)
        if burst is not None:
            windows = [Window(burst, burst * window.seconds / window.limit) for window in windows]
        windows = [window._replace(kind=strategy) for window in windows]
        policy = ", ".join(
            f'"{name}";q={window.limit};w={math.ceil(window.seconds)}'
            for name, window in zip(names, windows, strict=True)
        )
        most = min((window.limit for window in windows), default=0)
        return cls(tuple(windows), names, policy, (b"ratelimit-policy", policy.encode()), most)

    def field(self, decision: Decision) -> str:
        """The value of ``RateLimit`` after a decision."""
        return ", ".join(
            [  # a list, which is joined faster
                f'"{name}";r={remaining};t={math.ceil(reset)}'
                for name, remaining, reset in zip(self.names, decision.remaining, decision.reset, strict=True)
            ]
        )

    def refusal_headers(self, decision: Decision, retry_after: float) -> dict[str, str]:
        """What a refusal carries. No time to wait where waiting does not help."""
        wait = {"Retry-After": str(max(1, math.ceil(retry_after)))} if retry_after < math.inf else {}
        return {**wait, "RateLimit-Policy": self.policy, "RateLimit": self.field(decision)}


@functools.lru_cache(_MAX_KNOWN)
def limits_of(names: tuple[str, ...], strategy: Kind = "sliding") -> Limits:
    """The limits that a key or a principal carries, read once.

    Raises:
        ConfigurationError: One cannot be read. It is not quoted: in a mistyped key file, a secret can stand there.
    """
    return Limits.parse(names, where="limits of a caller", quote=False, strategy=strategy)


def _check_burst(burst: object, limits: Sequence[str], strategy: Kind, where: str) -> None:
    if strategy != "gcra" or len(limits) != 1:
        raise ConfigurationError(f'{where}(burst=...) goes with strategy="gcra" and one limit')
    whole(f"{where}(burst=...)", burst, least=1, most=_MAX_LIMIT)


def _spell(window: Window) -> str:
    unit, seconds = max(
        ((unit, seconds) for unit, seconds in _UNITS.items() if window.seconds % seconds == 0), key=lambda pair: pair[1]
    )
    count = window.seconds // seconds
    return f"{window.limit}/{unit}" if count == 1 else f"{window.limit}/{count} {unit}s"
