"""What an audit wants to know of: one line each on the logger ``mlguard.audit``. Names and digests, never values."""

import logging

logger = logging.getLogger("mlguard.audit")

_MAX_FACT = 200  # characters of one text; more is somebody's attempt to bury the rest


def record_event(event: str, **facts: str | int | float | None) -> None:
    """Record that something happened.

    Args:
        event: What, in dotted words: ``"model.loaded"``, ``"secret.read"``.
        **facts: Of what and by whom. Never a secret, a key, a token or a personal datum.
    """
    text = "".join(f" {name}={_escape(fact)}" for name, fact in facts.items())
    logger.info("%s%s", event, text, extra={"event": event, "facts": facts})


def _escape(fact: str | int | float | None) -> str:
    """The fact as one word of one line: what somebody else named cannot forge a line or a fact."""
    text = str(fact)
    if text and text.isascii() and text.isprintable() and not set(text) & set(" \"'="):
        return text[:_MAX_FACT]
    return ascii(text[:_MAX_FACT])
