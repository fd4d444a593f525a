"""Alerts over HTTPS, signed so that whoever gets them knows where they are from."""

import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

from mlguard._numbers import seconds
from mlguard.auth.secrets import check_strength
from mlguard.errors import ConfigurationError, MLGuardError
from mlguard.monitoring._alert_windows import Alert
from mlguard.monitoring.alerts import Undelivered
from mlguard.secrets.rotating import Rotating, Values
from mlguard.settings import load_settings

#: Keys of a webhook, the current one first.
Keys = tuple[bytes, ...]

_PREFIX = "whsec_"
_MAKE = (
    "make one with: python -c \"import base64, secrets; print('whsec_' + "
    'base64.b64encode(secrets.token_bytes(32)).decode())"'
)


class Webhook:
    """Sends each alert to a URL, signed as Standard Webhooks 1.0.0 says (https://www.standardwebhooks.com).

    The body is JSON: ``type`` is the event's name, ``timestamp`` the time of the last one, and ``data`` has ``level``,
    ``count``, ``first``, ``facts`` and ``service``. Its HMAC-SHA-256 is in ``webhook-signature``, with the
    ``webhook-id``, which stays the same when an alert is tried again, and the ``webhook-timestamp`` of the attempt.
    Whoever receives it verifies that with a library of Standard Webhooks, and refuses old timestamps and ids that came
    before.

    While a secret is replaced, each alert has two signatures, one by each secret: give both, the new one first, or a
    :class:`Rotating`.

    Nothing that an event says decides where an alert goes. Certificates are verified, no redirect is followed, no proxy
    of the environment is used, and one attempt has ended after ``timeout`` seconds, whatever the other side sends; of
    its answer only the status and ``Retry-After`` are read. What is not a 2xx has failed; after a 410, and after a
    redirect, no further attempt is made.

    Args:
        url: Where to: https, or http on this machine. It is written to no log.
        secret: ``whsec_`` and 24 to 64 random bytes in base64, ``[new, old]``, or a ``Rotating`` with such values.
            None: ``MLGUARD_WEBHOOK_SECRET``, from the environment or from where secrets come from.
        timeout: Seconds for one attempt, up to 60. The look-up of the host's name is bounded by the system alone, and
            each address that it finds and that does not answer takes so long.
        ca: A file with the certificates that may sign the server's. None: the usual ones.
        service: Names this service in each alert.
        wall_clock: Seconds since 1970; for tests.

    Raises:
        ConfigurationError: When built: a setting that cannot work.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: "str | SecretStr | Sequence[str | SecretStr] | Rotating | None" = None,
        timeout: float = 10.0,
        ca: str | os.PathLike[str] | None = None,
        service: str = "",
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = _checked_url(url)
        if not isinstance(service, str) or not service.isprintable() or len(service) > 100:
            raise ConfigurationError("Webhook(service=...) is a name of up to 100 characters")
        self._timeout = seconds("Webhook(timeout=...)", timeout, most=60)
        self._ca = None if ca is None else os.fspath(ca)
        self._service = service
        self._wall_clock = wall_clock
        self._keys = _keys(secret)
        if self._ca is not None:
            _ = self._tls  # a file that cannot be read is noticed now

    def __call__(self, alert: Alert) -> None:
        """Send an alert, once. Blocks.

        Raises:
            Undelivered: It was not taken.
        """
        body = json.dumps(self._payload(alert), separators=(",", ":"), allow_nan=False).encode()
        try:
            keys = self._keys()
        except (MLGuardError, ConfigurationError) as error:
            raise Undelivered(f"the secret cannot be used now ({type(error).__name__})") from None
        status, wait = self._post(body, signed_headers(alert.id, int(self._wall_clock()), body, keys))
        if not 200 <= status < 300:
            # Gone for good, or somewhere else, which only a redirect says that nobody has signed.
            raise Undelivered(f"the answer is a {status}", for_good=status == 410 or 300 <= status < 400, wait=wait)

    def __repr__(self) -> str:
        return f"Webhook({self._url.hostname!r})"

    def _payload(self, alert: Alert) -> dict[str, Any]:
        return {
            "type": alert.event,
            "timestamp": alert.last.isoformat().replace("+00:00", "Z"),
            "data": {
                "level": alert.level,
                "count": alert.count,
                "first": alert.first.isoformat().replace("+00:00", "Z"),
                "facts": dict(alert.facts),
                "service": self._service,
            },
        }

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """Made once: loading the certificates of all authorities takes tens of milliseconds."""
        try:
            return ssl.create_default_context(cafile=self._ca)
        except (OSError, ValueError):
            raise ConfigurationError("Webhook(ca=...) is no readable file with certificates") from None

    def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, float]:
        """The status that one attempt is answered with, and the seconds to wait that the answer asks for."""
        connection = self._connection()
        # The time-out of a socket is for one read: who sends a byte now and then would never be too late.
        late = _Bound(connection, self._timeout)
        try:
            connection.connect()
            late.check()
            connection.request("POST", self._target, body, headers)
            answer = connection.getresponse()
            late.check()  # or the end of the connection is taken for that of the headers
            return answer.status, _wait(answer.headers.get("retry-after"))
        except (OSError, HTTPException, ValueError) as error:
            raise Undelivered(f"no answer ({type(error).__name__})") from None  # its text may quote the other side
        finally:
            late.cancel()
            connection.close()

    @property
    def _target(self) -> str:
        return (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")

    def _connection(self) -> HTTPConnection:
        host = self._url.hostname or ""
        if self._url.scheme == "http":
            return HTTPConnection(host, self._url.port, timeout=self._timeout)
        return HTTPSConnection(host, self._url.port, timeout=self._timeout, context=self._tls)


def signed_headers(alert_id: str, timestamp: int, body: bytes, keys: Keys) -> dict[str, str]:
    """The headers of a webhook. Its signature is an HMAC, which the standard library has: three lines of ours.

    The package ``standardwebhooks`` signs with one key at a time, decodes a secret without looking whether it is one,
    and is no dependency of a service for that. The tests verify with it.

    Args:
        alert_id: No point in it.
        timestamp: Of the attempt, in seconds since 1970.
        body: As it is sent.
        keys: One signature by each.
    """
    signed = b"%s.%d.%s" % (alert_id.encode(), timestamp, body)
    signatures = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys]
    return {
        "Content-Type": "application/json",
        "User-Agent": "mlguard",
        "webhook-id": alert_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


class _Bound:
    """Ends a connection after some seconds: whoever reads from it is told that it has ended.

    Args:
        connection: The connection.
        seconds: How long it may last, from now on.
    """

    def __init__(self, connection: HTTPConnection, seconds: float) -> None:
        self._connection = connection
        self._is_over = False
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def check(self) -> None:
        """Raise ``TimeoutError`` if it has lasted that long: while it is being connected, it cannot be ended."""
        if self._is_over:
            raise TimeoutError

    def cancel(self) -> None:
        """Let it be."""
        self._timer.cancel()

    def _end(self) -> None:
        self._is_over = True  # first: what connects only now is told by ``check``
        sock = self._connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):  # it has ended by itself, or is not connected yet
                sock.shutdown(socket.SHUT_RDWR)


def _wait(retry_after: str | None) -> float:
    """Seconds, if that is what it is. A date is not read."""
    text = (retry_after or "").strip()
    return float(text[:6]) if text.isascii() and text.isdigit() else 0.0


# Settings -------------------------------------------------------------------------------------------------------------


def _checked_url(url: object) -> SplitResult:
    """A URL that alerts may be sent to. It is not quoted: many have a token in them."""
    where = "Webhook(url)"
    try:
        parts = urlsplit(url) if isinstance(url, str) else SplitResult("", "", "", "", "")
        _ = parts.port  # raises for one that is none
    except ValueError:
        raise ConfigurationError(f"{where} is no URL") from None
    text = str(url)
    if not parts.hostname or parts.fragment or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigurationError(f"{where} is a URL such as 'https://pager.example/hooks/mlguard'")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(f"{where} has no user and no password in it: alerts are signed")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
        raise ConfigurationError(f"{where} is an https URL, or an http URL of this machine")
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _keys(secret: Any) -> Callable[[], Keys]:
    """The keys to sign with, asked for each time."""
    if isinstance(secret, Rotating):
        return secret.derive(_of_rotating)
    if secret is None:
        given: Sequence[Any] = [load_settings().secret("webhook_secret")]
        where = "MLGUARD_WEBHOOK_SECRET"
    else:
        given = [secret] if isinstance(secret, str | SecretStr) else secret
        where = "Webhook(secret=...)"
    if not isinstance(given, Sequence) or isinstance(given, bytes) or not 1 <= len(given) <= 2:
        raise ConfigurationError(f"{where} is a secret, or two of them, the new one first")
    keys = tuple([key_of(one, where=where) for one in given])
    return lambda: keys


def _of_rotating(values: Values) -> Keys:
    return tuple([key_of(value, where="Webhook(secret=...)") for value in values])


def key_of(secret: object, *, where: str) -> bytes:
    """The key in a secret as Standard Webhooks writes it.

    Raises:
        ConfigurationError: It is none, or can be guessed.
    """
    text = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    if not isinstance(text, str) or not text.startswith(_PREFIX):
        raise ConfigurationError(f"{where} begins with {_PREFIX}; {_MAKE}")
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError(f"{where} is {_PREFIX} and base64; {_MAKE}") from None
    if not 24 <= len(key) <= 64:
        raise ConfigurationError(f"{where} has 24 to 64 bytes in base64; {_MAKE}")
    check_strength(text.encode(), where=where)
    check_strength(text.removeprefix(_PREFIX).encode(), where=where)
    check_strength(key, where=where)
    return key
