# that they look alike is the point
"""What is found in texts, and what only looks like it."""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest

from mlguard import ConfigurationError, PIISearch
from mlguard.auth.key_format import make_key
from mlguard.privacy import (
    _card_numbers,
    _credentials,
    _emails,
    _glances,
    _ibans,
    _ip_addresses,
    _national_ids,
    _phone_numbers,
    pii_search,
)

SEARCH = PIISearch()
NO_EXTRAS = PIISearch(kinds={"email", "card", "iban", "ip", "gb_nino", "secret", "bearer", "jwt", "api_key", "aws_key"})
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJlLW9mLXRoaXM"


def found(text: str, search: PIISearch = SEARCH) -> list[tuple[str, str]]:
    return [(span.kind, text[span.start : span.end]) for span in search.spans(text)]


EMAILS = [
    "jane.doe+news@mail.example.co.uk",
    "o'brien@example.ie",
    "jane_doe-1@xn--bcher-kva.example",
    "jürgen@bücher.example",
    "пример@почта.рф",
    "उपयोगकर्ता@डाटा.भारत",
    "用户@例子.公司",
    "jane＠example。org",
    "jane%40example.org",
    "ja\u200bne@exam\u00adple.org",
    "A@B.CD",
]


@pytest.mark.parametrize("email", EMAILS)
@pytest.mark.parametrize(
    "around", ["{}", "<{}>", "to '{}', please", '{{"to":"{}"}}', "?to={}&x=1", "mailto:{}.", "a/{}/b"]
)
def test_mail_addresses_are_found(email: str, around: str) -> None:
    """Of every script, and wherever they stand."""
    assert found(around.format(email)) == [("email", email)]


@pytest.mark.parametrize(
    "text",
    ["@", "a@", "@b.c", "user@localhost", "react@18.2.0", "logo@2x.png", "a @ b.com", "@decorator.name", "x@1.2.3.4"],
)
def test_what_only_has_an_at_is_no_mail_address(text: str) -> None:
    """Packages with versions, pictures of two sizes, decorators, hosts without a top level."""
    assert found(text, PIISearch(kinds="email")) == []


CARDS = [
    "4111111111111111",
    "4111 1111 1111 1111",
    "4111-1111-1111-1111",
    "5555.5555.5555.4444",
    "378282246310005",
    "3782 822463 10005",
    "3782-822463-10005",
    "30569309025904",
    "6011111111111117",
    "3530111333300000",
    "2223003122003222",
    "6205500000000000004",
    "４１１１\u3000１１１１\u3000１１１１\u3000１１１１",
    "٤١١١١١١١١١١١١١١١",
    "4111\u202f1111\u202f1111\u202f1111",
    "4111\u20111111\u20111111\u20111111",
    "4\u200b1\u200b1\u200b1\u200b1\u200b1\u200b1\u200b1\u200b1\u200b1\u200b1\u200b1\u200b1\u200b1\u200b1\u200b1",
]


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("around", ["{}", "card {}.", "2026-11-26 {} 12/27", "1234 {} 123", "[{}]", "x_{}", "№{}, 5"])
def test_cards_are_found(card: str, around: str) -> None:
    """In one piece or in groups, in the digits of every script, beside other numbers."""
    assert ("card", card) in found(around.format(card), PIISearch(kinds="card"))


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112",  # no Luhn digit
        "1111111111111117",  # no issuer
        "41111111111111110",  # no Visa has 17 digits
        "0.4111111111111111",
        "4111111111111111.5",
        "x4111111111111111",
        "4111111111111111a",
        "14111111111111111",
        "4111 1111 1111 1112",
        "4111 1111-1111 1111",
        "1732641793123456",  # microseconds since 1970
        "4111\n1111\n1111\n1111",
    ],
)
def test_other_long_numbers_are_no_cards(text: str) -> None:
    """Wrong digit, issuer or length, a part of something longer, decimals, times."""
    assert found(text, PIISearch(kinds="card")) == []


IBANS = [
    "DE89370400440532013000",
    "DE89 3704 0044 0532 0130 00",
    "de89 3704 0044 0532 0130 00",
    "GB82 WEST 1234 5698 7654 32",
    "GB82-WEST-1234-5698-7654-32",
    "FR1420041010050500013M02606",
    "NO9386011117947",
    "MT84MALT011000012345MTLCAST001S",
    "BR1800360305000010009795493C1",
    "ＤＥ８９ ３７０４ ００４４ ０５３２ ０１３０ ００",
]


