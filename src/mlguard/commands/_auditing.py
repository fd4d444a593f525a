"""What operators do on the command line goes into the audit log, if there is one."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator

from mlguard.errors import ConfigurationError
from mlguard.monitoring.audit_log import AuditLog
from mlguard.monitoring.events import record_event
from mlguard.settings import load_settings

_READS_THE_LOG = "audit-log"


@contextlib.contextmanager
def audited(options: argparse.Namespace) -> Iterator[None]:
    """Record that a command is run, and the events of it, where ``MLGUARD_AUDIT_LOG`` names a log.

    Which command it is stands in the log before it is run. Its arguments do not: they may name people.

    Args:
        options: Of the command line.

    Raises:
        ConfigurationError: There is a log, and it cannot be written; or the environment cannot say. Nothing is done.
    """
    if options.command == _READS_THE_LOG or not load_settings().audit_log:
        yield
        return
    with recorded(AuditLog.from_settings(), f"{options.command} {options.run.__name__.strip('_')}"):
        yield


@contextlib.contextmanager
def recorded(log: AuditLog, command: str) -> Iterator[None]:
    """Record that a command is run, before it is, and the events of it.

    Args:
        log: Where. It is closed afterwards.
        command: Which one.

    Raises:
        ConfigurationError: The log cannot be written. Nothing is done.
    """
    log.attach()
    try:
        record_event("operator.command", command=command, user=_user())
        if not log.flush():
            raise ConfigurationError("the audit log cannot be written, so nothing was done")
        yield
    finally:
        if not log.close():
            sys.stderr.write("mlguard: the audit log cannot be written: what was done is not all in it\n")


def _user() -> str:
    """Who it is, as the system knows them: a variable could be set to anything."""
    return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"
