"""Shared by all tests: no setting of the machine reaches them."""

import pytest
from hypothesis import settings

# A deadline would be a timing assertion.
settings.register_profile("mlguard", deadline=None)
settings.load_profile("mlguard")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see mlguard's defaults: production, no keys, a store that no other test has made."""
    monkeypatch.delenv("MLGUARD_ENV", raising=False)
    monkeypatch.delenv("MLGUARD_API_KEYS", raising=False)
    monkeypatch.delenv("MLGUARD_API_KEYS_FILE", raising=False)
    monkeypatch.delenv("MLGUARD_STORE_URL", raising=False)
    monkeypatch.setattr("mlguard.store._default", None)
