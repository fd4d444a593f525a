"""``python -m bench.attacks [--quick] [attack ...]``: attack, print what was found, and write it into the docs.

Writes a CSV file for each table and an SVG file for each figure into ``docs/figures/attacks``, and the tables into the
pages. On one machine they are the same each time, but for the times in ``cost.csv`` and ``watching.csv``. A quick pass
writes nothing.
"""

import argparse
import platform
from importlib.metadata import version
from time import perf_counter

from bench.attacks.figures import FIGURES as CHARTS
from bench.attacks.jobs import NAMES, run
from bench.attacks.results import as_csv, as_grid, read_csv
from bench.attacks.tables import FIGURES, PAGES, rewrite


def main() -> None:
    """Run the attacks that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench.attacks", description=__doc__)
    parser.add_argument("attacks", nargs="*", metavar="attack", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="small and once: do the attacks run, nothing is written")
    options = parser.parse_args()
    if unknown := set(options.attacks) - set(NAMES):
        parser.error(f"no such attack: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    print(f"Python {platform.python_version()}, scikit-learn {version('scikit-learn')}, numpy {version('numpy')}")
    start = perf_counter()
    for title, columns, rows in run(options.attacks or NAMES, quick=options.quick):
        if not title.endswith("-curve"):  # those are for the figures
            print(f"\n{as_grid(columns, rows)}", flush=True)
        if not options.quick:
            FIGURES.mkdir(parents=True, exist_ok=True)
            (FIGURES / f"{title}.csv").write_text(as_csv(columns.head, rows), "utf-8")
    if not options.quick:
        write()
    print(f"\n{perf_counter() - start:.0f} seconds")


def write() -> None:
    """Figures and tables, from the CSV files that are there."""

    def read(name: str) -> list[dict[str, str]]:
        return read_csv((FIGURES / f"{name}.csv").read_text("utf-8"))

    for name, draw in CHARTS.items():
        (FIGURES / f"{name}.svg").write_text(draw(read), "utf-8")
    for page in PAGES:
        page.write_text(rewrite(page.read_text("utf-8"), read), "utf-8")


if __name__ == "__main__":
    main()
