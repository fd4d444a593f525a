"""Answers in the form of the Open Inference Protocol, which KServe, Triton and MLServer speak."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from simdjson import Object, Parser

from mlguard.errors import ConfigurationError
from mlguard.outputs._answer import ANSWER, plain
from mlguard.outputs._paths import EVERY, lookup
from mlguard.outputs.policy import OutputPolicy
from mlguard.outputs.scores import Rows, Scores

#: Characters of a request's id that are repeated. A UUID has 36.
_LONGEST_ID = 128


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OpenInferenceAnswer:
    """The answer as tensors, for clients that speak the Open Inference Protocol (version 2, its JSON form).

    The endpoint goes on to return its scores, and the policy decides what is in the tensors. All else that it returns
    stays inside: there is no ``model_version``, no ``parameters``, no feature's name. The request's ``id`` is repeated,
    if it is printable ASCII of at most 128 characters. All tensors are sent, whatever the request's ``outputs`` names:
    clients find theirs by its name.

    ==================================  ================================================================
    policy                              tensors
    ==================================  ================================================================
    decimals, significant, exact        ``output``, FP64, in the shape of the scores
    bins                                the same; with edges, in one more dimension
    label_only                          ``output``, BYTES or INT64, one label a row
    top_k, confidence                   ``output``, one label an entry, and ``output_scores``, FP64
    ==================================  ================================================================

    Labels are BYTES if they are text, and INT64 where classes are called by their index or by integers. A tensor has no
    place for a missing row, so ``min_confidence`` needs ``label_only`` and a text to ``abstain`` with.

    Args:
        model_name: What the model is called to callers. Say nothing of the inside: no class, no version.
        output: What the tensor is called.
        repeat_id: Whether the request's ``id`` is repeated. Under ``repeat_cache`` it cannot be: the answer to the same
            question is the same.

    Raises:
        ConfigurationError: A setting that cannot work.
    """

    model_name: str = "model"
    output: str = "probabilities"
    repeat_id: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        if type(self.repeat_id) is not bool:
            raise ConfigurationError("OpenInferenceAnswer(repeat_id=...) must be True or False")
        for name, text in (("model_name", self.model_name), ("output", self.output)):
            if not isinstance(text, str) or not text:
                raise ConfigurationError(f"OpenInferenceAnswer({name}=...) must be text")

    def check(self, policy: OutputPolicy, steps: tuple[str, ...]) -> None:
        """Check that what the policy leaves fits into tensors.

        Raises:
            ConfigurationError: It does not.
        """
        if EVERY in steps:
            raise ConfigurationError('an Open Inference answer has the scores of one place: scores=... without "*"')
        if policy.min_confidence is not None and not (policy.label_only and policy.abstain is not None):
            raise ConfigurationError(
                "an Open Inference answer has no place for a row that is not sure: min_confidence needs label_only and "
                "a text to abstain with"
            )

    def of(
        self,
        answer: Any,
        steps: tuple[str, ...],
        scores: Scores,
        request_id: str | None,
        *,
        watch: Callable[[Any], None] | None = None,
    ) -> dict[str, Any]:
        """The whole answer. The scores in it are shown to ``watch``, if there is one.

        Raises:
            UnsafeOutputError: There are no scores in it, or they may not leave (500).
        """
        answer = plain(answer, scores.digits)
        if isinstance(answer, dict) or len(steps) > 1:
            answer = lookup(answer, steps, scores.digits)
        if watch is not None:
            watch(answer)
        named = {"id": request_id} if request_id is not None else {}
        return {"model_name": self.model_name, **named, "outputs": self._outputs(answer, scores)}

    def _outputs(self, value: Any, scores: Scores) -> list[dict[str, Any]]:
        if scores.policy.bins is not None:
            return [_numbers(self.output, scores.binned(value, ANSWER))]
        found = np.asarray(scores.find(value, ANSWER))  # never None: they are required
        batch = found[np.newaxis] if found.ndim == 1 else found
        if scores.policy.needs_classes:
            return self._chosen(scores.select(batch, ANSWER), scores.names(batch.shape[1]), scores.policy)
        return [_numbers(self.output, scores.digits.scores(batch).reshape(found.shape))]

    def _chosen(self, rows: Rows, names: tuple[str | int, ...], policy: OutputPolicy) -> list[dict[str, Any]]:
        columns = rows.columns if rows.columns is not None else np.zeros((0, 0), dtype=np.intp)
        chosen: list[Any] = [names[column] for column in columns.ravel().tolist()]
        if rows.sure is not None:
            chosen = [name if keep else policy.abstain for name, keep in zip(chosen, rows.sure.tolist(), strict=True)]
        shape = list(columns.shape) if rows.scores is not None else [len(columns)]
        texts = bool(policy.words) or any(isinstance(name, str) for name in names)
        labels = {
            "name": self.output,
            "shape": shape,
            "datatype": "BYTES" if texts else "INT64",
            "data": [str(name) for name in chosen] if texts else chosen,
        }
        return [labels] if rows.scores is None else [labels, _numbers(f"{self.output}_scores", rows.scores)]


def _numbers(name: str, values: Any) -> dict[str, Any]:
    return {"name": name, "shape": list(values.shape), "datatype": "FP64", "data": values.ravel()}


def id_of(body: bytes | None) -> str | None:
    """What a request calls itself, if it is an object with an ``id`` that can be repeated."""
    if not body:
        return None
    try:
        document = Parser().parse(body)
        found: Any = document.get("id") if isinstance(document, Object) else None
    except (ValueError, RuntimeError):  # no JSON, or nothing that can be read: whoever reads the body says so
        return None
    return repeatable(found)


def repeatable(found: Any) -> str | None:
    """What a request calls itself, if that is a text that can be repeated."""
    short = isinstance(found, str) and 0 < len(found) <= _LONGEST_ID
    return found if short and found.isascii() and found.isprintable() else None
