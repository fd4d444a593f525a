"""The event that a request's span gets where it is refused."""

from collections.abc import Callable

from mlguard.monitoring._series import label

Refusal = tuple[str, str]


def span_marker() -> Callable[[Refusal | None], None]:
    """What adds the event to the current span. It does nothing where OpenTelemetry is not installed."""
    try:
        from opentelemetry import trace  # noqa: PLC0415  # an extra
    except ImportError:
        return lambda _: None

    def mark(refusal: Refusal | None) -> None:
        if refusal is None:
            return
        span = trace.get_current_span()
        if span.is_recording():
            guard, rule = refusal
            span.add_event("mlguard.refused", {"mlguard.guard": label(guard), "mlguard.rule": label(rule)})

    return mark
