"""A ``requests`` session for secrets: no answer larger than a secret, and no connection that is kept."""

import io
from contextlib import closing
from typing import Any

from mlguard.secrets._answers import Unusable
from mlguard.secrets._reading import MAX_ANSWER, load_client


def open_session(*, source: str, extra: str, ca: str | None, proxies_for: str | None = None) -> Any:
    """A session that verifies certificates, reads no ``.netrc``, and keeps no connection.

    Reads are minutes apart, so little is lost; and processes that a server forks do not share a connection, on which
    one could read what another has asked for.

    Args:
        source: The class that needs it, for the error.
        extra: What brings ``requests``.
        ca: A file with the certificates that may sign the server's. None: the usual ones.
        proxies_for: A URL for which the proxies of the environment are used. None: there is no proxy.

    Raises:
        ConfigurationError: ``requests`` is not installed.
    """
    requests = load_client("requests", source=source, package="requests", extra=extra)

    class Limited(requests.adapters.BaseAdapter):  # type: ignore[misc,name-defined]  # imported when needed
        def send(self, request: Any, stream: bool = False, **options: Any) -> Any:  # noqa: ARG002  # requests' name
            with closing(requests.adapters.HTTPAdapter()) as connection:
                answer = connection.send(request, stream=True, **options)
                body = answer.raw.read(MAX_ANSWER + 1, decode_content=False)
                answer.raw.close()
            if len(body) > MAX_ANSWER:
                raise Unusable(f"it has answered with more than {MAX_ANSWER} bytes")
            answer.raw = _Body(body)
            return answer

        def close(self) -> None:
            """Do nothing: nothing is kept."""

    session = requests.Session()
    session.trust_env = False
    session.verify = ca or True
    session.proxies = requests.utils.get_environ_proxies(proxies_for) if proxies_for else {}
    session.headers["Accept-Encoding"] = "identity"  # what is compressed has no size that could be known
    session.mount("https://", Limited())
    session.mount("http://", Limited())
    return session


class _Body(io.BytesIO):
    """What has been read, where requests looks for what it is to read."""

    enforce_content_length = False

    def release_conn(self) -> None:
        """Do nothing: it has been released."""
