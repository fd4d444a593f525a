"""Which guard has refused a request, and by which rule, for those who record and count it."""

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from mlguard._guard import Control, Guard, RequestMemory, _Refusal
from mlguard.errors import GuardFailedError, InsufficientScopeError, InvalidInputError, MLGuardError


def refusal_of(memory: RequestMemory, status: int | None = None) -> tuple[Guard | None, Exception | None]:
    """The guard that has refused a request, and the refusal. Other guards may have said no before one said yes.

    Args:
        memory: Of the request.
        status: What was answered. It tells whether a handler of the app's own has answered the last refusal.
    """
    error = memory.refused_with or memory.refusal  # the second, where a handler of the app's own has answered
    refusals = {guard: decision.error for guard, decision in memory.decisions.items() if type(decision) is _Refusal}
    for guard, refusal in refusals.items():
        if error is refusal or (error is not None and error.__cause__ is refusal):
            return guard, error
    if isinstance(error, InsufficientScopeError):
        return last_proof(memory), error
    if error is None:  # a guard that has crashed is answered by nobody
        crashed = [(guard, one) for guard, one in refusals.items() if not isinstance(one, HTTPException)]
        return crashed[-1] if crashed else _last_refusal(memory, status)
    return None, error


def _last_refusal(memory: RequestMemory, status: int | None) -> tuple[Guard | None, Exception | None]:
    """That of the guard which was asked last, if it is what was answered."""
    guard, decision = next(reversed(memory.decisions.items()), (None, None))
    if isinstance(decision, _Refusal) and getattr(decision.error, "status_code", None) == status:
        return guard, decision.error
    return None, None


def last_proof(memory: RequestMemory) -> Guard | None:
    """The guard that has said who is calling. What the route demands of them is judged after that, by no guard."""
    proofs = [guard for guard in memory.decisions if guard.control is Control.AUTHENTICATION]
    return proofs[-1] if proofs else None


def rule_of(error: Exception | None) -> str:
    """The rule by which something was refused, as the caller is told it."""
    if isinstance(error, MLGuardError):
        return error.rule
    if isinstance(error, RequestValidationError):
        return InvalidInputError.rule
    # Of a guard of the app's own.
    return f"http-{error.status_code}" if isinstance(error, HTTPException) else GuardFailedError.rule
