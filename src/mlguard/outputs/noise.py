"""Noise on the scores of each answer: ``add_noise``."""

import hashlib
import hmac
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

from mlguard.auth.secrets import secret_bytes
from mlguard.errors import ConfigurationError
from mlguard.outputs._canonical import framed
from mlguard.outputs._noisy_endpoint import Asked, Noise, NoisyScores, wrap_noisy
from mlguard.outputs._questions_by_row import questions
from mlguard.outputs.dp_noise import DPNoise
from mlguard.outputs.rounding import FloatArray
from mlguard.traffic.epsilon import EpsilonLedger

P = ParamSpec("P")
Bits = NDArray[np.uint64]

_UNIT = 2.0**-53
_WORDS = 8  # of 64 bits in a digest of BLAKE2b


@dataclass(frozen=True, slots=True)
class Laplace:
    """Laplace noise: half of it is below 0.69 scales, one in twenty above 3.

    Args:
        scale: In units of the scores.

    Raises:
        ConfigurationError: It is no number above 0.
    """

    scale: float

    def __post_init__(self) -> None:
        _check_scale("Laplace", self.scale)

    def words(self, classes: int) -> int:
        """How many random words a row takes."""
        return classes

    def draw(self, bits: Bits, classes: int) -> FloatArray:  # noqa: ARG002  # as the other one needs it
        """Noise of shape ``(rows, classes)``, from that many random words: 53 bits for the size, one for the sign."""
        size = -np.log(((bits >> np.uint64(11)) + np.uint64(1)) * _UNIT)  # of (0, 1]: never of 0
        sign = 1.0 - 2.0 * (bits & np.uint64(1))
        return np.asarray(self.scale * sign * size, np.float64)


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Gaussian noise: one in twenty is above 1.96 scales.

    Args:
        scale: The standard deviation, in units of the scores.

    Raises:
        ConfigurationError: It is no number above 0.
    """

    scale: float

    def __post_init__(self) -> None:
        _check_scale("Gaussian", self.scale)

    def words(self, classes: int) -> int:
        """How many random words a row takes: they are used in pairs."""
        return classes + classes % 2

    def draw(self, bits: Bits, classes: int) -> FloatArray:
        """Noise of shape ``(rows, classes)``, from pairs of random words (Box and Muller, 1958), 53 bits of each."""
        pairs = bits.shape[1] // 2
        uniform = (bits >> np.uint64(11)) * _UNIT
        radius = self.scale * np.sqrt(-2.0 * np.log(uniform[:, :pairs] + _UNIT))  # of (0, 1]: never of 0
        angle = 2.0 * np.pi * uniform[:, pairs:]
        noise: FloatArray = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :classes]
        return noise


def _check_scale(kind: str, scale: object) -> None:
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale < math.inf:
        raise ConfigurationError(f"{kind}(scale) is a number above 0, in units of the scores")


def add_noise(
    mechanism: Laplace | Gaussian | DPNoise,
    /,
    *,
    key: str | bytes | None = None,
    scores: str = "probabilities",
    keep_argmax: bool = False,
    renormalise: bool = True,
    inputs: Sequence[str] | None = None,
    input_decimals: int | None = None,
    model_version: str = "",
    ledger: EpsilonLedger | None = None,
) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Add noise to the scores of each answer.

    Guards against attacks that need exact scores with few queries: measured on a small logistic regression of 30
    features, Laplace noise of scale 0.05 left an error of 0.17 in the weights after 62 queries, where all digits leave
    2e-15, and 0.008 after 3 100. It does **not** stop extraction. Drawn anew, noise averages away (0.012 after 500
    repeats); here it is a secret function of the input, so that a repeat has the same (0.39), alone or in a batch, from
    whatever account. An input that is changed by 1e-6 is another one, and has other noise (0.01): see
    ``input_decimals``. Limit the rows that each caller may ask for; that matters more.

    This is **not** differential privacy: that needs fresh noise of a scale that is worked out of a sensitivity. With
    :class:`DPNoise` it is.

    Decorates an endpoint, sync or async, below ``truncate_output``, next to the function::

        @app.post("/predict")
        @truncate_output(decimals=2)
        @add_noise(Laplace(0.05), key=KEY)
        def predict(x: Annotated[np.ndarray, Depends(features)]):
            return {"probabilities": model.predict_proba(x)}

    Other fields of the answer have no noise: leave out copies of the scores, and labels that come of them.

    Args:
        mechanism: :class:`Laplace` or :class:`Gaussian`, or :class:`DPNoise`.
        key: A secret of 128 bits or more, the same in all processes: who has it can take the noise off. None only with
            :class:`DPNoise`.
        scores: The field of the answer that holds the scores: at the top level, or the answer itself where that is a
            bare list or array. One dimension is one row, two are a batch of rows.
        keep_argmax: Whether the best class stays the best: where noise has made another one the best, the two change
            their scores. Not with :class:`DPNoise`, which would tell the exact best class.
        renormalise: Whether scores are probabilities and stay such: what is below 0 becomes 0, and each row is divided
            by its sum. Small probabilities grow by that, and large ones shrink. False for scores of any other kind;
            then one dimension may also be one score for each row of the input.
        inputs: The endpoint's arguments that the noise depends on. None: all of them. Name those that the model sees:
            with one more that a caller can choose and that changes nothing, there is fresh noise for each choice. With
            one too few, there is the same noise on two different scores, whose difference is exact.
        input_decimals: Round every float of these arguments first, to so many decimals: for the noise, and for the
            model too, so that inputs which are that near have one answer. Who knows of it moves inputs by more than
            that, and averages all the same. None: nothing is rounded.
        model_version: Another text, other noise: what two models say to one input cannot be compared exactly.
        ledger: Charged before the endpoint is asked, for each row of its arguments. For :class:`DPNoise`, and only for
            it: answers that nobody counts are private no longer.

    Returns:
        A decorator.

    Raises:
        ConfigurationError: An option that cannot work; ``truncate_output`` or a generator below; an endpoint that takes
            a ``WebSocket``, whose messages pass no decorator; an argument from which one input cannot be told from
            another, such as a ``Request``, while ``inputs`` is None.
        UnsafeOutputError: On answering. There are no such scores, they are not finite, or not probabilities although
            ``renormalise`` says so; it cannot be told which input a row of them belongs to; or there are more rows than
            the ledger was charged for (500).
        PrivacyBudgetExceededError: On answering. The ledger has too little left (429).
    """
    noisy = NoisyScores(scores, keep_argmax=keep_argmax, renormalise=renormalise)
    secret = b""
    if isinstance(mechanism, DPNoise):
        _check_fresh(key, input_decimals, model_version, keep_argmax=keep_argmax)
        _check_ledger(ledger, mechanism)
    elif isinstance(mechanism, Laplace | Gaussian):
        secret = secret_bytes(key, where="add_noise(key=...)")
        if ledger is not None:
            raise ConfigurationError("add_noise(ledger=...) counts epsilon, which only DPNoise has")
    else:
        raise ConfigurationError("add_noise takes Laplace(scale), Gaussian(scale) or DPNoise(...)")
    if not isinstance(model_version, str):
        raise ConfigurationError("add_noise(model_version=...) is a text")

    def decorate(endpoint: Callable[P, Any]) -> Callable[P, Any]:
        asked = Asked(
            endpoint, inputs=inputs, decimals=input_decimals, is_told_apart=not isinstance(mechanism, DPNoise)
        )
        settings = framed(repr(mechanism), repr(noisy), repr(asked), model_version)
        noise: Noise
        if isinstance(mechanism, DPNoise):
            noise = mechanism
        else:
            name = framed("add_noise", *asked.name)
            noise = KeyedNoise(mechanism, hmac.digest(secret, name + settings, "sha512"))
            settings += hmac.digest(secret, b"which key" + name, "sha256")  # with another one, answers are others
        return wrap_noisy(endpoint, noise, noisy, asked, ledger=ledger, policy=settings.hex())

    return decorate


