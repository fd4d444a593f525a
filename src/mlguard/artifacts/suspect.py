"""A service that may run a copy of a model, asked for labels as by any of its callers."""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import orjson

from mlguard._numbers import whole
from mlguard.artifacts.watermark import Rows

# A suspect is no friend. JSON of many empty lists takes thirty times as much memory as it has bytes.
_LARGEST = 1 << 22  # bytes of an answer


class SuspectServiceError(Exception):
    """The service gave no answer that labels could be read from. The text has no part of what it said."""


class SuspectService:
    """Asks a service over HTTP for the labels of rows, for ``Watermark.verify``.

    ::

        with httpx.Client(headers={"X-API-Key": key}) as client:
            evidence = mark.verify(SuspectService("https://api.example.com/predict", client))

    Args:
        url: Where predictions are asked with POST.
        client: An ``httpx.Client``: its headers, time-outs and certificates count. Redirects are not followed, or the
            service could have its headers, and the key in them, sent anywhere.
        send: Makes the JSON body of rows, shape (rows, columns). By default ``{"features": rows}``.
        read: Finds the labels in the decoded JSON of an answer. By default the first member that is a list is taken.
            A label may stand alone, or as ``{"label": …}``, or in a list of those, the best first. None, and a text
            that is no label, count as no match.
        within: Whole seconds that the body of an answer may take; the time-outs of ``client`` are between two pieces. A
            service that drips its headers, or never stops to say that it will continue, is not stopped by this.

    Raises:
        ConfigurationError: ``within`` is no whole number of at least 1.
    """

    def __init__(
        self,
        url: str,
        client: Any,
        *,
        send: Callable[[Rows], Any] | None = None,
        read: Callable[[Any], Sequence[Any]] | None = None,
        within: int = 60,
    ) -> None:
        self._url = url
        self._client = client
        self._send = send or _features
        self._read = read or _first_list
        self._within = whole("SuspectService(within=...)", within, least=1)

    def __call__(self, rows: Rows) -> list[Any]:
        """The labels of rows.

        Args:
            rows: Shape (rows, columns).

        Raises:
            SuspectServiceError: The answer has another status than 200, is too large, is compressed, takes too long, or
                has no labels.
            httpx.HTTPError: There was no answer.
        """
        body = orjson.dumps(self._send(rows), option=orjson.OPT_SERIALIZE_NUMPY)
        status, content = self._post(body)
        if status != 200:
            raise SuspectServiceError(f"the service answered {status}")
        try:
            answer = orjson.loads(content)
        except ValueError:
            answer = None
        if answer is None:
            raise SuspectServiceError("the service answered something else than JSON")
        try:
            labels = [*self._read(answer)]
        except (AttributeError, TypeError, LookupError, StopIteration):
            labels = None
        if labels is None:
            raise SuspectServiceError("no labels were found in the answer; pass read=, which finds them")
        return [_label(one) for one in labels]

    def _post(self, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        content = bytearray()
        with self._client.stream("POST", self._url, content=body, headers=headers, follow_redirects=False) as response:
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                # It was not asked for, and a few hundred bytes of it, compressed twice, can be gigabytes.
                raise SuspectServiceError("the answer is compressed")
            until = monotonic() + self._within
            for chunk in response.iter_raw():  # as it comes: gathered into larger pieces, a slow one would be seen late
                content += chunk
                if len(content) > _LARGEST:
                    raise SuspectServiceError(f"the answer is larger than {_LARGEST} bytes")
                if monotonic() > until:
                    raise SuspectServiceError(f"the answer took longer than {self._within} seconds")
        return response.status_code, bytes(content)


def _features(rows: Rows) -> dict[str, Rows]:
    return {"features": rows}


def _first_list(answer: Any) -> Sequence[Any]:
    if isinstance(answer, list):
        return answer
    found: Sequence[Any] = next(member for member in answer.values() if isinstance(member, list))
    return found


def _label(told: Any) -> Any:
    """The label in what is told of one row, the best one first."""
    if isinstance(told, list):
        told = told[0] if told else None
    if isinstance(told, dict):
        told = told.get("label")
    return told if isinstance(told, str | int) else None
