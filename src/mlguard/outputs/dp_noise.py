"""Differentially private noise, by OpenDP: ``DPNoise``."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from mlguard._numbers import is_number
from mlguard._opendp import load_opendp
from mlguard.errors import ConfigurationError
from mlguard.outputs.rounding import FloatArray


class DPNoise:
    """Fresh noise for :func:`add_noise` that makes each row of scores differentially private.

    Guards the training data: what a row of scores tells about one person in it is bounded by epsilon, whatever else
    somebody knows (Dwork, McSherry, Nissim and Smith, 2006). That holds as far as the sensitivity that **you** state
    does: the most by which one person more or less in the data can move a row, in L1 for Laplace and in L2 for Gaussian
    noise. Of nothing but probabilities, the row of one input can move by 2 (all of one class, all of another), or by
    the square root of 2 in L2; a smaller figure needs a proof about how the model is trained. It holds for the scores,
    and not for other fields, errors or times that depend on the data.

    The arithmetic: Laplace noise has scale ``sensitivity / epsilon``. A row of probabilities with scale 0.05 has
    epsilon 2 / 0.05 = 40, which is no protection worth the name; with epsilon 1 the scale is 2, and little is left of
    the probabilities. Each answer costs its epsilon, and they add up: see :class:`EpsilonLedger`. Gaussian noise has a
    delta too, which adds up likewise.

    The noise is drawn by OpenDP's mechanisms, which are exact where floating point is not (Mironov, 2012), about 35
    microseconds a number, in a thread.

    Args:
        epsilon: Of each row of scores.
        sensitivity: The most by which one person can move a row: L1 for ``"laplace"``, L2 for ``"gaussian"``.
        mechanism: ``"laplace"``, or ``"gaussian"``, which needs a delta.
        delta: Of each row, above 0 and below 1. Only for ``"gaussian"``; well below one over the number of people.

    Attributes:
        epsilon: Of each row.
        delta: Of each row; 0 for ``"laplace"``.
        scale: What OpenDP's mechanism needs for it.

    Raises:
        ConfigurationError: An argument that cannot work, or the extra ``opendp`` is not installed.
    """

    def __init__(
        self,
        *,
        epsilon: float,
        sensitivity: float,
        mechanism: Literal["laplace", "gaussian"] = "laplace",
        delta: float | None = None,
    ) -> None:
        _check_number("epsilon", epsilon)
        _check_number("sensitivity", sensitivity)
        if mechanism not in {"laplace", "gaussian"}:
            raise ConfigurationError('DPNoise(mechanism=...) is "laplace" or "gaussian"')
        if mechanism == "gaussian":
            _check_number("delta", delta, below=1.0)
        elif delta is not None:
            raise ConfigurationError('DPNoise(delta=...) is for mechanism="gaussian": Laplace noise has none')
        self.epsilon = epsilon
        self.delta = delta or 0.0
        self._sensitivity = sensitivity
        self._mechanism = mechanism
        dp = load_opendp(where="DPNoise")
        make, promised = (_laplace, epsilon) if delta is None else (_gaussian, (epsilon, delta))
        self.scale: float = dp.binary_search_param(
            lambda scale: make(dp, scale, delta), d_in=float(sensitivity), d_out=promised, T=float
        )
        self._measurement = make(dp, self.scale, delta)

    def add(self, scores: FloatArray, arguments: Mapping[str, Any]) -> FloatArray:  # noqa: ARG002  # whatever was asked
        """Scores with fresh noise, in the same shape."""
        noisy: FloatArray = scores.copy()
        noisy.reshape(-1)[:] = self._measurement(scores.reshape(-1).tolist())
        return noisy

    def __repr__(self) -> str:
        return f"DPNoise({self._mechanism!r}, {self.epsilon!r}, {self.delta!r}, {self._sensitivity!r})"


def _check_number(setting: str, value: object, *, below: float = math.inf) -> None:
    if not is_number(value) or not 0 < value < below:
        limit = "" if below == math.inf else f", and below {below:g}"
        raise ConfigurationError(f"DPNoise({setting}=...) is a number above 0{limit}")


def _laplace(dp: Any, scale: float, delta: float | None) -> Any:  # noqa: ARG001  # as the other one
    return dp.m.make_laplace(_numbers(dp), dp.l1_distance(T=float), scale=scale)


def _gaussian(dp: Any, scale: float, delta: float | None) -> Any:
    measurement = dp.m.make_gaussian(_numbers(dp), dp.l2_distance(T=float), scale=scale)
    return dp.c.make_fix_delta(dp.c.make_zCDP_to_approxDP(measurement), delta)


def _numbers(dp: Any) -> Any:
    return dp.vector_domain(dp.atom_domain(T=float, nan=False))
