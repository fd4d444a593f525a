"""One request to an ASGI app in this process: no socket, no HTTP client, nothing timed but the app."""

from typing import Any

from starlette.types import ASGIApp, Message

_CHUNK = 65_536  # bytes that uvicorn hands over at a time


class Post:
    """The same POST request again and again.

    Args:
        app: Whom to ask.
        path: The endpoint.
        body: JSON.
        headers: More headers, beside those that every client sends.
    """

    def __init__(self, app: ASGIApp, path: str, body: bytes, headers: dict[str, str]) -> None:
        self._app = app
        sent = {
            "host": "127.0.0.1:8000",
            "accept": "*/*",
            "accept-encoding": "gzip, deflate",
            "connection": "keep-alive",
            "user-agent": "python-httpx/0.28.1",
            "content-length": str(len(body)),
            "content-type": "application/json",
            **headers,
        }
        self._scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 8_000),
        }
        starts = range(0, len(body), _CHUNK)
        self._messages: list[Message] = [
            {"type": "http.request", "body": body[at : at + _CHUNK], "more_body": at + _CHUNK < len(body)}
            for at in starts
        ]

    async def __call__(self) -> tuple[int, bytes]:
        """Send it.

        Returns:
            The status and the body of the answer.
        """
        messages = iter(self._messages)
        status = 0
        parts = []

        async def receive() -> Message:
            return {**next(messages, {"type": "http.disconnect"})}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        await self._app({**self._scope, "state": {}}, receive, send)
        return status, b"".join(parts)
