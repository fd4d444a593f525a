"""Shared by all tests: no setting of the machine reaches them."""

import os

import pytest
from hypothesis import settings

# A deadline would be a timing assertion.
settings.register_profile("mlguard", deadline=None)
settings.load_profile("mlguard")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see mlguard's defaults: production, no keys, a store that no other test has made."""
    for name in list(os.environ):
        if name.upper().startswith("MLGUARD_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("mlguard.store._default", None)
