"""Everything mlguard raises.

A refusal is an answer to a caller, so it is an ``HTTPException``: FastAPI passes it on untouched, even from inside
``receive``, where any other exception would become a 400. The other errors are for the developer and must crash
loudly, so they are not answers::

    MLGuardError (HTTPException)       a request was refused
    ├── NotAuthenticatedError    401   no credential, or one that does not hold
    ├── LoginTooWeakError        401   a valid token of a login that is too old, or lacks a factor
    ├── InsufficientScopeError   403   a valid credential without the scope that the route demands
    ├── AddressNotAllowedError   403   an address from which nobody may ask
    ├── QueriesSuspectedError    403   the caller's queries look like an attack on the model
    ├── BlockedError             403   an operator has blocked the caller or the address
    ├── BodyTimeoutError         408   the body did not arrive in time
    ├── BodyTooLargeError        413   the body is larger than ``max_body_size``
    ├── UnsupportedMediaTypeError 415  a content type that the endpoint does not read
    ├── InvalidInputError        422   the body breaks a rule of the model's input
    ├── RateLimitedError         429   a limit is used up
    │   ├── BudgetExceededError  429   a budget is used up
    │   │   └── PrivacyBudgetExceededError 429 too little epsilon is left
    │   ├── ConcurrencyLimitedError 429 the caller has as many requests running as may be
    │   └── ProofOfWorkRequiredError 429 a limit is used up, and a solved puzzle opens it
    ├── GuardFailedError         500   a guard crashed; the request is refused, the log has the cause
    └── UnavailableError         503   nothing can be decided now
        ├── OverloadedError      503   too many wait for something costly already
        ├── KeysUnavailableError 503   no keys to verify credentials with, so nobody gets in
        ├── OutOfServiceError    503   an operator has blocked the route, or everything
        └── StoreFullError       503   shared state has no room left, so nothing more can be admitted
    ConfigurationError (ValueError)    a setting that cannot work, raised when the object is built
    SecretUnavailableError (Exception) a secret that cannot be read now
    └── SecretNotFoundError            its source could be asked, and has none of this name
    UnsafeOutputError (ValueError)     the endpoint returned something that may not leave (NaN, a ready Response)
    ModelRefusedError (Exception)      a model file that may not be used; nothing of it was run
    ├── ModelSignatureError            not as it was signed, or not signed with this key
    ├── ModelContentError              a format that may not be loaded, or content that could run code
    └── ModelDecryptionError           another key, name or version, cut short, or altered
    SealedValueError (ValueError)      a text that ``SubjectKeys`` cannot open: altered, or of another context
    └── SubjectErasedError             there is no key for it any more
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from starlette.exceptions import HTTPException


class MLGuardError(HTTPException):
    """A request was refused.

    What the caller may know is in the class (``status``, ``rule``, ``title``, ``detail``) and in ``members``. What only
    the operator may know is in ``reason``: it is logged, and never sent.

    Args:
        reason: Why, for the operator's log. Must hold no secret and no input value.
        headers: Response headers of the refusal.
        **members: Extension members of the RFC 9457 problem, such as ``row`` and ``column``.
    """

    status: ClassVar[int] = 400
    rule: ClassVar[str] = "refused"
    title: ClassVar[str] = "Request refused"
    default_detail: ClassVar[str] = "The request was refused."

    def __init__(
        self,
        reason: str = "",
        *,
        detail: str | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(self.status, detail or self.default_detail, dict(headers) if headers else None)
        self.reason = reason
        self.members = members


class NotAuthenticatedError(MLGuardError):
    """No credential, or one that does not hold: the caller cannot tell which (401)."""

    status = 401
    rule = "not-authenticated"
    title = "Not authenticated"
    default_detail = "A valid credential is required."

    def __init__(self, reason: str = "", *, challenge: str) -> None:
        super().__init__(reason, headers={"WWW-Authenticate": challenge})


class LoginTooWeakError(MLGuardError):
    """The token is valid, and the login behind it is too old or lacks a factor: log in again (401, RFC 9470)."""

    status = 401
    rule = "insufficient-user-authentication"
    title = "Insufficient user authentication"
    default_detail = "This request needs a more recent or a stronger login."

    def __init__(self, reason: str = "", *, challenge: str) -> None:
        super().__init__(reason, headers={"WWW-Authenticate": challenge})


class InsufficientScopeError(MLGuardError):
    """The credential is valid and lacks a scope that the route demands (403)."""

    status = 403
    rule = "insufficient-scope"
    title = "Insufficient scope"
    default_detail = "The credential does not carry a scope that this request needs."


class AddressNotAllowedError(MLGuardError):
    """Nobody may ask from this address (403)."""

    status = 403
    rule = "address-not-allowed"
    title = "Address not allowed"
    default_detail = "This service does not answer requests from this address."


class QueriesSuspectedError(MLGuardError):
    """The caller's queries look like an attack on the model (403).

    Not 429: no rate is exceeded, and when the verdict ends is nothing that an attacker should be told to wait for.
    """

    status = 403
    rule = "queries-suspected"
    title = "Queries refused"
    default_detail = "This service does not answer queries like those of this caller. Ask its operator."


class BlockedError(MLGuardError):
    """An operator has blocked the caller or the address: nobody is told which (403)."""

    status = 403
    rule = "blocked"
    title = "Request refused"
    default_detail = "This service does not take this request."


class BodyTimeoutError(MLGuardError):
    """The body did not arrive in time (408)."""

    status = 408
    rule = "body-timeout"
    title = "Request body timeout"
    default_detail = "The request body did not arrive in time."

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason, headers={"Connection": "close"})


class BodyTooLargeError(MLGuardError):
    """The body is larger than ``max_body_size`` (413)."""

    status = 413
    rule = "body-too-large"
    title = "Request body too large"
    default_detail = "The request body is larger than this service accepts."


class UnsupportedMediaTypeError(MLGuardError):
    """The content type is not one that the endpoint reads (415)."""

    status = 415
    rule = "unsupported-media-type"
    title = "Unsupported media type"
    default_detail = "The content type is not one that this endpoint reads."


class InvalidInputError(MLGuardError):
    """The body breaks a rule of the model's input (422)."""

    status = 422
    rule = "invalid-input"
    title = "Invalid input"
    default_detail = "The input breaks a rule of this endpoint."


