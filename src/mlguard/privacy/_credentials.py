"""What opens doors: tokens, keys and passwords, by their own form or by the name before them."""

import re
from collections.abc import Iterator

from mlguard.privacy._glances import Glance
from mlguard.privacy._spans import Span

_JWT = re.compile(r"eyJ[\w-]++\.[\w-]++\.[\w-]*+(?:\.[\w-]*+){0,2}", re.ASCII)
_API_KEY = re.compile(
    r"(?:mlg_(?:live|test)_|mlg_|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|[sr]k_(?:live|test)_|sk-|AIza|hf_|"
    r"npm_|pypi-)[\w-]{16,}+",
    re.ASCII,
)
_AWS_KEY = re.compile(r"A[KS]IA[A-Z0-9]{16}(?![\w-])", re.ASCII)
_TOKENS = ((_JWT, "jwt"), (_API_KEY, "api_key"), (_AWS_KEY, "aws_key"))
#: The kinds that are told by their form.
TOKEN_KINDS = frozenset(kind for _, kind in _TOKENS)
_SCHEME = b"bearer"
_CREDENTIAL = re.compile(r"(?: |%20|\+)++([\w.~+/-]{16,}+=*+)", re.ASCII)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----")
_URL_PASSWORD = re.compile(r"://[^\s/?#@:]{0,256}:(?!\d{1,5}/)((?:[^\s@]|@(?=[^\s/?#@]{0,256}@)){1,256}+)@")
_ANY_DIGIT = re.compile(r"\d", re.ASCII)
_LINE_END = "-----END"

# The words in names of secrets, with what may follow in the name, and before it.
_KEYS = "api", "access", "private", "account", "signing", "encryption", "secret", "master", "subscription"
_NAMES = {
    b"pass": (r"(?:words?|wd|wort|phrase|code)?", None),
    b"pwd": ("", None),
    b"secret": (r"(?:[_-]?access)?(?:[_-]?key)?", None),
    b"token": ("", None),
    b"authorization": ("", None),
    b"cookie": ("", None),
    b"key": ("", re.compile(rf"(?:{'|'.join(_KEYS)})[_-]?\Z", re.ASCII | re.IGNORECASE)),
}
_BEFORE = 16  # characters
_SETS = (
    r"\\{0,3}[\"']?(?:\s{0,8}+(?:[=:]|%3[Dd])\s{0,8}+|\s{0,8}+,\s{0,8}+(?=b?[\"']))"
    r"(?:[\[(]\s{0,8}+(?=b?\\{0,3}[\"']))?(?:b?(?P<escape>\\{0,3})(?P<quote>[\"'])|(?P<scheme>(?:bearer|basic|digest|negotiate|apikey|token)\s{1,8}+))?"
)
_SETTERS = {
    word: (re.compile(word.decode() + rest + _SETS, re.ASCII | re.IGNORECASE), before)
    for word, (rest, before) in _NAMES.items()
}
_VALUE = re.compile(r"[^\s,;&\"'<>(){}\[\]]++")
_QUOTED = {quote: re.compile(rf"(?:[^{quote}\\\n]|\\.)++") for quote in "\"'"}
_QUOTED_TWICE = re.compile(r"[^\"'\\\n]++")  # JSON in JSON: the quote that ends it is escaped
_COOKIES = re.compile(r"[^\n\r\"']++")


def find_tokens(text: str, glance: Glance) -> Iterator[Span]:
    """JSON Web Tokens, and keys whose makers gave them a form: mlguard's, AWS's, GitHub's and others."""
    for start, _ in glance.long_words():
        for form, kind in _TOKENS:
            match = form.match(text, start)
            if match:
                yield Span(start, match.end(), kind)


def find_bearers(text: str, glance: Glance) -> Iterator[Span]:
    """What stands behind ``Bearer``. Without a digit in it, it is the next word."""
    done = 0
    for place in glance.places_of(_SCHEME):
        match = _CREDENTIAL.match(text, place + len(_SCHEME)) if place >= done else None
        if match is None:
            continue
        done = match.end()  # without a digit too: what was read is not read again
        if _ANY_DIGIT.search(match[1]):
            yield Span(*match.span(1), "bearer")


def find_private_keys(text: str) -> Iterator[Span]:
    """Private keys in PEM, up to their end, or that of the text."""
    done = 0
    for match in _PRIVATE_KEY.finditer(text):
        if match.start() >= done:
            end = text.find(_LINE_END, match.end())
            line = text.find("-----", end + len(_LINE_END)) if end >= 0 else -1
            done = line + 5 if line >= 0 else len(text)
            yield Span(match.start(), done, "private_key")


def find_url_passwords(text: str) -> Iterator[Span]:
    """The password in ``https://name:password@host``."""
    for match in _URL_PASSWORD.finditer(text):
        yield Span(*match.span(1), "url_password")


def find_named_secrets(text: str, glance: Glance) -> Iterator[Span]:
    """What a text gives a name such as ``password``: ``password=x``, ``"password": "x"``, ``(b'cookie', b'x')``."""
    for word, (setter, before) in _SETTERS.items():
        done = 0
        for place in glance.places_of_name(word):
            match = setter.match(text, place) if place >= done else None
            if match and (before is None or before.search(text[max(0, place - _BEFORE) : place])):
                value = _value_form(word, match).match(text, match.end())
                if value:
                    done = value.end()
                    yield Span(*value.span(), "secret")


def _value_form(word: bytes, match: re.Match[str]) -> re.Pattern[str]:
    if match["quote"]:
        return _QUOTED_TWICE if match["escape"] else _QUOTED[match["quote"]]
    return _COOKIES if word == b"cookie" else _VALUE
