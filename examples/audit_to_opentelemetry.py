"""The records of an audit log as logs of OpenTelemetry, so that a collector keeps them beside everything else.

It writes a few of them to standard output, as the collector would get them::

    pip install opentelemetry-sdk
    AUDIT_KEY=$(python -c "import secrets; print(secrets.token_urlsafe(32))") python -m examples.audit_to_opentelemetry

The line itself is the body, so the chain can be verified from what the collector has: with ``verify_audit_log``, once
the bodies of one chain are put into a file in their order.

A collector takes logs in batches, some time later: a record is "written" to this log when OpenTelemetry has it, and
lost if the process is killed before that has sent it. Where this is not enough, write files, and let the collector read
them.
"""

import json
import os
from collections.abc import Callable
from datetime import datetime

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter, SimpleLogRecordProcessor

from mlguard import AuditLog


def to_opentelemetry(provider: LoggerProvider) -> Callable[[bytes], None]:
    """A sink for ``AuditLog`` that hands each line to OpenTelemetry."""
    logger = provider.get_logger("mlguard.audit")

    def take(line: bytes) -> None:
        record = json.loads(line)
        principal = record.get("principal") or {}
        told = {
            "enduser.id": principal.get("id"),
            "client.address": record.get("address"),
            "http.request.method": record.get("method"),
            "http.route": record.get("route"),
            "http.response.status_code": record.get("status"),
            "mlguard.request_id": record.get("request_id"),
            "mlguard.trace_id": record.get("trace_id"),
            "mlguard.refused_by": record.get("refused_by"),
        }
        is_refused = record.get("refused_by") is not None
        logger.emit(
            LogRecord(
                timestamp=int(datetime.fromisoformat(record["time"]).timestamp() * 1e6) * 1_000,
                severity_number=SeverityNumber.WARN if is_refused else SeverityNumber.INFO,
                event_name=record["event"],
                body=line.decode().rstrip("\n"),
                attributes={name: value for name, value in told.items() if value is not None},
            )
        )

    return take


def main() -> None:
    """Record a few events."""
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(ConsoleLogRecordExporter()))
    log = AuditLog(key=os.environ["AUDIT_KEY"], sink=to_opentelemetry(provider))
    log.attach()
    log.put({"event": "request", "route": "/predict", "status": 200, "principal": {"id": "alice"}})
    log.put({"event": "request", "route": "/predict", "status": 429, "refused_by": "RateLimit"})
    log.close()
    provider.shutdown()


if __name__ == "__main__":
    main()