class RateLimitedError(MLGuardError):
    """A limit is used up (429)."""

    status = 429
    rule = "rate-limited"
    title = "Too many requests"
    default_detail = "A limit on requests is used up. Retry after the time in Retry-After."


class BudgetExceededError(RateLimitedError):
    """A budget is used up, or has too little left for this request (429)."""

    rule = "budget-exceeded"
    title = "Budget exceeded"
    default_detail = "The budget of this period is used up. Retry after the time in Retry-After."


class PrivacyBudgetExceededError(BudgetExceededError):
    """The caller has too little epsilon left for this request (429)."""

    rule = "privacy-budget-exceeded"
    title = "Privacy budget exceeded"
    default_detail = "Too little of the privacy budget is left. Retry after the time in Retry-After, if there is one."


class ConcurrencyLimitedError(RateLimitedError):
    """The caller has as many requests running as may be (429)."""

    rule = "concurrency-limited"
    title = "Too many requests at once"
    default_detail = "Too many requests of this caller run at once. Retry when one of them has ended."

    def __init__(self, reason: str = "", *, retry_after: int) -> None:
        super().__init__(reason, headers={"Retry-After": str(retry_after)})


class ProofOfWorkRequiredError(RateLimitedError):
    """What is free is used up: solve the puzzle in ``challenge``, and ask again with the solution (429)."""

    rule = "proof-of-work-required"
    title = "Proof of work required"
    default_detail = "Solve the challenge and send the request again with the solution in X-Altcha, or retry later."


class GuardFailedError(MLGuardError):
    """A guard crashed: the request is refused, the cause is in the operator's log (500)."""

    status = 500
    rule = "internal-error"
    title = "Internal Server Error"
    default_detail = "The service could not answer this request."


class UnavailableError(MLGuardError):
    """Nothing can be decided now, so nobody is admitted (503). ``Retry-After`` says when to try again."""

    status = 503
    rule = "unavailable"
    title = "Service unavailable"
    default_detail = "The service cannot take this request at the moment."

    def __init__(self, reason: str = "", *, retry_after: int) -> None:
        super().__init__(reason, headers={"Retry-After": str(retry_after)})


class OverloadedError(UnavailableError):
    """Too many wait for something costly already, such as a password hash (503)."""

    rule = "overloaded"
    default_detail = "The service has too much to do at the moment."


class KeysUnavailableError(UnavailableError):
    """There are no keys that credentials could be verified with, so nobody can be admitted (503)."""

    rule = "verification-unavailable"


class OutOfServiceError(UnavailableError):
    """An operator has taken this out of service for now (503)."""

    rule = "out-of-service"


class StoreFullError(UnavailableError):
    """Shared state has no room left, so nothing more can be admitted safely (503)."""


class ConfigurationError(ValueError):
    """A setting that cannot work. Raised when the object is built, with the setting and the fix in the text."""


class SecretUnavailableError(Exception):
    """A secret that cannot be read now: its source cannot be asked, has none, or said what is no secret.

    For the operator: the text names the source and the secret, and nothing of what was said.

    Args:
        name: Of the secret.
        source: Which source was asked, such as ``vault://vault.internal:8200/secret``.
        reason: Why not. Must hold no secret.
    """

    def __init__(self, name: str, source: str, reason: str) -> None:
        super().__init__(name, source, reason)
        self.name = name
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"the secret {self.name} cannot be read from {self.source}: {self.reason}"


class SecretNotFoundError(SecretUnavailableError):
    """The source could be asked, and has no secret of this name."""


class UnsafeOutputError(ValueError):
    """The endpoint returned something that may not leave the service: the caller gets a scrubbed 500."""


class ModelRefusedError(Exception):
    """A model file that may not be used. Nothing of it was run. For the operator: the text may name files."""


class ModelSignatureError(ModelRefusedError):
    """The model is not as it was signed (files extra, missing, linked, altered), or not signed with this key."""


class ModelContentError(ModelRefusedError):
    """The model's format may not be loaded, or its content could run code that nobody has allowed."""


class ModelDecryptionError(ModelRefusedError):
    """The file cannot be decrypted: another key, another name or version, cut short, or altered."""


class SealedValueError(ValueError):
    """A text that ``SubjectKeys`` cannot open: not sealed, altered, or sealed for another context."""


class SubjectErasedError(SealedValueError):
    """There is no key for the text: its subject was erased, or it is of another key file."""
