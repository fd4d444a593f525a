"""Mail addresses: letters, digits and marks of any script, ``. _ + - ' %`` before the @, a domain with a top level.

A subset of RFC 5321 and RFC 6531: no quoted names, no comments, no domain without a dot, no address literal.
"""

import re
from collections.abc import Collection, Iterator

from mlguard.privacy._spans import Span

_REACH = 254  # characters on either side: the longest address of RFC 5321 has as many in all
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u065f\u0900-\u109f\u1780-\u17ff"  # with which scripts write vowels
# As it is, and also as an address of a page has it: the first alone is found much faster.
_AT = re.compile("@")
_AT_IN_URLS = re.compile("@|%40")
_NAME = re.compile(rf"[\w{_MARKS}.+'%-]*")
_DOMAIN = re.compile(rf"[\w{_MARKS}-]+(?:\.[\w{_MARKS}-]+)+")
_TOP_LEVEL = re.compile(rf"[^\W\d_][\w{_MARKS}-]*")
_PICTURE = re.compile(r"\dx\.(?:avif|gif|jpe?g|png|svg|webp)", re.IGNORECASE)  # logo@2x.png


def find_emails(text: str, passwords: Collection[int] = ()) -> Iterator[Span]:
    """The mail addresses in a plain text. At each @, no more than 254 characters on either side are looked at.

    Args:
        text: The plain text.
        passwords: Where passwords of URLs end, whose @ is of no address.
    """
    for at in (_AT_IN_URLS if "%40" in text else _AT).finditer(text):
        if at.start() in passwords:
            continue
        before = text[max(0, at.start() - _REACH) : at.start()][::-1]
        name = _NAME.match(before)
        length = len(name[0].rstrip(".'%-+")) if name else 0
        domain = _DOMAIN.match(text, at.end(), at.end() + _REACH)
        if length and domain and domain[0][0] != "-":
            labels = domain[0].rstrip("-_").split(".")
            if len(labels[-1]) > 1 and _TOP_LEVEL.fullmatch(labels[-1]) and not _PICTURE.fullmatch(domain[0]):
                yield Span(at.start() - length, domain.start() + len(domain[0].rstrip("-_")), "email")
