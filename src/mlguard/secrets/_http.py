"""A ``requests`` session for secrets: no answer larger than a secret, and nothing of the environment."""

import io
from typing import Any

from mlguard.secrets._reading import MAX_ANSWER, Unusable, load_client


def open_session(*, source: str, extra: str, ca: str | None) -> Any:
    """A session that verifies certificates, and never reads ``.netrc`` or a proxy from the environment.

    Args:
        source: The class that needs it, for the error.
        extra: What brings ``requests``.
        ca: A file with the certificates that may sign the server's. None: the usual ones.

    Raises:
        ConfigurationError: ``requests`` is not installed.
    """
    requests = load_client("requests", source=source, package="requests", extra=extra)

    class Limited(requests.adapters.HTTPAdapter):  # type: ignore[misc,name-defined]  # imported when needed
        def send(self, request: Any, stream: bool = False, **options: Any) -> Any:  # noqa: ARG002  # requests' name
            answer = super().send(request, stream=True, **options)
            body = answer.raw.read(MAX_ANSWER + 1, decode_content=False)
            if len(body) > MAX_ANSWER:
                answer.close()
                raise Unusable(f"it has answered with more than {MAX_ANSWER} bytes")
            answer.raw = _Body(body)
            return answer

    session = requests.Session()
    session.trust_env = False
    session.verify = ca or True
    session.headers["Accept-Encoding"] = "identity"  # what is compressed has no size that could be known
    session.mount("https://", Limited())
    session.mount("http://", Limited())
    return session


class _Body(io.BytesIO):
    """What has been read, where requests looks for what it is to read."""

    enforce_content_length = False

    def release_conn(self) -> None:
        """Do nothing: it has been released."""
