"""OpenDP, which is an extra."""

import importlib
from typing import Any

from mlguard.errors import ConfigurationError


def load_opendp(*, where: str) -> Any:
    """The package's prelude, on first use: it is slow to import.

    Args:
        where: What needs it, for the error.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        dp = importlib.import_module("opendp.prelude")
    except ImportError:
        missing = True
    else:
        missing = False
    if missing:
        raise ConfigurationError(f"{where} needs the package opendp: pip install 'mlguard[opendp]'")
    dp.enable_features("contrib")  # without which OpenDP has no mechanism at all
    return dp
