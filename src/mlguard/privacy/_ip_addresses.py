"""IP addresses of both versions, but for those that name no machine: ``0.0.0.0``, ``::`` and loopback."""

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from mlguard.privacy._spans import Span

# Four numbers with dots; "v1.2.3.4" and "1.2.3.4.5" are versions.
_V4 = re.compile(r"(?<![\w.])\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w]|\.\d)", re.ASCII)
_V6 = re.compile(
    r"(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{2,39}+(?:\.\d{1,3}){0,3}(?![\w:])", re.ASCII
)
_LONG_GROUP = re.compile(r"[0-9A-Fa-f]{4}", re.ASCII)


def find_ipv4(text: str, start: int, end: int) -> Iterator[Span]:
    """The addresses of version 4 in this part of a plain text."""
    return _valid(_V4, text, start, end)


def find_ipv6(text: str) -> Iterator[Span]:
    """The addresses of version 6 in a plain text. One without a group of four digits is a slice or a time."""
    for span in _valid(_V6, text, 0, len(text)):
        piece = text[span.start : span.end]
        if _LONG_GROUP.search(piece) or "::" not in piece:
            yield span


def names_a_machine(address: IPv4Address | IPv6Address) -> bool:
    """Whether the address is somebody's."""
    return not (address.is_loopback or address.is_unspecified)


def _valid(form: re.Pattern[str], text: str, start: int, end: int) -> Iterator[Span]:
    for match in form.finditer(text, start, end):
        try:
            address = ip_address(match[0])
        except ValueError:
            continue
        if names_a_machine(address):
            yield Span(match.start(), match.end(), "ip")
