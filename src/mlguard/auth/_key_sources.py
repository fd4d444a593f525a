"""Where JWK Sets come from: a file, a URL, or the discovery document of an OpenID provider.

Each source is read in a thread, never on the event loop. What comes over the network is bounded in size and in time,
whatever the server does, and no redirect is followed.
"""

import asyncio
import ssl
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit

from mlguard.auth._key_sets import MAX_DOCUMENT, KeySetError, read_document
from mlguard.errors import ConfigurationError

_WELL_KNOWN = "/.well-known/openid-configuration"  # OpenID Connect Discovery 1.0, section 4
_SHOWN = 200  # characters of what a provider says


class KeySource(Protocol):
    """Where a JWK Set comes from."""

    def read(self, timeout: float) -> bytes:
        """The document as it is now, within so many seconds.

        Raises:
            KeySetError: It cannot be had.
            ConfigurationError: It never will be: the setting is wrong.
        """


class KeyFile:
    """A JWK Set in a file.

    Args:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return f"file {self._path.name!r}"

    def read(self, timeout: float) -> bytes:  # noqa: ARG002  # a file takes no time
        """The file's content."""
        try:
            with self._path.open("rb") as file:
                return file.read(MAX_DOCUMENT + 1)
        except OSError as error:
            raise KeySetError(f"the file cannot be read: {error.strerror}") from None


class KeyURL:
    """A JWK Set at a URL.

    Args:
        url: Where it is.

    Raises:
        ConfigurationError: The URL is not https, or httpx is not installed.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._where = checked_url("JWTAuth.from_jwks(url)", url)
        self._web = Web()

    def __str__(self) -> str:
        return _shown_url(self._where)

    def read(self, timeout: float) -> bytes:
        """What the URL answers."""
        return self._web.get(self._url, timeout=timeout)


class OpenIDProvider:
    """The JWK Set that an OpenID provider's discovery document points to.

    Args:
        issuer: The provider, spelled as in its tokens.

    Raises:
        ConfigurationError: The issuer is not an https URL, or httpx is not installed.
    """

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer
        self._where = checked_url("JWTAuth.from_oidc(issuer)", issuer)
        if self._where.query:
            raise ConfigurationError("JWTAuth.from_oidc(issuer) has no query: pass what the tokens have as iss")
        self._web = Web()

    def __str__(self) -> str:
        return _shown_url(self._where)

    def read(self, timeout: float) -> bytes:
        """The JWK Set, by way of the discovery document."""
        return self._web.get(self._issuer.rstrip("/") + _WELL_KNOWN, then=self._jwks_uri, timeout=timeout)

    def _jwks_uri(self, document: bytes) -> str:
        discovered = read_document(document, "discovery document")
        issuer, uri = discovered.get("issuer"), discovered.get("jwks_uri")
        if not isinstance(issuer, str) or not isinstance(uri, str):
            raise KeySetError("the discovery document has no issuer or no jwks_uri")
        if issuer != self._issuer:
            raise ConfigurationError(
                f"JWTAuth.from_oidc(issuer): the provider calls itself {issuer[:_SHOWN]!a}; "
                "if that is the right one, pass it exactly so, with or without a slash at its end"
            )
        # Only a provider on this machine may point to this machine.
        if _fault_of(uri, loopback=_is_loopback(self._where)):
            raise KeySetError("the jwks_uri of the discovery document is not an https URL")
        return uri


class Web:
    """A client for small documents.

    Raises:
        ConfigurationError: httpx is not installed.
    """

    def __init__(self) -> None:
        self._httpx = _httpx()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """Made once: loading the certificates of all authorities takes tens of milliseconds."""
        context: ssl.SSLContext = self._httpx.create_ssl_context()
        return context

    def get(self, url: str, *, then: Any = None, timeout: float) -> bytes:
        """What a URL answers, or what the URL answers that ``then`` finds in the answer, within ``timeout`` seconds.

        In an event loop of its own, because only there does one bound cover all of it: with a client that blocks, a
        server that sends a byte now and then is never too late.

        Raises:
            KeySetError: The answer is not a 200, is too large, is compressed, or does not come in time.
        """
        return asyncio.run(self._exchange(url, then, timeout, self._tls))

    async def _exchange(self, url: str, then: Any, seconds: float, tls: ssl.SSLContext) -> bytes:
        try:
            async with (
                asyncio.timeout(seconds),
                self._httpx.AsyncClient(verify=tls, follow_redirects=False, timeout=seconds) as client,
            ):
                answer = await self._get(client, url)
                return answer if then is None else await self._get(client, then(answer))
        except (KeySetError, ConfigurationError):
            raise
        except Exception as error:
            reason = f"no answer ({type(error).__name__})"  # its text may quote what the server sent
        raise KeySetError(reason)

    async def _get(self, client: Any, url: str) -> bytes:
        # Compressed, a small answer could unpack to any size.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with client.stream("GET", url, headers=headers) as response:
            if response.status_code != 200:
                raise KeySetError(f"the answer is a {response.status_code}, not a 200")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise KeySetError("the answer is compressed, although it was asked not to be")
            data = bytearray()
            async for chunk in response.aiter_raw():
                data += chunk
                if len(data) > MAX_DOCUMENT:
                    raise KeySetError(f"the answer is larger than {MAX_DOCUMENT} bytes")
        return bytes(data)


def _httpx() -> ModuleType:
    try:
        import httpx  # noqa: PLC0415  # an extra
    except ImportError:
        raise ConfigurationError(
            "keys by URL are fetched with httpx, which is not installed: pip install 'mlguard[oidc]'"
        ) from None
    return httpx


# URLs -----------------------------------------------------------------------------------------------------------------


def checked_url(setting: str, url: object) -> SplitResult:
    """A URL that keys may be fetched from: https, or this machine.

    Raises:
        ConfigurationError: It is another one, or has a password in it.
    """
    fault = _fault_of(url, loopback=True)
    if fault:
        raise ConfigurationError(f"{setting} {fault}")
    return urlsplit(str(url))


def _fault_of(url: object, *, loopback: bool) -> str | None:
    """What is wrong with a URL. It is not quoted: there may be a password in it."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else SplitResult("", "", "", "", "")
        _ = parts.port  # raises for one that is none
    except ValueError:
        return "is no URL"
    if not parts.hostname or parts.fragment or not str(url).isascii() or not str(url).isprintable() or " " in str(url):
        return "must be a URL such as 'https://login.example/keys'"
    if parts.username is not None or parts.password is not None:
        return "must not have a user or a password in it"
    if parts.scheme == "https" or (parts.scheme == "http" and loopback and _is_loopback(parts)):
        return None
    return "must be an https URL: who can change the keys on their way can sign any token"


def _is_loopback(url: SplitResult) -> bool:
    try:
        return url.hostname == "localhost" or ip_address(url.hostname or "").is_loopback
    except ValueError:
        return False


def _shown_url(url: SplitResult) -> str:
    """Without its query, which may hold what is not the log's business."""
    return f"{url.scheme}://{url.netloc}{url.path}"
