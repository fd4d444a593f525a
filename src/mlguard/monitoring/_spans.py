"""The event that a request's span gets where it is refused."""

from collections.abc import Callable

Refusal = tuple[str, str]


def span_marker() -> Callable[[Refusal | None], None] | None:
    """What adds the event to the current span, or None where OpenTelemetry is not installed."""
    try:
        from opentelemetry import trace  # noqa: PLC0415  # an extra
    except ImportError:
        return None

    def mark(refusal: Refusal | None) -> None:
        if refusal is None:
            return
        span = trace.get_current_span()
        if span.is_recording():
            guard, rule = refusal
            span.add_event("mlguard.refused", {"mlguard.guard": guard, "mlguard.rule": rule})

    return mark