@pytest.mark.parametrize("iban", IBANS)
@pytest.mark.parametrize("around", ["{}", "IBAN: {}, BIC", "auf {}.", '"{}"', "2026-11-26 {} 100.00 EUR"])
def test_ibans_are_found(iban: str, around: str) -> None:
    """With and without spaces, and with letters within."""
    assert found(around.format(iban), PIISearch(kinds="iban")) == [("iban", iban)]


@pytest.mark.parametrize(
    "text",
    [
        "DE89370400440532013001",  # wrong check digits
        "XX89370400440532013000",  # no country
        "DE8937040044053201300",  # too short
        "DE893704004405320130000",  # too long
        "DE89 3704  0044 0532 0130 00",
        "DE89\n3704 0044 0532 0130 00",
        "XDE89370400440532013000",
        "DE89 3704 0044 0532",
    ],
)
def test_other_codes_are_no_ibans(text: str) -> None:
    """Wrong check digits, country, length or gaps."""
    assert found(text, PIISearch(kinds="iban")) == []


@pytest.mark.parametrize(
    "address",
    [
        "192.0.2.1",
        "10.0.0.255",
        "1.2.3.4",
        "2001:db8::1",
        "2a02:8109:9a40:1234:5678:9abc:def0:1234",
        "fe80::1ff:fe23:4567:890a",
        "::ffff:192.0.2.1",
        "192。0。2。1",
    ],
)
@pytest.mark.parametrize("around", ["{}", "from {}, port 1", "[{}]:80", '"{}"', "x={} y"])
def test_addresses_are_found(address: str, around: str) -> None:
    """Of both versions."""
    assert found(around.format(address), PIISearch(kinds="ip")) == [("ip", address)]


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "0.0.0.0",
        "::1",
        "::",
        "v1.2.3.4",
        "1.2.3.4.5",
        "1.2.3",
        "256.1.1.1",
        "01.2.3.4a",
        "12:34:56",
        "x[1::2]",
        "std::vector",
        "a::b",
        "00:1a:2b:3c:4d:5e",
        "dead:beef",
        "...",
        ":::::::::",
    ],
)
def test_what_names_no_machine_is_no_address(text: str) -> None:
    """Loopback and wildcards, versions, times, slices, names of C++, hardware addresses."""
    assert found(text, PIISearch(kinds="ip")) == []


SECRETS = [
    ("password={}", "secret", "hunter2"),
    ("{{'password': ['{}']}}", "secret", "hunter2"),  # as a query is parsed
    ("password = ( b'{}', 1)", "secret", "hunter2"),
    ("password = '{}' x", "secret", "correct horse"),
    ('{{"password": "{}"}}', "secret", 'a\\"b c'),
    ('{{\\"password\\": \\"{}\\"}}', "secret", "a b"),
    ("?access_token={}&x=1", "secret", "abc123"),
    ("PASSWD: {}", "secret", "x"),
    ("passwort: {}", "secret", "x"),
    ("aws_secret_access_key={}", "secret", "wJalrXUtnFEMI/K7MDENG"),
    ("clientSecret: {}", "secret", "q"),
    ("X-API-Key: {}", "secret", "q"),
    ("apikey={}", "secret", "q"),
    ("authorization: Digest {}", "secret", "abc"),
    ("(b'authorization', b'{}')", "secret", "Bearer abc"),
    ("'authorization': '{}'", "secret", "Basic YTpi"),
    ("Cookie: {}", "secret", "a=b; c=d"),
    ("Set-Cookie: {}\nDate: x", "secret", "a=b; Path=/"),
    ("pass\u200bword={}", "secret", "hunter2"),
    ("got Bearer {} from", "bearer", "aaaaaaaaaaaaaaa1.b-c_d"),
    ("postgres://me:{}@db/x", "url_password", "p:4ss/w#rd"),
    ("postgres://me:{}@db/x", "url_password", "p@ss@word"),
    ("{}", "jwt", JWT),
    ("token {} ends", "jwt", JWT),
    ("{}", "jwt", JWT.rsplit(".", 1)[0] + "."),
    ("{}", "aws_key", "AKIAIOSFODNN7EXAMPLE"),
    ("{}", "api_key", "ghp_" + "a1" * 18),
    ("({})", "api_key", make_key("live")[1]),
    ("({})", "api_key", make_key("test")[1]),
    ("{}", "private_key", "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----"),
    ("{}", "private_key", "-----BEGIN PGP PRIVATE KEY BLOCK-----\nMIIE"),
    ("{}", "private_key", "-----BEGIN PRIVATE KEY-----\n-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----"),
    ("x {}", "private_key", "-----BEGIN PRIVATE KEY-----\\nMIIE\\n-----END PRIVATE"),
]


