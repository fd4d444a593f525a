"""The figures of the docs, from the CSV files."""

from collections.abc import Callable, Iterable

from bench.attacks.svg import Axis, Line, chart
from bench.attacks.tables import Read, Rows

_PERCENT = tuple(share / 10 for share in range(0, 11, 2))


def _solving(read: Read) -> str:
    lines = list(_lines(read("solving"), "guard", "queries", "error"))
    for row in _by(read("halving"), "guard"):
        points = [(float(one["queries"]), float(one["error"])) for one in row[1]]
        lines.append(Line(f"{row[0]}, halving", points))
    return chart(
        "A logistic regression from its answers",
        "The error of the stolen weights against the number of queries. With all digits it is about 1e-15 from 31"
        " queries on. Rounding and noise slow it down. Looking for the points where the answer changes takes it to"
        " 1e-14 within 1 700 queries, from one decimal as from the label alone.",
        Axis("queries", (10, 100, 1_000, 10_000), log=True),
        Axis("error of the weights", tuple(10.0**power for power in range(-15, 2, 4)), log=True),
        lines,
    )


def _copying(model: str, original: str) -> Callable[[Read], str]:
    def draw(read: Read) -> str:
        rows = [row for row in read("copying") if row["model"] == model and row["inputs"] == "ordinary"]
        return chart(
            f"A copy of a {original}, by budget",
            "How often the best of four copies says what the original says, against the number of rows that the budget"
            " allows, for each kind of answer. A thousand rows make a good copy whatever the answer looks like.",
            Axis("budget in rows", (30, 100, 300, 1_000, 3_000), log=True),
            Axis("agreement", tuple(share / 10 for share in range(4, 11)), percent=True),
            list(_lines(rows, "guard", "budget", "agreement")),
        )

    return draw


def _membership(read: Read) -> str:
    rows = [row for row in read("membership-curve") if row["model"] == "forest, overfit"]
    guards = {
        "LiRA": (
            "all digits",
            "one decimal",
            "label only, none below 0.5",
            "noise of 0.2, best class kept",
            "label only",
        ),
        "jittered labels": ("label only",),
    }
    lines = []
    for attack, names in guards.items():
        for name in names:
            mine = [row for row in rows if row["attack"] == attack and row["guard"] == name]
            label = name if attack == "LiRA" else "jittered labels"
            lines.append(Line(label, [(float(row["fpr"]), float(row["tpr"])) for row in mine]))
    lines.append(Line("guessing", [(share, share) for share in (0.001, 0.01, 0.03, 0.1, 0.2, 0.3, 0.6, 1.0)]))
    return chart(
        "Members of an overfit forest that LiRA finds",
        "The share of members that are found, against the share of others that are taken for members. All digits and"
        " one decimal give nearly all away without a false alarm. The label alone gives away much less, and more to"
        " jittered inputs.",
        Axis("false alarms", (0.001, 0.01, 0.1, 1.0), log=True, percent=True),
        Axis("members found", _PERCENT, percent=True),
        lines,
    )


def _evasion(attack: str) -> Callable[[Read], str]:
    def draw(read: Read) -> str:
        rows = [row for row in read("evasion-curve") if row["attack"] == attack]
        return chart(
            f"{attack}: images that are misread",
            "The share of images for which the attack found one that is misread within a distance, against that"
            " distance, for each guard.",
            Axis("Euclidean distance from the original", (0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)),
            Axis("misread", _PERCENT, percent=True),
            list(_lines(rows, "guard", "distance", "share")),
        )

    return draw


FIGURES: dict[str, Callable[[Read], str]] = {
    "solving": _solving,
    "copying-network": _copying("network", "network"),
    "copying-logistic-regression": _copying("logistic regression", "logistic regression"),
    "copying-random-forest": _copying("random forest", "random forest"),
    "membership": _membership,
    "evasion-hopskipjump": _evasion("HopSkipJump"),
    "evasion-simba": _evasion("SimBA"),
    "evasion-transfer": _evasion("transfer"),
}


def _lines(rows: Rows, name: str, x: str, y: str) -> Iterable[Line]:
    for value, mine in _by(rows, name):
        yield Line(value, [(float(row[x]), float(row[y])) for row in mine])


def _by(rows: Rows, name: str) -> list[tuple[str, Rows]]:
    values = dict.fromkeys(row[name] for row in rows)
    return [(value, [row for row in rows if row[name] == value]) for value in values]
