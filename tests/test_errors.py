"""The error tree: what a refusal says to its caller, and what it keeps for the operator."""

import inspect
import pickle
import re

import pytest
from starlette.exceptions import HTTPException

from mlguard import errors
from mlguard.errors import (
    BodyTimeoutError,
    ConcurrencyLimitedError,
    ConfigurationError,
    InsufficientScopeError,
    InvalidInputError,
    LoginTooWeakError,
    MLGuardError,
    NotAuthenticatedError,
    SecretUnavailableError,
    StoreFullError,
    UnavailableError,
    UnsafeOutputError,
)

# Those that everybody may meet; a module may have some of its own, as the token endpoints have for RFC 6749.
TREE = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, MLGuardError)]
REFUSALS = [
    kind
    for kind in TREE[1:]
    if not any(other is not kind and issubclass(other, kind) and other.rule == kind.rule for other in TREE)
]
REASON = "key of 'alice' expired"


def make(kind: type[MLGuardError]) -> MLGuardError:
    if kind is NotAuthenticatedError:
        return NotAuthenticatedError(REASON, challenge="APIKey")
    if kind is LoginTooWeakError:
        return LoginTooWeakError(REASON, challenge="Bearer")
    if issubclass(kind, UnavailableError | ConcurrencyLimitedError):
        return kind(REASON, retry_after=7)
    return kind(REASON)


def test_the_tree_is_as_drawn() -> None:
    """The docstring draws each error under its root, with its true status, and forgets none."""
    drawn = {name: int(status) for name, status in re.findall(r"── (\w+Error)\s+(\d{3})", errors.__doc__ or "")}
    assert drawn == {kind.__name__: kind.status for kind in TREE if kind is not MLGuardError}
    public = {name for name, each in vars(errors).items() if inspect.isclass(each) and name.endswith("Error")}
    beside = {name for name in public if f"    {name} (" in (errors.__doc__ or "")}
    below = set(re.findall(r"── (\w+Error) +[a-z]", errors.__doc__ or ""))
    roots = (errors.ModelRefusedError, errors.SealedValueError, errors.SecretUnavailableError)
    assert below == {kind.__name__ for root in roots for kind in root.__subclasses__()}
    assert public == {*drawn, *beside, *below}


@pytest.mark.parametrize("kind", [MLGuardError, *REFUSALS])
def test_refusals_are_answers(kind: type[MLGuardError]) -> None:
    """A refusal is an HTTPException of its status whose texts are for the caller; the reason is for the log only."""
    refusal = make(kind)
    assert isinstance(refusal, HTTPException)
    assert refusal.status_code == kind.status
    assert refusal.detail == kind.default_detail
    assert refusal.reason == REASON
    assert refusal.members == {}
    assert kind.__doc__ is not None
    for text in (str(refusal), repr(refusal), kind.title, kind.rule, str(refusal.headers)):
        assert "alice" not in text


def test_rules_tell_refusals_apart() -> None:
    """Each kind of refusal has a rule of its own, written as part of a URN."""
    rules = [MLGuardError.rule, *(kind.rule for kind in REFUSALS)]
    assert len(set(rules)) == len(rules)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", rule) for rule in rules)


def test_headers_of_refusals() -> None:
    """A 401 carries its challenge, a full store when to come back, a slow body the end of the connection."""
    assert make(NotAuthenticatedError).headers == {"WWW-Authenticate": "APIKey"}
    assert make(StoreFullError).headers == {"Retry-After": "7"}
    assert make(BodyTimeoutError).headers == {"Connection": "close"}
    assert make(InsufficientScopeError).headers is None


def test_details_and_members() -> None:
    """A refusal can have a detail of its own, headers and members, which it does not share with the giver's dict."""
    headers = {"X-Rule": "finite"}
    refusal = InvalidInputError("row 3", detail="A number is not finite.", headers=headers, row=3, column=1)
    headers.clear()
    assert refusal.detail == "A number is not finite."
    assert refusal.headers == {"X-Rule": "finite"}
    assert refusal.members == {"row": 3, "column": 1}


@pytest.mark.parametrize("kind", [ConfigurationError, UnsafeOutputError])
def test_developer_errors_are_no_answers(kind: type[Exception]) -> None:
    """What only a developer can fix must crash, so it is a ValueError and no answer."""
    assert issubclass(kind, ValueError)
    assert not issubclass(kind, HTTPException)


def test_an_unavailable_secret_names_itself() -> None:
    """Whoever reads that a secret cannot be read learns which, from where and why, also from another process."""
    error = pickle.loads(pickle.dumps(SecretUnavailableError("token", "dir:///run/secrets", "it is empty")))
    assert str(error) == "the secret token cannot be read from dir:///run/secrets: it is empty"
    assert (error.name, error.source, error.reason) == ("token", "dir:///run/secrets", "it is empty")
    assert not isinstance(error, ValueError | HTTPException)
