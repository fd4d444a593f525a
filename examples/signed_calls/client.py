"""The service that calls: httpx signs each request, and a recorded one is worth nothing.

::

    SIGNING_SECRET='<secret>' python -m examples.signed_calls.client http://localhost:8000

``auth=HTTPSignature(...)`` is all that a client needs. It signs afresh whenever a request is sent.
"""

import os
import sys

import httpx

from mlguard.client import HTTPSignature

FLOWERS = {"features": [[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]]}


def main(url: str) -> None:
    """Call twice, and then replay the second call as somebody would who recorded it."""
    with httpx.Client(base_url=url, auth=HTTPSignature("billing-2025", os.environ["SIGNING_SECRET"])) as client:
        for _ in range(2):
            answer = client.post("/predict", json=FLOWERS)
            answer.raise_for_status()
            print("signed:  ", answer.status_code, answer.text)

        replay = client.send(answer.request, auth=None)  # the same signature once more
        print("replayed:", replay.status_code, replay.json()["title"])


if __name__ == "__main__":
    main(sys.argv[1])
