"""Clients of secret stores log what they are sent, at the level DEBUG. Not while they are asked for a secret."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Those whose records hold answers, or headers with credentials.
_LOGGERS = (
    "botocore.auth",
    "botocore.endpoint",
    "botocore.hooks",
    "botocore.httpsession",
    "botocore.parsers",
    "botocore.retryhandler",
    "azure.core.pipeline.policies.http_logging_policy",
    "azure.core.pipeline.policies._universal",
    "google.cloud.secretmanager_v1.services.secret_manager_service.transports.grpc",
)

_thread = threading.local()


def _passes(_: logging.LogRecord) -> bool:
    return not getattr(_thread, "quiet", False)


@contextmanager
def clients() -> Iterator[None]:
    """Let these loggers say nothing in this thread until the block ends, at whatever level."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_passes)  # once: it is the same one
    _thread.quiet = True
    try:
        yield
    finally:
        _thread.quiet = False
