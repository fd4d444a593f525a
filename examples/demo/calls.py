"""The calls that the session is made of."""

import json
import time
from collections.abc import Sequence

import httpx

from examples.demo.credentials import Credentials
from mlguard.client import HTTPSignature

# fmt: off
ZERO = [
    0, 0,  5, 13,  9,  1, 0, 0,
    0, 0, 13, 15, 10, 15, 5, 0,
    0, 3, 15,  2,  0, 11, 8, 0,
    0, 4, 12,  0,  0,  8, 8, 0,
    0, 5,  8,  0,  0,  9, 8, 0,
    0, 4, 11,  0,  1, 12, 7, 0,
    0, 2, 14,  5, 10, 12, 0, 0,
    0, 0,  6, 13, 10,  0, 0, 0,
]
ONE = [
    0, 0,  0, 12, 13,  5, 0, 0,
    0, 0,  0, 11, 16,  9, 0, 0,
    0, 0,  3, 15, 16,  6, 0, 0,
    0, 7, 15, 16, 16,  2, 0, 0,
    0, 0,  1, 16, 16,  3, 0, 0,
    0, 0,  1, 16, 16,  6, 0, 0,
    0, 0,  1, 16, 16,  6, 0, 0,
    0, 0,  0, 11, 16, 10, 0, 0,
]
# fmt: on
BLACK = [0] * 64
SECONDS_TO_REVOKE = 1.0
TOO_BRIGHT = 4242.4242  # a value that can be recognised, wherever it comes out


class UnexpectedError(Exception):
    """Something went otherwise than it should."""


class Caller:
    """Calls the service, with the secrets of everybody.

    Args:
        http: A client with the service's URL.
        keys: The secrets.
    """

    def __init__(self, http: httpx.Client, keys: Credentials) -> None:
        self._http = http
        self.keys = keys

    def predict(self, features: object, *, key: str | None = None) -> httpx.Response:
        """Ask for a prediction with a key: Alice's, or another one, or "" for none."""
        return self._send(json.dumps({"features": features}).encode(), self.keys.alice if key is None else key)

    def predict_pixel(self, token: str) -> httpx.Response:
        """Ask about an image whose pixel in column 12 is this JSON token, as it stands."""
        tokens = [*map(str, ZERO[:12]), token, *map(str, ZERO[13:])]
        return self._send(b'{"features": [%s]}' % ", ".join(tokens).encode(), self.keys.alice)

    def _send(self, body: bytes, key: str) -> httpx.Response:
        headers = {"Content-Type": "application/json"} | ({"X-API-Key": key} if key else {})
        return self._http.post("/predict", content=body, headers=headers)

    def revoked(self) -> httpx.Response:
        """Use a key while it holds, and after it was revoked: it holds for a second more at most."""
        _expect_digits(self.predict(ZERO, key=self.keys.erin), "0")
        self.keys.revoke("erin")
        deadline = time.monotonic() + SECONDS_TO_REVOKE
        while (answer := self.predict(ZERO, key=self.keys.erin)).status_code == 200 and time.monotonic() < deadline:
            time.sleep(0.02)
        return answer

    def log_in(self, password: str) -> httpx.Response:
        """Ask for tokens with Dora's name and a password."""
        return self._http.post("/token", data={"username": "dora", "password": password})

    def token(self) -> httpx.Response:
        """Log in, and ask with the token that comes of it."""
        answer = self._predict_with_token(self._tokens(self.log_in(self.keys.dora))[0])
        _expect_digits(answer, "1")
        return answer

    def refreshed_twice(self) -> httpx.Response:
        """Log in, renew the tokens, and then use the old refresh token once more, as a thief would."""
        _, refresh = self._tokens(self.log_in(self.keys.dora))
        self._tokens(self._refresh(refresh))
        return self._refresh(refresh)

    def token_of_a_stolen_session(self) -> httpx.Response:
        """Ask with the newest token of that session."""
        return self._predict_with_token(self.keys.tokens[-2] if self.keys.tokens else "")

    def _refresh(self, refresh_token: str) -> httpx.Response:
        return self._http.post("/token/refresh", data={"refresh_token": refresh_token})

    def _tokens(self, answer: httpx.Response) -> tuple[str, str]:
        if answer.status_code != 200:
            raise UnexpectedError(f"expected tokens, got {answer.status_code}")
        tokens = answer.json()
        pair = str(tokens["access_token"]), str(tokens["refresh_token"])
        self.keys.tokens.extend(pair)
        return pair

    def _predict_with_token(self, token: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self._http.post("/predict", json={"features": ONE}, headers=headers)

    def good_prediction(self) -> httpx.Response:
        """Ask about one image."""
        answer = self.predict(ZERO)
        _expect_digits(answer, "0")
        if "RateLimit" not in answer.headers:
            raise UnexpectedError("the answer does not say how much of the limit is left")
        return answer

    def batch(self) -> httpx.Response:
        """Ask about three images at once."""
        answer = self.predict([ZERO, ONE, ZERO])
        _expect_digits(answer, "0", "1", "0")
        return answer

    def replayed(self) -> httpx.Response:
        """Send a signed request, and then the very same again."""
        recorded = self._signed()
        _expect_digits(self._http.send(recorded), "1")
        return self._http.send(recorded)

    def tampered(self) -> httpx.Response:
        """Send the headers of a signed request with another body."""
        genuine = self._signed()
        body = genuine.content.replace(b"16", b"15", 1)
        return self._http.send(self._http.build_request("POST", genuine.url, content=body, headers=genuine.headers))

    def _signed(self) -> httpx.Request:
        request = self._http.build_request("POST", "/partner/predict", json={"features": ONE})
        return HTTPSignature("partner", self.keys.partner)(request)

    def third_of_two(self) -> httpx.Response:
        """Call three times with the key that carries a limit of its own."""
        for _ in range(2):
            _expect_digits(self.predict(ZERO, key=self.keys.frank), "0")
        return self.predict(ZERO, key=self.keys.frank)

    def sixty_one(self) -> httpx.Response:
        """Call 61 times, as somebody who has not called before."""
        answers = [self.predict(ZERO, key=self.keys.carol) for _ in range(61)]
        accepted = sum(answer.status_code == 200 for answer in answers)
        if accepted != 60:
            raise UnexpectedError(f"of 61 requests {accepted} were accepted, not 60")
        if not 1 <= int(answers[-1].headers.get("Retry-After", "0")) <= 64:
            raise UnexpectedError("the refusal does not say when to try again")
        return answers[-1]


def _expect_digits(answer: httpx.Response, *digits: str) -> None:
    """Check a prediction: the best digit of each image, three of them at most, with two decimals at most."""
    if answer.status_code != 200:
        raise UnexpectedError(f"expected a prediction, got {answer.status_code}")
    rows = answer.json()["probabilities"]
    if not all(_is_coarse(row) for row in rows):
        raise UnexpectedError("the answer tells more than three classes with two decimals")
    if [row[0]["label"] for row in rows] != list(digits):
        raise UnexpectedError(f"expected the digits {digits}")


def _is_coarse(row: Sequence[object]) -> bool:
    return len(row) <= 3 and all(
        isinstance(one, dict) and isinstance(one["score"], float) and one["score"] == round(one["score"], 2)
        for one in row
    )
