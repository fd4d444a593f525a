"""What a URL says of a Redis: one server, a Cluster, or servers that Sentinels watch over."""

from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from mlguard.errors import ConfigurationError

Kind = Literal["one", "cluster", "sentinel"]

_SUFFIXES: dict[str, Kind] = {"": "one", "+cluster": "cluster", "+sentinel": "sentinel"}

#: Schemes, whether they mean TLS, and what is at the other end. Valkey speaks the same protocol.
SCHEMES: dict[str, tuple[bool, Kind]] = {
    f"{name}{'s' if tls else ''}{suffix}": (tls, kind)
    for name in ("redis", "valkey")
    for tls in (False, True)
    for suffix, kind in _SUFFIXES.items()
}

_FORM = "write redis://[[user]:password@]host[:port][/database], or rediss:// for TLS"
_FORMS: dict[Kind, str] = {
    "one": _FORM,
    "cluster": "write redis+cluster://[[user]:password@]host[:port],host[:port], or rediss+cluster:// for TLS",
    "sentinel": "write redis+sentinel://[[user]:password@]host[:port],host[:port]/service[/database], or "
    "rediss+sentinel:// for TLS",
}
_PORTS: dict[Kind, int] = {"one": 6379, "cluster": 6379, "sentinel": 26379}
_FILES = frozenset(
    {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
)  # what a URL may say about TLS: it cannot be loosened


class Place(NamedTuple):
    """Where a server listens."""

    host: str
    port: int


class RedisAddress(NamedTuple):
    """Where Redis is.

    Attributes:
        kind: What it is.
        places: Of the server, of some nodes of the Cluster, or of the Sentinels.
        options: Of a connection, without where it goes.
        service: What the Sentinels call it.
    """

    kind: Kind
    places: tuple[Place, ...]
    options: dict[str, Any]
    service: str


def read_url(url: str, where: str) -> RedisAddress:
    """What a URL says. No part of it is ever quoted: a password may stand anywhere by mistake.

    Raises:
        ConfigurationError: It cannot be used.
    """
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except (ValueError, AttributeError, TypeError):
        parts = None
    if parts is None:
        raise ConfigurationError(f"{where} is no URL; {_FORM}")
    if parts.scheme not in SCHEMES:
        raise ConfigurationError(f"{where} has a scheme that is not supported; {_FORM}")
    tls, kind = SCHEMES[parts.scheme]
    login, _, hosts = parts.netloc.rpartition("@")
    places = tuple(_place(host, _PORTS[kind]) for host in hosts.split(","))
    service, database = _path(parts, kind)
    if None in places or (kind == "one" and len(places) > 1) or service is None or database is None or parts.fragment:
        raise ConfigurationError(f"{where} cannot be used; {_FORMS[kind]}")
    user, _, password = login.partition(":")
    options = {
        "tls": tls,
        "db": database,
        "username": unquote(user) or None,
        "password": unquote(password) or None,
        **({"ssl_check_hostname": True, "ssl_cert_reqs": "required", **_tls_files(query, where)} if tls else {}),
    }
    if query and not tls:
        raise ConfigurationError(f"{where} has an option that is not supported; with TLS: {', '.join(sorted(_FILES))}")
    return RedisAddress(kind, tuple(place for place in places if place is not None), options, service)


def _place(host: str, port: int) -> Place | None:
    try:
        parts = urlsplit(f"//{host}")
        given = parts.port
    except ValueError:
        return None
    return Place(parts.hostname, given or port) if parts.hostname and given != 0 else None


def _path(parts: SplitResult, kind: Kind) -> tuple[str | None, int | None]:
    """The name of the service and the number of the database; None for what cannot be."""
    rest = parts.path.removeprefix("/")
    service = ""
    if kind == "sentinel":
        service, _, rest = rest.partition("/")
    is_number = rest.isascii() and (rest or "0").isdigit() and len(rest) < 10
    database = int(rest or 0) if is_number else None
    if kind == "cluster" and database:  # it has only one
        database = None
    return (unquote(service) if service or kind != "sentinel" else None), database


def _tls_files(query: list[tuple[str, str]], where: str) -> dict[str, str]:
    files = dict(query)
    if len(files) < len(query) or not files.keys() <= _FILES:
        raise ConfigurationError(f"{where} has an option that is not supported; with TLS: {', '.join(sorted(_FILES))}")
    for option, file in files.items():
        if not Path(file).is_file():
            raise ConfigurationError(f"{where}: the file of {option} does not exist")
    return files
