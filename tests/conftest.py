"""Shared by all tests: no setting of the machine reaches them."""

import logging
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# A deadline would be a timing assertion. Where it decides whether a change may land, the same examples are tried each
# time; elsewhere others, each time.
settings.register_profile("mlguard", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("mlguard")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see mlguard's defaults: production, no keys, a store that no other test has made."""
    for name in list(os.environ):
        if name.upper().startswith("MLGUARD_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("mlguard.store._default", None)


@pytest.fixture(autouse=True)
def audit_logger() -> Iterator[None]:
    """Who listens to the events of one test hears none of another's."""
    logger = logging.getLogger("mlguard.audit")
    level, propagate, handlers = logger.level, logger.propagate, [*logger.handlers]
    yield
    logger.setLevel(level)
    logger.propagate, logger.handlers[:] = propagate, handlers


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Threads take turns after every few instructions, so that a missing lock shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
