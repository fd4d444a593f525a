"""Security guards for FastAPI services that serve machine-learning models.

Guards are plain FastAPI dependencies; ``harden(app)`` adds what dependencies cannot do. Everything public is here.
"""

from mlguard._guard import Control, Principal, principal_of, request_id
from mlguard._redis_connection import StoreHealth
from mlguard.artifacts.allowed_globals import (
    NUMPY_ARRAYS,
    SKLEARN_ESTIMATORS,
    SKLEARN_FORESTS,
    SKLEARN_LINEAR,
    SKLEARN_PREPROCESSING,
)
from mlguard.artifacts.encryption import (
    decrypt_model,
    decrypted_model,
    encrypt_model,
    read_encrypted_model,
    rewrap_model,
)
from mlguard.artifacts.fernet_files import read_fernet_model
from mlguard.artifacts.key_wrapping import ModelKey
from mlguard.artifacts.loading import ModelReport, inspect_model, load_model
from mlguard.artifacts.model_scopes import MODEL_SCOPES
from mlguard.artifacts.model_store import ModelStore
from mlguard.artifacts.model_versions import Lineage, ModelVersion
from mlguard.artifacts.served_model import ServedModel
from mlguard.artifacts.signing import VerifiedModel, sign_model, verify_model
from mlguard.artifacts.suspect import SuspectService, SuspectServiceError
from mlguard.artifacts.watermark import Watermark, WatermarkEvidence
from mlguard.auth.any_auth import AnyAuth
from mlguard.auth.api_keys import APIKey, APIKeyAuth, APIKeys, require_api_key
from mlguard.auth.issuer import TokenIssuer, Tokens
from mlguard.auth.jwt import JWTAuth
from mlguard.auth.passwords import PasswordCheck, PasswordHasher, Passwords
from mlguard.auth.revocations import Revocations
from mlguard.auth.signing import SignatureAuth
from mlguard.auth.timestamp_signature import sign_request, verify_signature
from mlguard.auth.token_router import token_router
from mlguard.auth.users import User, UserDirectory, Users
from mlguard.errors import (
    AddressNotAllowedError,
    BlockedError,
    BodyTimeoutError,
    BodyTooLargeError,
    BudgetExceededError,
    ConcurrencyLimitedError,
    ConfigurationError,
    GuardFailedError,
    InsufficientScopeError,
    InvalidInputError,
    KeysUnavailableError,
    LoginTooWeakError,
    MLGuardError,
    ModelContentError,
    ModelDecryptionError,
    ModelRefusedError,
    ModelSignatureError,
    NotAuthenticatedError,
    OutOfServiceError,
    OverloadedError,
    PrivacyBudgetExceededError,
    ProofOfWorkRequiredError,
    QueriesSuspectedError,
    RateLimitedError,
    SealedValueError,
    SecretNotFoundError,
    SecretUnavailableError,
    StoreFullError,
    SubjectErasedError,
    UnavailableError,
    UnsafeOutputError,
    UnsupportedMediaTypeError,
)
from mlguard.hardening import harden
from mlguard.inputs.control_tokens import CHAT_CONTROL_TOKENS
from mlguard.inputs.features import Features
from mlguard.inputs.images import ImageInput
from mlguard.inputs.prompt_classifier import PromptClassifier
from mlguard.inputs.prompt_heuristic import PromptHeuristic
from mlguard.inputs.prompt_score import PromptScore, PromptScorer
from mlguard.inputs.prompt_screen import PromptScreen
from mlguard.inputs.prompts import Prompt, PromptTemplate
from mlguard.inputs.squeezing import BitDepth, MedianSmoothing
from mlguard.inputs.text import Text
from mlguard.inputs.types import FeatureMatrix, FeatureVector, FiniteNumber
from mlguard.memory_store import MemoryStore
from mlguard.monitoring._alert_windows import Alert
from mlguard.monitoring.alerts import Alerts
from mlguard.monitoring.audit_heads import AuditHeads
from mlguard.monitoring.audit_log import AuditLog
from mlguard.monitoring.audit_report import audit_report
from mlguard.monitoring.audit_verification import AuditVerification, ChainReport, verify_audit_log
from mlguard.monitoring.audited_requests import install_audit_log
from mlguard.monitoring.drift import DriftMonitor
from mlguard.monitoring.drift_reference import DriftReference
from mlguard.monitoring.events import record_event
from mlguard.monitoring.feedback import Feedback, FeedbackGuard
from mlguard.monitoring.feedback_quarantine import FeedbackQuarantine
from mlguard.monitoring.lockdown import Lockdown
from mlguard.monitoring.log_context import RequestIds, redact_logs, structlog_processors
from mlguard.monitoring.measurements import Measured, Measurement
from mlguard.monitoring.metrics import install_metrics
from mlguard.monitoring.otel_metrics import OpenTelemetryMetrics
from mlguard.monitoring.prometheus_metrics import PrometheusMetrics
from mlguard.monitoring.quarantined_rows import QuarantinedRow, ReleasedFeedback
from mlguard.monitoring.query_monitor import QueryMonitor
from mlguard.monitoring.query_reference import QueryReference
from mlguard.monitoring.webhook import Webhook
from mlguard.outputs.dp_noise import DPNoise
from mlguard.outputs.noise import Gaussian, Laplace, add_noise
from mlguard.outputs.open_inference_answers import OpenInferenceAnswer
from mlguard.outputs.policy import OutputPolicy
from mlguard.outputs.repeats import repeat_cache
from mlguard.outputs.streaming import EventStream
from mlguard.outputs.truncation import truncate_output
from mlguard.privacy._data_walks import Finding
from mlguard.privacy.aggregates import PrivateAggregates, PrivateEstimate, PrivateHistogram
from mlguard.privacy.masks import KeepLast, PseudonymMask
from mlguard.privacy.pii import find_pii, mask_pii
from mlguard.privacy.pii_search import PIISearch
from mlguard.privacy.presidio import PresidioFinder
from mlguard.privacy.pseudonyms import Pseudonymiser
from mlguard.privacy.redactor import Redactor
from mlguard.privacy.retention import Purge, PurgedFile, purge_older_than
from mlguard.privacy.reversible_tokens import ReversibleTokens
from mlguard.privacy.subject_key_file import SubjectKeyFile, SubjectKeyStore
from mlguard.privacy.subject_keys import SubjectKeys
from mlguard.privacy.subject_rights import BudgetUse, SubjectErasure, SubjectExport, erase_subject, export_subject
from mlguard.redis_store import RedisStore
from mlguard.secrets.aws import AWSSecrets
from mlguard.secrets.azure import AzureSecrets
from mlguard.secrets.directory import DirectorySecrets
from mlguard.secrets.environment import EnvironmentSecrets
from mlguard.secrets.google import GoogleSecrets
from mlguard.secrets.rotating import Rotating
from mlguard.secrets.source import SecretSource
from mlguard.secrets.vault import VaultSecrets
from mlguard.settings import secret_source
from mlguard.store import Decision, Lease, Sighting, Spending, Store, Watch, WatchedQuery, Window, store_from_url
from mlguard.traffic.address_lists import AllowAddresses, DenyAddresses
from mlguard.traffic.addresses import ClientAddress
from mlguard.traffic.budget import QueryBudget
from mlguard.traffic.budget_warnings import BudgetWarning
from mlguard.traffic.concurrency import ConcurrencyLimit
from mlguard.traffic.epsilon import EpsilonLedger, EpsilonStatus
from mlguard.traffic.ledger import BudgetStatus
from mlguard.traffic.proof_of_work import ProofOfWork
from mlguard.traffic.rate import RateLimit
from mlguard.traffic.reservations import Reservation

