"""``mlguard report``: one HTML page of an audit log.

It shows what the log says. With the key of the log (MLGUARD_AUDIT_KEY or --key-file), folders are verified first, and
the page says whether the chains hold; then the exit code is 1 if they do not. The page names callers and addresses: it
is made for its owner only, as the log is.
"""

import argparse
import os
import stat
import sys
from pathlib import Path

from mlguard._files import replace_file
from mlguard.commands._times import past
from mlguard.errors import ConfigurationError
from mlguard.monitoring._report_verified import Verified
from mlguard.monitoring.audit_log import keys_from_settings
from mlguard.monitoring.audit_report import audit_report
from mlguard.monitoring.audit_verification import AuditVerification, verify_audit_log
from mlguard.secrets._files import read_secret_text
from mlguard.settings import load_settings

YES, NO = 0, 1


def add_to(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this command to the parser."""
    report = subcommands.add_parser("report", help="make one HTML page of an audit log", description=__doc__)
    text = "files of JSON lines, and folders of them (default: MLGUARD_AUDIT_LOG)"
    report.add_argument("logs", nargs="*", metavar="AUDIT_LOG", help=text)
    report.add_argument("--output", metavar="FILE", help="the page (default: standard output)")
    report.add_argument("--title", default="What happened", help="at the top of the page")
    report.add_argument("--since", type=past, metavar="WHEN", help="30m, 2h, 7d ago, or a date and time (UTC)")
    report.add_argument("--until", type=past, metavar="WHEN", help="before when")
    text = "with the key of the log, instead of MLGUARD_AUDIT_KEY; repeatable, for older ones"
    report.add_argument("--key-file", action="append", default=[], metavar="FILE", help=text)
    report.add_argument("--heads", metavar="FOLDER", help="of signed heads")
    report.add_argument("--head-key", action="append", default=[], metavar="PEM", help="public; repeatable")
    report.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    options.logs = options.logs or [load_settings().audit_log]
    if not all(options.logs):
        raise ConfigurationError("name the audit log, or set MLGUARD_AUDIT_LOG to its folder")
    if options.output is not None:
        _check_place(Path(options.output))
    verification = _verified(options)
    page = audit_report(
        options.logs, verification=verification, since=options.since, until=options.until, title=options.title
    ).encode()
    if options.output is None:
        sys.stdout.buffer.write(page)
    else:
        replace_file(Path(options.output), page, new_mode=0o600)
    if verification is not None and not verification.is_intact:
        sys.stderr.write("mlguard: the audit log is NOT INTACT; see the page, and mlguard audit-log verify\n")
        return NO
    return YES


def _check_place(path: Path) -> None:
    """Whether a file can be put there: it would take the place of whatever there is, of a device too.

    Raises:
        ConfigurationError: There is something else than a file.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise ConfigurationError(
            f"--output {os.fspath(path)!r} is a folder, a link or a device: name a file, or leave it out for standard "
            "output"
        )


def _verified(options: argparse.Namespace) -> Verified | None:
    """What a verification of all the folders has found; None where there is no key, or not only folders."""
    keys = [read_secret_text(path, where="--key-file").strip() for path in options.key_file]
    only_folders = all(Path(log).is_dir() for log in options.logs)
    asked = bool(keys or options.heads or options.head_key)
    if asked and not only_folders:
        raise ConfigurationError(
            "only a whole log can be verified: give its folder, or leave out the key and the heads"
        )
    if not only_folders or not (asked or _has_key()):
        return None
    heads, head_key = options.heads, [Path(path) for path in options.head_key] or None
    key = keys or keys_from_settings()
    return _Several([verify_audit_log(log, key=key, heads=heads, head_key=head_key) for log in options.logs])


def _has_key() -> bool:
    return bool(load_settings().secret("audit_key").get_secret_value())


class _Several:
    """Verifications of several logs as one.

    Args:
        found: Of each.
    """

    def __init__(self, found: list[AuditVerification]) -> None:
        self.is_intact = all(one.is_intact for one in found)
        self.problems = [problem for one in found for problem in one.problems]
        self.chains = [chain for one in found for chain in one.chains]
