"""``python -m bench [--short] [bench ...]``: measure, and print the target beside each.

The exit status says whether every answer was right, not whether a target was met: times differ between machines.
"""

import argparse
import asyncio
import logging
import platform
from importlib.metadata import version

from bench import (
    alerts,
    answer,
    audit,
    audit_pages,
    audited,
    auth,
    callers,
    drift,
    encryption,
    everything,
    exactness,
    feedback,
    formats,
    hostile,
    learnt,
    loading,
    lockdown,
    metrics,
    outages,
    passwords,
    people,
    predict,
    prompts,
    puzzles,
    queries,
    refusal,
    repeats,
    rows,
    signing,
    squeezing,
    stores,
    throughput,
    tokens,
    whole_service,
)

_BENCHES = {
    "predict": predict.measure,
    "formats": formats.measure,
    "rows": rows.measure,
    "learnt": learnt.measure,
    "feedback": feedback.measure,
    "answer": answer.measure,
    "repeats": repeats.measure,
    "policies": answer.measure_policies,
    "refusal": refusal.measure,
    "auth": auth.measure,
    "tokens": tokens.measure,
    "hostile": hostile.measure,
    "passwords": passwords.measure,
    "stores": stores.measure,
    "exactness": exactness.measure,
    "outages": outages.measure,
    "puzzles": puzzles.measure,
    "queries": queries.measure,
    "throughput": throughput.measure,
    "hits": callers.measure_hits,
    "callers": callers.measure,
    "prompts": prompts.measure,
    "squeezing": squeezing.measure,
    "signing": signing.measure,
    "encryption": encryption.measure,
    "everything": everything.measure,
    "service": whole_service.measure,
    "loading": loading.measure,
    "lockdown": lockdown.measure,
    "metrics": metrics.measure,
    "drift": drift.measure,
    "alerts": alerts.measure,
    "people": people.measure_recall,
    "redaction": people.measure_redaction,
    "audit": audit.measure,
    "report": audit_pages.measure,
    "audited": audited.measure,
}


def main() -> None:
    """Run the benches that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("benches", nargs="*", metavar="bench", help=", ".join(_BENCHES))
    parser.add_argument("--short", action="store_true", help="one quick pass: are the answers right, does it run")
    options = parser.parse_args()
    if unknown := set(options.benches) - set(_BENCHES):
        parser.error(f"no such bench: {', '.join(sorted(unknown))}; there are {', '.join(_BENCHES)}")
    logging.getLogger("mlguard").setLevel(logging.CRITICAL)  # refusals are the point here
    print(f"Python {platform.python_version()}, FastAPI {version('fastapi')}, pydantic {version('pydantic')}")
    if options.short:
        print("A short pass: the answers are checked, the ratios say little.")
    for name in options.benches or _BENCHES:
        print()
        print(asyncio.run(_BENCHES[name](short=options.short)))


main()
