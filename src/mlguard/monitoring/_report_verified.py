"""What a report needs to know of a verification of the log: what ``verify_audit_log`` returns has it."""

from collections.abc import Sequence
from typing import Protocol


class ChainFound(Protocol):
    """What was found of one chain, as ``ChainReport`` has it."""

    chain: str
    files: int
    records: int
    since: str
    until: str
    ending: str
    head: int | None
    problems: list[str]
    more_problems: int


class Verified(Protocol):
    """What a verification has found, as ``AuditVerification`` has it."""

    @property
    def is_intact(self) -> bool: ...
    @property
    def problems(self) -> Sequence[str]: ...
    @property
    def chains(self) -> Sequence[ChainFound]: ...