@pytest.mark.parametrize(("around", "kind", "secret"), SECRETS)
def test_secrets_are_found(around: str, kind: str, secret: str) -> None:
    """By the name before them, or by their own form; the name stays."""
    assert found(around.format(secret)) == [(kind, secret)]


@pytest.mark.parametrize(
    "text",
    [
        "prompt_tokens: 12",
        "the password is wrong",
        "passing=3 keyboard=1 monkey=1 key=3",
        "bearer authentication is needed",
        "Bearer of-bad-and-of-good-news",
        "secretary: Jane",
        "password=",
        "https://example.org:8000/a@b",
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----",
        "eyJub3QgYSB0b2tlbg.only-one-dot-here",
        "a-sentence-with-twenty-and-more-characters",
        "AKIAIOSFODNN7EXAMPLEX",
    ],
)
def test_what_only_speaks_of_secrets_is_none(text: str) -> None:
    """Counts of tokens, prose, public keys, words that begin alike."""
    assert found(text, PIISearch(kinds=pii_search.SECRET_KINDS)) == []


@pytest.mark.parametrize("nino", ["AB123456C", "AB 12 34 56 C", "ab123456c"])
def test_national_insurance_numbers_are_found(nino: str) -> None:
    """By their form alone, which excludes some letters."""
    assert found(f"NI {nino},", NO_EXTRAS) == [("gb_nino", nino)]
    assert found("QQ123456C GB123456A AB123456E XAB123456C BO123456C", NO_EXTRAS) == []


IDS = [
    ("us_ssn", "536-90-4399", "536904399"),
    ("us_ssn", "536 90 4399", "666-90-4399"),
    ("de_tax_id", "86095742719", "86095742718"),
    ("de_tax_id", "86 095 742 719", "86 095 742 718"),
    ("fr_nir", "295109912611193", "295109912611199"),
    ("fr_nir", "2 95 10 99 126 111 93", "2 95 10 99 126 111 99"),
    ("es_dni", "54362315K", "54362315Z"),
    ("es_dni", "54362315-k", "54362315"),
    ("es_nie", "X2482300W", "X2482300A"),
    ("it_fiscal_code", "RCCMNL83S18D969H", "RCCMNL83S18D969"),
    ("pl_pesel", "44051401359", "44051401358"),
    ("br_cpf", "390.533.447-05", "390.533.447-04"),
    ("br_cpf", "39053344705", "39053344704"),
    ("se_personnummer", "880320-0016", "880320-0018"),
    ("se_personnummer", "19880320-0016", "8803200018"),
    ("in_aadhaar", "2341 2341 2346", "234123412346"),
    ("nl_bsn", "111222333", "111222334"),
]


@pytest.mark.parametrize(("kind", "valid", "other"), IDS)
def test_national_ids_are_found(kind: str, valid: str, other: str) -> None:
    """As they are written, and with the right check digits."""
    pytest.importorskip("stdnum")
    search = PIISearch(kinds={kind})
    assert found(f"id {valid}, 7", search) == [(kind, valid)]
    assert found(f"id {other}, 7", search) == []
    assert found(f"x{valid}", search) == []


@pytest.mark.parametrize(
    ("text", "phone"),
    [
        ("call +49 30 901820.", "+49 30 901820"),
        ("+1 (415) 555-2671", "+1 (415) 555-2671"),
        ("tel:+442079460958", "+442079460958"),
        ("+33 6 12 34 56 78 2026-11-26", "+33 6 12 34 56 78"),
        ("＋４９ ３０ ９０１８２０", "＋４９ ３０ ９０１８２０"),
        ("+91\u00a098765\u00a043210", "+91\u00a098765\u00a043210"),
    ],
)
def test_phone_numbers_are_found(text: str, phone: str) -> None:
    """With a country code everywhere."""
    pytest.importorskip("phonenumbers")
    assert found(text, PIISearch(kinds="phone")) == [("phone", phone)]


