"""Texts with personal data at known places, and texts without any that look as if: made anew, the same for a seed.

Sentences and lines of logs in eleven languages and formats; data as people and programs write them, some in other
digits, wide letters or with odd spaces. They were written by the author of the finders, who knew them. National ids and
telephone numbers are made by trying until python-stdnum and phonenumbers accept one: of them, the figures tell about
writing and surroundings, and not about check digits.
"""

import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

# ruff: noqa: RUF001  # characters that look like others are the point
# ruff: noqa: S311  # nothing here is a secret

_SENTENCES = [
    "Please write to {} before Friday.",
    "Bitte notieren: {}, danke.",
    "Mon numéro est {} depuis lundi.",
    "Mi dato es {}; no lo comparta.",
    "O meu é {} (o antigo não vale).",
    "Il mio è «{}».",
    "Mój to {}!",
    "私のは{}です。",
    "我的是 {}，谢谢。",
    "मेरा {} है।",
    "الرقم هو {} شكرا",
    "2026-11-26 17:23:13,123 INFO app: user={} status=200 ms=12.345",
    '{{"time": "2026-11-26T17:23:13Z", "value": "{}", "n": [0.25, 17]}}',
    "GET /search?q={}&page=2 HTTP/1.1",
    "1732641793;{};ok;0.98",
    "<td>{}</td>",
    "('{}', 42)",
    "{}",
]
# Or with what stands before and behind it.
Datum = str | tuple[str, str, str]