def _check_fresh(key: object, input_decimals: object, model_version: object, *, keep_argmax: bool) -> None:
    if key is not None or input_decimals is not None or model_version:
        raise ConfigurationError(
            "add_noise(DPNoise(...)) draws fresh noise each time, so it takes no key, input_decimals or model_version"
        )
    if keep_argmax:
        raise ConfigurationError("add_noise(keep_argmax=True) tells the exact best class, which DPNoise is to hide")


def _check_ledger(ledger: object, mechanism: DPNoise) -> None:
    if not isinstance(ledger, EpsilonLedger):
        raise ConfigurationError(
            "add_noise(ledger=...) is an EpsilonLedger: DPNoise keeps its promise only as long as answers are counted"
        )
    if not ledger.can_pay(mechanism.epsilon):
        raise ConfigurationError(
            f"add_noise(ledger=...): its limit is less than one answer costs, an epsilon of {mechanism.epsilon:g}; "
            "raise the one or lower the other"
        )


class KeyedNoise:
    """Noise that is a secret function of what was asked: the same for each repeat, alone or in a batch.

    Keyed BLAKE2b (RFC 7693) of the question gives the random words.

    Args:
        mechanism: How large it is.
        key: Of 64 bytes.
    """

    def __init__(self, mechanism: Laplace | Gaussian, key: bytes) -> None:
        self._mechanism = mechanism
        self._key = key
        self._hashes: list[Any] = []

    def add(self, scores: FloatArray, arguments: Mapping[str, Any]) -> FloatArray:
        """Scores with noise.

        Raises:
            UnsafeOutputError: It cannot be told what was asked in each row (500).
        """
        rows, classes = scores.shape
        words = self._mechanism.words(classes)
        hashes = self._begun(-(-words // _WORDS))
        digests = []
        for question in questions(arguments, rows):
            for begun in hashes:
                one = begun.copy()
                one.update(question)
                digests.append(one.digest())
        bits: Bits = np.frombuffer(b"".join(digests), "<u8").reshape(rows, -1)[:, :words]
        return scores + self._mechanism.draw(bits, classes)

    def _begun(self, number: int) -> list[Any]:
        """So many hashes that differ in their salt, each for as many words as one digest holds."""
        begun = self._hashes
        if len(begun) < number:  # made anew, and not extended: other threads do the same, and would repeat a salt
            salts = [place.to_bytes(16, "big") for place in range(number)]
            begun = self._hashes = [hashlib.blake2b(key=self._key, salt=salt) for salt in salts]
        return begun[:number]