def test_regions_have_numbers_without_a_country_code() -> None:
    """They are found where a region is named, and dates and decimals are none."""
    pytest.importorskip("phonenumbers")
    german = PIISearch(kinds="phone", regions=("DE", "US"))
    text = "030 901820 oder (415) 555-2671 am 2026-11-26 17 mit 12.345678901, 5.1234567890"
    assert [phone for _, phone in found(text, german)] == ["030 901820", "(415) 555-2671"]
    assert found(text, PIISearch(kinds="phone")) == []
    assert found("+49 30 12 +1 999 +999 1234567 0000000000", german) == []


@pytest.mark.parametrize("regions", [("DEU",), ("de",), ("",), ["DE"] * 9, "DE"])
def test_regions_that_cannot_be_are_refused(regions: object) -> None:
    """Three letters, small letters, too many, one text."""
    pytest.importorskip("phonenumbers")
    with pytest.raises(ConfigurationError, match="regions="):
        PIISearch(regions=regions)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [("phone", _phone_numbers, "phonenumbers"), ("us_ssn", _national_ids, "stdnum")],
)
def test_a_missing_extra_is_named(
    kind: str, module: ModuleType, extra: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Asking for what needs it is an error; without asking it is left out, and the log says so once."""
    monkeypatch.setattr(module, "is_installed", lambda: False)
    pii_search._say_missing.cache_clear()
    with pytest.raises(ConfigurationError, match=re.escape(f"mlguard[{extra}]")):
        PIISearch(kinds={kind})
    with caplog.at_level(logging.INFO, logger="mlguard"):
        search = PIISearch()
        assert PIISearch().kinds == search.kinds
    assert len([line for line in caplog.messages if f"mlguard[{extra}]" in line]) == 1
    assert found("536-90-4399 +49 30 901820") == found("536-90-4399 +49 30 901820", SEARCH)
    if kind == "us_ssn":
        assert kind not in search.kinds
    else:
        with pytest.raises(ConfigurationError, match="regions="):
            PIISearch(regions=("DE",))


@pytest.mark.parametrize("kinds", [[], ["e-mail"], "phones", [None]])
def test_kinds_that_there_are_not_are_refused(kinds: object) -> None:
    """A typing error does not make an empty search."""
    with pytest.raises(ConfigurationError, match="kinds="):
        PIISearch(kinds=kinds)  # type: ignore[arg-type]


def test_only_the_kinds_that_are_asked_for_are_found() -> None:
    """Each kind alone finds its own and nothing else."""
    text = f"jane@example.org 4111111111111111 DE89370400440532013000 192.0.2.1 AB123456C password=x {JWT} 2001:db8::1"
    text += " RCCMNL83S18D969H https://a:b@c -----BEGIN PRIVATE KEY----- Bearer abcdefghijklmnop1"
    for kind in ("email", "card", "iban", "ip", "gb_nino", "secret", "jwt", "url_password", "private_key", "bearer"):
        assert {name for name, _ in found(text, PIISearch(kinds=kind))} == {kind}


def test_other_finders_find_too() -> None:
    """Theirs count like ours, within the text; something without a method find is refused."""

    class Names:
        def find(self, text: str) -> list[tuple[int, int, str]]:
            return [(-5, 4, "name"), (5, 99, "name")]

    assert found("Jane and", PIISearch(finders=[Names()])) == [("name", "Jane"), ("name", "and")]  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="finders="):
        PIISearch(finders=[print])  # type: ignore[list-item]


def test_the_repr_says_what_is_looked_for() -> None:
    """Kinds, in order."""
    assert repr(PIISearch(kinds={"ip", "email"})) == "PIISearch(kinds=['email', 'ip'])"


# Time in proportion to the length -------------------------------------------------------------------------------------

HOSTILE = [
    "@",
    "a@a.",
    "a.a@",
    "%40",
    "a%40a.a",
    "1 ",
    "1-",
    "1.",
    "1",
    "4111 ",
    "4111111111111111 ",
    "4111-1111 ",
    "+1 ",
    "+49 30 901820 ",
    "(((1",
    "1\u200b",
    "\u200b",
    "é1",
    "DE89 ",
    "DE89 3704 ",
    "de89de89",
    "AB 12 ",
    ":",
    "::",
    "a:",
    "abcd:",
    "1.2.3.4",
    "://",
    "://a:",
    "://a:b@",
    "://a:@@",
    "password=",
    "password='",
    'password="\\',
    "password",
    "passpass=",
    "token:",
    "cookie: ",
    "cookie=a",
    "api_key=",
    "key",
    "bearer ",
    "bearer+",
    "bearer+a",
    "bearer aaaaaaaaaaaaaaaaaaaaa+",
    "Bearer 1+",
    "authorization: bearer ",
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN ",
    "-----BEGIN A",
    "-----END",
    "eyJ",
    "eyJ.",
    "eyJaaaaaaaaaaaaaaaaaaaaa.",
    "sk-",
    "ghp_aaaaaaaaaaaaaaaaaaaaa ",
    "mlg_live_",
    "AKIA",
    "aaaaaa00a00a000a",
    "aa000000a",
    "2026-11-26 17",
    "12345678Z",
    "\\",
    '"',
]


MODULES = (_card_numbers, _credentials, _emails, _glances, _ibans, _ip_addresses, _national_ids, _phone_numbers)


class Counting:
    """A pattern that counts its calls and the characters of what it matches."""

    def __init__(self, pattern: re.Pattern[Any], steps: Counter[str]) -> None:
        self._pattern = pattern
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._pattern, name)

        def counted(*arguments: Any) -> Any:
            self._steps["steps"] += 1
            result = method(*arguments)
            return self._iterated(result) if name == "finditer" else self._match(result)

        return counted if callable(method) else method

    def _match(self, match: Any) -> Any:
        if isinstance(match, re.Match):
            self._steps["steps"] += match.end() - match.start()
        return match

    def _iterated(self, matches: Iterator[Any]) -> Iterator[Any]:
        for match in matches:
            self._steps["steps"] += 1
            yield self._match(match)


def counting(value: Any, steps: Counter[str]) -> Any:
    """The value with all patterns in it replaced by counting ones."""
    if isinstance(value, re.Pattern):
        return Counting(value, steps)
    if isinstance(value, dict):
        return {key: counting(one, steps) for key, one in value.items()}
    if type(value) is tuple:
        return tuple(counting(one, steps) for one in value)
    return value


@pytest.mark.parametrize("piece", HOSTILE)
def test_twice_the_text_is_about_twice_the_work(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What patterns are asked and what they read grows no faster than the text, whatever it repeats."""
    steps: Counter[str] = Counter()
    for module in MODULES:
        for name, value in list(vars(module).items()):
            if name.isupper():
                monkeypatch.setattr(module, name, counting(value, steps))
    counts = []
    for times in (400, 800):
        steps.clear()
        NO_EXTRAS.spans(piece * times)
        counts.append(steps["steps"])
    assert counts[1] <= 2.4 * counts[0] + 100


PATTERNS = [value for module in MODULES for value in vars(module).values() if isinstance(value, re.Pattern)]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: str(pattern.pattern)[:40])
def test_no_pattern_repeats_a_repetition_without_bounds(pattern: re.Pattern[str]) -> None:
    """There is no (a+)+ in which a processor could get lost: each pattern takes time in proportion to what it reads."""
    parser = pytest.importorskip("re._parser")

    def unbounded(parsed: object, inside: bool) -> bool:
        if isinstance(parsed, parser.SubPattern):
            return any(unbounded(one, inside) for one in parsed)
        if not isinstance(parsed, tuple | list):
            return False
        name = str(parsed[0]) if parsed else ""
        if name in {"MAX_REPEAT", "MIN_REPEAT"}:
            _, most, inner = parsed[1]
            endless = most is parser.MAXREPEAT
            return (endless and inside) or unbounded(inner, inside or endless)
        return any(unbounded(one, inside) for one in parsed)

    ambiguous = unbounded(parser.parse(pattern.pattern, pattern.flags), False)
    # Labels of a domain: the dot between them belongs to none, and the reach is bounded.
    assert not ambiguous or pattern is _emails._DOMAIN


def test_parts_with_digits_do_not_overlap() -> None:
    """However many numbers stand close together, each character is searched once."""
    for piece in ("1234567 ", "1234567a", "1234567,,,,", "1.2.3.4;", "1234567,,,,,,,,,,"):
        text = piece * 100
        parts = _glances.Glance(text).around_digits()
        assert parts
        assert all(one.end < other.start for one, other in pairwise(parts))