__all__ = [
    "CHAT_CONTROL_TOKENS",
    "MODEL_SCOPES",
    "NUMPY_ARRAYS",
    "SKLEARN_ESTIMATORS",
    "SKLEARN_FORESTS",
    "SKLEARN_LINEAR",
    "SKLEARN_PREPROCESSING",
    "APIKey",
    "APIKeyAuth",
    "APIKeys",
    "AWSSecrets",
    "AddressNotAllowedError",
    "Alert",
    "Alerts",
    "AllowAddresses",
    "AnyAuth",
    "AuditHeads",
    "AuditLog",
    "AuditVerification",
    "AzureSecrets",
    "BitDepth",
    "BlockedError",
    "BodyTimeoutError",
    "BodyTooLargeError",
    "BudgetExceededError",
    "BudgetStatus",
    "BudgetUse",
    "BudgetWarning",
    "ChainReport",
    "ClientAddress",
    "ConcurrencyLimit",
    "ConcurrencyLimitedError",
    "ConfigurationError",
    "Control",
    "DPNoise",
    "Decision",
    "DenyAddresses",
    "DirectorySecrets",
    "DriftMonitor",
    "DriftReference",
    "EnvironmentSecrets",
    "EpsilonLedger",
    "EpsilonStatus",
    "EventStream",
    "FeatureMatrix",
    "FeatureVector",
    "Features",
    "Feedback",
    "FeedbackGuard",
    "FeedbackQuarantine",
    "Finding",
    "FiniteNumber",
    "Gaussian",
    "GoogleSecrets",
    "GuardFailedError",
    "ImageInput",
    "InsufficientScopeError",
    "InvalidInputError",
    "JWTAuth",
    "KeepLast",
    "KeysUnavailableError",
    "Laplace",
    "Lease",
    "Lineage",
    "Lockdown",
    "LoginTooWeakError",
    "MLGuardError",
    "Measured",
    "Measurement",
    "MedianSmoothing",
    "MemoryStore",
    "ModelContentError",
    "ModelDecryptionError",
    "ModelKey",
    "ModelRefusedError",
    "ModelReport",
    "ModelSignatureError",
    "ModelStore",
    "ModelVersion",
    "NotAuthenticatedError",
    "OpenInferenceAnswer",
    "OpenTelemetryMetrics",
    "OutOfServiceError",
    "OutputPolicy",
    "OverloadedError",
    "PIISearch",
    "PasswordCheck",
    "PasswordHasher",
    "Passwords",
    "PresidioFinder",
    "Principal",
    "PrivacyBudgetExceededError",
    "PrivateAggregates",
    "PrivateEstimate",
    "PrivateHistogram",
    "PrometheusMetrics",
    "Prompt",
    "PromptClassifier",
    "PromptHeuristic",
    "PromptScore",
    "PromptScorer",
    "PromptScreen",
    "PromptTemplate",
    "ProofOfWork",
    "ProofOfWorkRequiredError",
    "PseudonymMask",
    "Pseudonymiser",
    "Purge",
    "PurgedFile",
    "QuarantinedRow",
    "QueriesSuspectedError",
    "QueryBudget",
    "QueryMonitor",
    "QueryReference",
    "RateLimit",
    "RateLimitedError",
    "Redactor",
    "RedisStore",
    "ReleasedFeedback",
    "RequestIds",
    "Reservation",
    "ReversibleTokens",
    "Revocations",
    "Rotating",
    "SealedValueError",
    "SecretNotFoundError",
    "SecretSource",
    "SecretUnavailableError",
    "ServedModel",
    "Sighting",
    "SignatureAuth",
    "Spending",
    "Store",
    "StoreFullError",
    "StoreHealth",
    "SubjectErasedError",
    "SubjectErasure",
    "SubjectExport",
    "SubjectKeyFile",
    "SubjectKeyStore",
    "SubjectKeys",
    "SuspectService",
    "SuspectServiceError",
    "Text",
    "TokenIssuer",
    "Tokens",
    "UnavailableError",
    "UnsafeOutputError",
    "UnsupportedMediaTypeError",
    "User",
    "UserDirectory",
    "Users",
    "VaultSecrets",
    "VerifiedModel",
    "Watch",
    "WatchedQuery",
    "Watermark",
    "WatermarkEvidence",
    "Webhook",
    "Window",
    "add_noise",
    "audit_report",
    "decrypt_model",
    "decrypted_model",
    "encrypt_model",
    "erase_subject",
    "export_subject",
    "find_pii",
    "harden",
    "inspect_model",
    "install_audit_log",
    "install_metrics",
    "load_model",
    "mask_pii",
    "principal_of",
    "purge_older_than",
    "read_encrypted_model",
    "read_fernet_model",
    "record_event",
    "redact_logs",
    "repeat_cache",
    "request_id",
    "require_api_key",
    "rewrap_model",
    "secret_source",
    "sign_model",
    "sign_request",
    "store_from_url",
    "structlog_processors",
    "token_router",
    "truncate_output",
    "verify_audit_log",
    "verify_model",
    "verify_signature",
]
