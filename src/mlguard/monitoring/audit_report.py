"""One page that tells what an audit log holds: ``audit_report``."""

import math
import os
from collections.abc import Iterable
from datetime import UTC, datetime

from mlguard.errors import ConfigurationError
from mlguard.monitoring._report_verified import Verified


def audit_report(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    verification: Verified | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    title: str = "What happened",
    now: datetime | None = None,
) -> str:
    """Make one HTML page of an audit log: who asks how much, what was refused, latency, confidence, suspects, events.

    The page holds all it needs, asks nobody for anything, and runs no script: its Content-Security-Policy allows one
    style and nothing else. Whatever callers have chosen is shown as text, cut, with control characters written out.

    It shows what the log says. Whether anybody has altered the log, only a verification tells. It names callers and
    addresses: keep it as you keep the log.

    Reads a record at a time, in memory that does not grow with the log: the heaviest callers are kept, and the page
    says by how much their numbers may be short.

    Args:
        paths: Files of JSON lines as ``AuditLog`` writes them, also packed by gzip, and folders of such files
            (``*.jsonl``, ``*.jsonl.gz``).
        verification: What ``verify_audit_log`` has found of the same log. Files of no chain that it knows, or of which
            it could verify nothing, are not read then, and of a chain that holds no more records than it has verified.
            None: the page says that the log was not verified.
        since: Records before are left out. One without a zone is of UTC.
        until: Records from then on are left out.
        title: Stands at the top.
        now: When it is made. Records of more than a day later are counted as wrong. None: now.

    Returns:
        The page, to be written as UTF-8.

    Raises:
        ConfigurationError: A path that is not there, a folder without such files, or no path at all.
        OSError: A folder cannot be read. Files that cannot be read are told of on the page.
    """
    # A service makes no reports, and need not load what makes them.
    from mlguard.monitoring._report_page import page  # noqa: PLC0415  # heavy, and for this alone
    from mlguard.monitoring._report_reading import Reading, chain_of, log_files  # noqa: PLC0415  # as above
    from mlguard.monitoring._report_totals import Totals  # noqa: PLC0415  # heavy, and for this alone

    made = _utc(now) if now is not None else datetime.now(UTC)
    files = log_files([paths] if isinstance(paths, str | os.PathLike) else paths)
    if not files:
        raise ConfigurationError("audit_report(paths): name at least one audit log")
    reading, totals = Reading(), Totals()
    proved = _proved(verification) if verification is not None else {}
    if verification is not None:
        named = len(files)
        files = [file for file in files if chain_of(file) in proved]
        reading.unproved = named - len(files)
    first = _utc(since).timestamp() if since is not None else -math.inf
    end = _utc(until).timestamp() if until is not None else math.inf
    for at, event, record in reading.records(files, since=first, until=end, now=made.timestamp(), proved=proved):
        totals.take(at, event, record)
    totals.settle()
    return page(title, made, reading, totals, verification)


def _proved(verification: Verified) -> dict[str, float]:
    """How many lines of each chain can be shown: none of one of which nothing holds.

    A chain that holds has no others before its end; what comes after that, a line without an end among it, was not
    verified. Of one with problems all is shown, and the page says that first.
    """
    proved: dict[str, float] = {}
    for chain in verification.chains:
        if chain.records:
            more = math.inf if chain.problems else chain.records
            proved[chain.chain] = proved.get(chain.chain, 0) + more
    return proved


def _utc(time: datetime) -> datetime:
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
