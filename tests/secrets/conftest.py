"""Shared by the tests of secrets: one certificate, for it takes a while to make."""

import pytest

from tests.secrets.servers import Certificate, make_certificate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """For ``localhost``, signed by an authority of the tests."""
    return make_certificate(tmp_path_factory.mktemp("tls"))