_WIDE = {ord(digit): ord(digit) + 0xFEE0 for digit in string.digits}
_ARABIC = {ord(digit): 0x660 + int(digit) for digit in string.digits}


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text.

    Attributes:
        kind: What is in it; or, where nothing is, what it looks like.
        text: The text.
        start: Where the datum begins. None: there is none.
        end: Where it ends.
    """

    kind: str
    text: str
    start: int | None = None
    end: int | None = None


def positives(seed: int, each: int) -> Iterator[Labelled]:
    """So many texts of each kind, with one datum in each."""
    draw = random.Random(seed)
    for kind, make in makers(draw).items():
        for _ in range(each):
            datum = make()
            if isinstance(datum, str) and kind in _DISGUISED and draw.random() < 0.2:
                datum = draw.choice(_DISGUISED[kind])(datum)
            before, after = draw.choice(_SENTENCES).split("{}")
            lead, datum, tail = datum if isinstance(datum, tuple) else ("", datum, "")
            before, after = before.replace("{{", "{") + lead, tail + after.replace("}}", "}")
            yield Labelled(kind, before + datum + after, len(before), len(before) + len(datum))


def negatives(seed: int, each: int) -> Iterator[Labelled]:
    """So many texts of each sort that look as if, without any personal datum."""
    draw = random.Random(seed)
    for kind, make in _lookalikes(draw).items():
        for _ in range(each):
            before, after = draw.choice(_SENTENCES).split("{}")
            yield Labelled(kind, before.replace("{{", "{") + make() + after.replace("}}", "}"))


def _digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choices(string.digits, k=count))


def _grouped(text: str, separator: str, *lengths: int) -> str:
    groups, place = [], 0
    for length in lengths:
        groups.append(text[place : place + length])
        place += length
    return separator.join([*groups, text[place:]] if text[place:] else groups)


def makers(draw: random.Random) -> dict[str, Callable[[], Datum]]:
    """What makes a datum of each kind."""
    kinds: dict[str, Callable[[], Datum]] = {
        "email": lambda: _email(draw),
        "card": lambda: _card(draw),
        "iban": lambda: _iban(draw),
        "ip": lambda: _ip(draw),
        "gb_nino": lambda: _nino(draw),
        "secret": lambda: (draw.choice(["password=", "api_key: ", "token = ", "pwd="]), _word(draw, 12), ""),
        "secret with another name": lambda: (draw.choice(["pin: ", "pw ", "the code is "]), _word(draw, 12), ""),
        "bearer": lambda: ("Bearer ", _word(draw, 30), ""),
        "jwt": lambda: f"eyJhbGciOiJIUzI1NiJ9.eyJ{_word(draw, 40)}.{_word(draw, 43)}",
        "url_password": lambda: ("postgres://svc:", _word(draw, 9), "@db.internal/x"),
        "name in a sentence": lambda: draw.choice(["Jane Doe", "Jürgen Groß", "Zoé Lefèvre", "María Núñez", "王小明"]),
        "address in a sentence": lambda: f"{draw.randrange(1, 99)} {draw.choice(['High Street', 'rue de Lille'])}",
        "email in words": lambda: _email(draw).replace("@", " at ").replace(".", " dot "),
        "card over two lines": lambda: _grouped(_card_number(draw), "\n", 4, 4, 4),
    }
    if find_spec("phonenumbers"):
        kinds["phone with +"] = lambda: _phone(draw, international=True)
        kinds["phone without +"] = lambda: _phone(draw, international=False)
    if find_spec("stdnum"):
        kinds |= {kind: _id_maker(draw, kind) for kind in _IDS}
    return kinds


def _email(draw: random.Random) -> str:
    name = draw.choice(["jane.doe", "j_doe-7", "müller", "o'neil", "иван", "ユーザー", "info+news", "a"])
    return (
        f"{name}@{draw.choice(['example.org', 'mail.example.co.uk', 'bücher.example', 'пример.рф', 'xn--caf-dma.fr'])}"
    )


def _card_number(draw: random.Random) -> str:
    prefix, length = draw.choice(
        [("4", 16), ("51", 16), ("2223", 16), ("37", 15), ("36", 14), ("6011", 16), ("3530", 16), ("62", 19)]
    )
    body = prefix + _digits(draw, length - len(prefix) - 1)
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in body[::-2])
    return body + str(-(doubled + sum(map(int, body[-2::-2]))) % 10)


def _card(draw: random.Random) -> str:
    number = _card_number(draw)
    separator = draw.choice(["", "", " ", "-"])
    return _grouped(number, separator, 4, 6) if len(number) in {14, 15} else _grouped(number, separator, 4, 4, 4, 4)


_ACCOUNTS = {"DE": 18, "GB": 18, "FR": 23, "NL": 14, "ES": 20, "IT": 23, "PL": 24, "CH": 17, "NO": 11, "MT": 27}


def _iban(draw: random.Random) -> str:
    country, length = draw.choice([*_ACCOUNTS.items()])
    letters = {"GB": 4, "NL": 4, "MT": 4, "IT": 1}.get(country, 0)
    account = "".join(draw.choices(string.ascii_uppercase, k=letters)) + _digits(draw, length - letters)
    number = "".join(str(int(character, 36)) for character in f"{account}{country}00")
    iban = f"{country}{98 - int(number) % 97:02}{account}"
    return draw.choice([iban, iban, _grouped(iban, " ", *[4] * (len(iban) // 4)), iban.lower()])


def _ip(draw: random.Random) -> str:
    if draw.random() < 0.6:
        return ".".join(str(draw.randrange(128, 255)) for _ in range(4))
    groups = [f"{draw.randrange(0x1000, 0x10000):x}" for _ in range(draw.choice([3, 8]))]
    return ":".join(groups) if len(groups) == 8 else ":".join(groups) + f"::{draw.randrange(0x10000):x}"


def _nino(draw: random.Random) -> str:
    prefix = draw.choice("ABCEGHJKLMPRSTWXYZ") + draw.choice("ABCEGHJLMPRSTWXYZ")
    prefix = "AB" if prefix in {"BG", "GB", "NK", "KN", "NT", "TN", "ZZ"} else prefix
    return draw.choice([_grouped, lambda text, *_: text])(
        f"{prefix}{_digits(draw, 6)}{draw.choice('ABCD')}", " ", 2, 2, 2, 2
    )


def _word(draw: random.Random, length: int) -> str:
    return "".join(draw.choices(string.ascii_letters + string.digits, k=length - 1)) + draw.choice(string.digits)


_PHONES = [
    ("DE", "+49 30 9{}", "030 9{}", 6),
    ("DE", "+49 (0)151 2{}", "0151/2{}", 7),
    ("DE", "+4989{}", "089{}", 7),
    ("US", "+1 (415) 55{}", "(415) 55{}", 5),
    ("US", "+1-212-55{}", "212-55{}", 5),
    ("US", "+1.650.25{}", "65025{}", 5),
    ("FR", "+33 6 12 {}", "06 12 {}", 6),
    ("FR", "+33 (0)1 42{}", "0142{}", 6),
]


def _phone(draw: random.Random, *, international: bool) -> str:
    phonenumbers = import_module("phonenumbers")
    while True:
        region, abroad, at_home, count = draw.choice(_PHONES)
        digits = _digits(draw, count)
        written = (abroad if international else at_home).format(
            _grouped(digits, " ", 2, 2) if region == "FR" and " {}" in at_home else digits
        )
        number = phonenumbers.parse(written, region)
        if phonenumbers.is_valid_number(number):
            style = phonenumbers.PhoneNumberFormat
            if international and draw.random() < 0.3:
                return str(phonenumbers.format_number(number, style.E164))
            return written


_IDS: dict[str, tuple[str, Callable[[random.Random], str], Callable[[str], str]]] = {
    "us_ssn": ("us.ssn", lambda draw: _digits(draw, 9), lambda one: _grouped(one, "-", 3, 2)),
    "de_tax_id": ("de.idnr", lambda draw: _digits(draw, 11), lambda one: _grouped(one, " ", 2, 3, 3)),
    "fr_nir": (
        "fr.nir",
        lambda draw: f"{draw.choice('12')}{_digits(draw, 2)}0{draw.randrange(1, 10)}{_digits(draw, 10)}",
        lambda one: _grouped(one, " ", 1, 2, 2, 2, 3, 3),
    ),
    "es_dni": ("es.dni", lambda draw: _digits(draw, 8) + draw.choice(string.ascii_uppercase), lambda one: one),
    "it_fiscal_code": (
        "it.codicefiscale",
        lambda draw: (
            "RSSMRA" + _digits(draw, 2) + "A0" + draw.choice("123456789") + "H501" + draw.choice(string.ascii_uppercase)
        ),
        lambda one: one,
    ),
    "pl_pesel": ("pl.pesel", lambda draw: f"{_digits(draw, 2)}0{_digits(draw, 8)}", lambda one: one),
    "br_cpf": ("br.cpf", lambda draw: _digits(draw, 11), lambda one: f"{one[:3]}.{one[3:6]}.{one[6:9]}-{one[9:]}"),
    "se_personnummer": (
        "se.personnummer",
        lambda draw: f"{_digits(draw, 2)}0{_digits(draw, 3)}-{_digits(draw, 4)}",
        lambda one: one,
    ),
    "in_aadhaar": ("in_.aadhaar", lambda draw: _digits(draw, 12), lambda one: _grouped(one, " ", 4, 4)),
}


def _id_maker(draw: random.Random, kind: str) -> Callable[[], str]:
    module, make, write = _IDS[kind]
    is_valid = import_module(f"stdnum.{module}").is_valid

    def make_valid() -> str:
        while not is_valid(number := make(draw)):
            pass
        return draw.choice([write(number), number])

    return make_valid


_NUMBER_DISGUISES: list[Callable[[str], str]] = [
    lambda text: text.translate(_WIDE),
    lambda text: text.translate(_ARABIC),
    lambda text: text.replace(" ", "\u00a0").replace("-", "\u2011"),
    lambda text: text[:3] + "\u200b" + text[3:],
]
_DISGUISED = {
    "email": [
        lambda text: text.replace("@", "＠"),
        lambda text: text.replace("@", "%40"),
        "\u2060".join,
    ],
    **dict.fromkeys(
        ["card", "iban", "phone with +", "us_ssn", "de_tax_id", "fr_nir", "pl_pesel", "br_cpf", "in_aadhaar"],
        _NUMBER_DISGUISES,
    ),
}


def _lookalikes(draw: random.Random) -> dict[str, Callable[[], str]]:
    """Numbers and codes of things. Some have right check digits by chance, as they have in the world."""
    hexes = "0123456789abcdef"
    return {
        "order number, 8 to 12 digits": lambda: _digits(draw, draw.randrange(8, 13)),
        "order number, 13 to 19 digits": lambda: _digits(draw, draw.randrange(13, 20)),
        "grouped number": lambda: _grouped(_digits(draw, 16), draw.choice(" -"), 4, 4, 4),
        "milliseconds since 1970": lambda: str(1_732_641_793_123 + draw.randrange(10**11)),
        "time stamp": lambda: f"2026-{draw.randrange(1, 13):02}-{draw.randrange(1, 29):02} 17:23:13.{_digits(draw, 6)}",
        "UUID": lambda: _grouped("".join(draw.choices(hexes, k=32)), "-", 8, 4, 4, 4),
        "digest in hex": lambda: "".join(draw.choices(hexes, k=draw.choice([16, 40, 64]))),
        "base64": lambda: "".join(draw.choices(string.ascii_letters + string.digits + "+/", k=44)),
        "array of floats": lambda: str([draw.gauss(0, 100) for _ in range(8)]),
        "array of integers": lambda: str([draw.randrange(10**6) for _ in range(12)]),
        "version": lambda: f"v{draw.randrange(9)}.{draw.randrange(99)}.{draw.randrange(999)}-rc.{draw.randrange(9)}",
        "package with version": lambda: f"react-dom@{draw.randrange(20)}.{draw.randrange(9)}.{draw.randrange(99)}",
        "product code": lambda: (
            f"{''.join(draw.choices(string.ascii_uppercase, k=2))}-{_digits(draw, 5)}-{_digits(draw, 3)}"
        ),
        "EAN": lambda: _digits(draw, 13),
        "hardware address": lambda: ":".join(f"{draw.randrange(256):02x}" for _ in range(6)),
        "coordinates": lambda: f"{draw.uniform(-90, 90):.6f}, {draw.uniform(-180, 180):.6f}",
        "decorator": lambda: f"@app.{draw.choice(['get', 'post'])}('/x{draw.randrange(99)}')",
    }
