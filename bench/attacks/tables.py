"""The tables of the docs, from the CSV files: each between ``<!-- attacks: NAME -->`` and ``<!-- end -->``."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from bench.attacks.attributes import BASELINE
from bench.attacks.victim import LABEL_IF_SURE

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "figures" / "attacks"
PAGES = (
    ROOT / "docs" / "explanation" / "what-each-guard-stops.md",
    ROOT / "docs" / "explanation" / "limits-against-extraction.md",
    ROOT / "docs" / "how-to" / "noise-and-repeats.md",
    ROOT / "docs" / "how-to" / "images.md",
    ROOT / "docs" / "how-to" / "watermark-models.md",
    ROOT / "docs" / "explanation" / "poisoned-feedback.md",
    ROOT / "README.md",
)

TUMOURS = "tumours, logistic regression"  # as ``models.tumours`` calls it

_WORTH = ("accuracy", "ECE", "a request")
_MARKED = re.compile(r"(<!-- attacks: ([\w-]+) -->\n)(.*?\n)??(<!-- end -->)", re.DOTALL)

Row = dict[str, str]
Rows = Sequence[Row]


Read = Callable[[str], Rows]


def rewrite(page: str, read: Read) -> str:
    """A page with its tables as the files have them now.

    Args:
        page: Its text.
        read: The rows of the CSV file with this name.
    """

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}{TABLES[match[2]](read)}\n{match[4]}"

    return _MARKED.sub(table, page)


def named(page: str) -> list[str]:
    """The tables that a page has."""
    return [match[2] for match in _MARKED.finditer(page)]


def _solving(read: Read) -> str:
    rows = read("solving")
    guards = _values(rows, "guard")
    lines = [
        [_thousands(queries), *(_small(_only(rows, guard=guard, queries=queries)["error"]) for guard in guards)]
        for queries in _values(rows, "queries")
    ]
    worth = zip(*(_use(read, TUMOURS, guard) for guard in guards), strict=True)
    lines += [[name, *cells] for name, cells in zip(_WORTH, worth, strict=True)]
    return _markdown(["queries", *guards], lines, _spread(rows, "error"))


def _halving(read: Read) -> str:
    rows = read("halving")
    lines = [
        [row["guard"], _thousands(row["queries"]), _small(row["error"]), *_use(read, TUMOURS, row["guard"])]
        for row in rows
    ]
    return _markdown(["answer", "queries", "error", *_WORTH], lines, _spread(rows, "error"))


def _averaging(read: Read) -> str:
    rows = read("averaging")
    lines = []
    for row in rows:
        how = f"changed by up to {row['jitter'].replace('e-0', 'e-')}" if float(row["jitter"]) else "unchanged"
        lines.append([row["guard"], how, _small(row["error"]), *_use(read, TUMOURS, row["guard"])])
    return _markdown(["noise", "asked again", "error", *_WORTH], lines, _spread(rows, "error"))


def _copying(read: Read) -> str:
    rows = read("copying")
    columns = [("ordinary", "100"), ("ordinary", "1000"), ("made up", "1000")]
    lines = []
    for guard in _values(rows, "guard"):
        cells = [
            _percent(_only(rows, model="network", guard=guard, inputs=inputs, budget=budget)["agreement"], 1)
            for inputs, budget in columns
        ]
        lines.append([guard, *cells, *_use(read, "network", guard)])
    head = [f"{_thousands(budget)} {inputs}" for inputs, budget in columns]
    return _markdown(
        ["answer", *head, *_WORTH],
        lines,
        _points([row for row in rows if row["model"] == "network"], "agreement"),
    )


def _budgets(read: Read) -> str:
    rows = [row for row in read("copying") if row["inputs"] == "ordinary"]
    guards = ["all digits", "two decimals", "one decimal", "label only"]
    lines = [
        [
            model,
            _thousands(budget),
            *(_percent(_only(rows, model=model, budget=budget, guard=g)["agreement"], 1) for g in guards),
        ]
        for model in _values(rows, "model")
        for budget in _values(rows, "budget")
    ]
    return _markdown(["original", "budget in rows", *guards], lines, _points(rows, "agreement"))


def _membership(read: Read) -> str:
    rows = read("membership")
    model = "forest, overfit"
    attacks = ["threshold", "LiRA", "LiRA on averages", "jittered labels"]
    lines = []
    for guard in _values(rows, "guard"):
        cells = [_auc(rows, model, attack, guard) for attack in attacks]
        if guard != LABEL_IF_SURE.name:  # the others all tell the same labels, and this attack needs no more
            cells[3] = _auc(rows, model, attacks[3], "label only")
        lines.append([guard, *cells, *_use(read, model, guard)])
    return _markdown(["answer", *attacks, *_WORTH], lines, _auc_errors([r for r in rows if r["model"] == model]))


def _training(read: Read) -> str:
    rows = read("membership")
    columns = [("LiRA", guard) for guard in ("all digits", "one decimal", "label only")]
    columns.append(("jittered labels", "label only"))
    lines = []
    for model in _values(rows, "model"):
        cells = [_auc(rows, model, attack, guard) for attack, guard in columns]
        lines.append([model, *cells, *_use(read, model, "all digits")[:2]])  # how long models take is not measured
    head = [f"{attack}, {guard}" for attack, guard in columns[:3]]
    return _markdown(["model", *head, columns[3][0], *_WORTH[:2]], lines, _auc_errors(rows))


def _evasion(read: Read, guards: Sequence[str] = ()) -> str:
    rows = read("evasion")
    if guards:
        rows = [row for row in rows if row["guard"] in guards]
    attacks = _values(rows, "attack")
    lines = []
    for guard in _values(rows, "guard"):
        cells = []
        for attack in attacks:
            row = _only(rows, attack=attack, guard=guard)
            distance = row["median distance"]
            cells.append(
                f"{_percent(row['within 1'])} ({float(distance):.2f})"
                if distance != "inf"
                else f"{_percent(row['within 1'])} (none)"
            )
        lines.append([guard, *cells, *_use(read, "network", guard)])
    return _markdown(["guard", *attacks, *_WORTH], lines, _points(rows, "within 1"))


def _attributes(read: Read) -> str:
    rows = read("attributes")
    lines = []
    for row in rows:
        if row["guard"] == BASELINE:
            name, worth = row["guard"], [""] * len(_WORTH)
        else:
            name = row["guard"] if row["asked"] == "1" else f"{row['guard']}, averaged over {row['asked']}"
            worth = _use(read, "patients, forest", row["guard"])
        lines.append([name, f"{float(row['members']):.3f}", f"{float(row['others']):.3f}", *worth])
    error = max(float(row[f"{who} se"]) for row in rows for who in ("members", "others"))
    note = f"Means over {rows[0]['runs']} runs; the largest standard error is {error:.3f}."
    return _markdown(["answer", "members", "others", *_WORTH], lines, note)


def _watermark(read: Read) -> str:
    rows = read("watermark")
    lines = [
        [
            row["model"],
            row["suspect"],
            _percent(row["accuracy"], 1),
            _percent(row["matches"]),
            f"{_p_value(row['p'])} ({_p_value(row['p lowest'])} to {_p_value(row['p highest'])})",
        ]
        for row in rows
    ]
    note = (
        f"Medians over {rows[0]['runs']} runs, each with a key of its own; in parentheses the lowest and the highest."
    )
    return _markdown(["model", "suspect", "accuracy", "triggers matched", "p-value"], lines, note)


def _detection(read: Read) -> str:
    rows = read("detection")
    lines = []
    for attack in _values(rows, "attack"):
        found = {row["index of all"]: row for row in rows if row["attack"] == attack}
        cells = [*_noticed(found["with"]), *(_noticed(found["without"]) if "without" in found else ("", ""))]
        lines.append([attack, *cells])
    head = ["attack", "noticed", "queries", "without the index", "queries"]
    note = f"Means over {rows[0]['runs']} runs of 6 attacks; queries are medians, and in brackets the most."
    return _markdown(head, lines, note)


def _noticed(row: Row) -> tuple[str, str]:
    spent = [row["queries"], row["latest"]]
    if row["latest"] == "inf":
        spent[1] = "never"
    queries = "" if row["queries"] == "inf" else f"{float(spent[0]):.0f} ({_most(spent[1])})"
    return _percent(row["noticed"]), queries


def _most(value: str) -> str:
    return value if value == "never" else f"{float(value):.0f}"


def _false_alarms(read: Read) -> str:
    rows = read("false-alarms")
    lines = []
    for data in _values(rows, "data"):
        for caller in _values(rows, "caller"):
            some = [row for row in rows if (row["data"], row["caller"]) == (data, caller)]
            lines.append([caller, data, *(_percent(row["suspected"], 1) for row in some)])
    head = ["caller", "model", "suspected", "without the index"]
    return _markdown(
        head, lines, f"Means over {rows[0]['runs']} runs of 5 to 20 callers with up to 1 000 queries each."
    )


def _watching(read: Read) -> str:
    rows = read("watching")
    lines = [
        [row["data"], row["columns"], f"{float(row['microseconds']):.0f} µs", f"{float(row['bytes']) / 1e3:.0f} KB"]
        for row in rows
    ]
    return _markdown(
        ["model", "columns", "a query", "kept of a caller"], lines, f"Medians over {rows[0]['runs']} runs."
    )


def _poisoning(read: Read, poison: str) -> str:
    rows = read("poisoning")
    guards = [guard for guard in _values(rows, "guard") if guard]
    lines = []
    for model in _values(rows, "model"):
        mine = [row for row in rows if row["model"] == model and row["poison"] in {"", poison}]
        for attack in _values(mine, "attack"):
            cells = {row["guard"]: _accuracy(row) for row in mine if row["attack"] == attack}
            lines.append([model, attack, *(cells.get(guard, cells.get("", "")) for guard in guards)])
    worst = max(float(row["worst class se"]) for row in rows)
    return _markdown(
        ["model", "attack", *(guard if guard != "none" else "no guard" for guard in guards)],
        lines,
        f"{_points(rows, 'accuracy')} In parentheses the class that is recognised worst, with standard errors of up to"
        f" {worst * 100:.0f} points.",
    )


def _accuracy(row: Row) -> str:
    return f"{_percent(row['accuracy'], 1)} ({_percent(row['worst class'])})"


def _poison_accepted(read: Read) -> str:
    rows = [row for row in read("poisoning") if row["guard"] not in {"", "none"}]
    guards = _values(rows, "guard")
    lines = []
    for attack in _values(rows, "attack"):
        measure = "poison accepted" if attack != "no poison" else "honest kept back"
        for poison in _values([row for row in rows if row["attack"] == attack], "poison"):
            cells = [_mean_of(rows, measure, attack=attack, poison=poison, guard=guard) for guard in guards]
            lines.append([attack if poison else "no poison: honest rows kept back", poison.replace("%", " %"), *cells])
    runs = f"Means over {len(_values(rows, 'model'))} models and {rows[0]['runs']} runs of each."
    return _markdown(["attack", "poison", *guards], lines, runs)


def _mean_of(rows: Rows, measure: str, **keys: str) -> str:
    found = [float(row[measure]) for row in rows if all(row[name] == value for name, value in keys.items())]
    return _percent(str(sum(found) / len(found)))


def _p_value(value: str) -> str:
    return f"{float(value):.1g}".replace("e-0", "e-")


def _cost(read: Read) -> str:
    rows = read("cost")
    lines = [[row["guard"], f"{row['one row']} µs", f"{int(row['1 000 rows']) / 1_000:.1f} ms"] for row in rows]
    return _markdown(
        ["guard", "one row", "1 000 rows"], lines, "Of whole requests in one process, the fastest of 21 rounds."
    )


def _summary(read: Read) -> str:
    guards = ("all digits", "two decimals", "one decimal", "label only")
    solved, halved, copied, told = (read(name) for name in ("solving", "halving", "copying", "membership"))
    steps = _values(halved, "queries")[-1]
    error = "Error of the stolen weights, logistic regression of 30 features"
    lines = [
        [f"{error}, 310 queries", *(_cell(solved, "error", _small, guard=g, queries="310") for g in guards)],
        [
            f"The same, {_thousands(steps)} queries chosen step by step (from labels: but for the scale)",
            *(_cell(halved, "error", _small, guard=g, queries=steps) for g in guards),
        ],
        [
            "Agreement of a copy with a digits network, 1 000 rows",
            *(
                _cell(copied, "agreement", lambda share: _percent(share, 1), model="network", guard=g, budget="1000",
                      inputs="ordinary")
                for g in guards
            ),
        ],
        [
            "Who was in the training data of an overfit forest, AUC of the best attack tried",
            *(f"{_best_auc(told, 'forest, overfit', g):.2f}" for g in guards),
        ],
    ]  # fmt: skip
    return _markdown(["attack", *guards], lines, _spread(solved, "error"))


TABLES: dict[str, Callable[[Read], str]] = {
    "summary": _summary,
    "squeezing": partial(_evasion, guards=("all digits", "squeezed to 2 bits", "median of 2 x 2")),
    "solving": _solving,
    "halving": _halving,
    "averaging": _averaging,
    "copying": _copying,
    "budgets": _budgets,
    "membership": _membership,
    "training": _training,
    "evasion": _evasion,
    "attributes": _attributes,
    "cost": _cost,
    "watermark": _watermark,
    "detection": _detection,
    "false-alarms": _false_alarms,
    "watching": _watching,
    "poisoning": partial(_poisoning, poison="5%"),
    "poisoning-20": partial(_poisoning, poison="20%"),
    "poison-accepted": _poison_accepted,
}


# Cells ----------------------------------------------------------------------------------------------------------------


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str]], note: str) -> str:
    table = [head, ["---"] * len(head), *lines]
    return "\n".join([*(f"| {' | '.join(cells)} |" for cells in table), "", note])


def _values(rows: Rows, column: str) -> list[str]:
    return list(dict.fromkeys(row[column] for row in rows))


def _only(rows: Rows, **keys: str) -> Row:
    (row,) = [row for row in rows if all(row[name] == value for name, value in keys.items())]
    return row


def _cell(rows: Rows, measure: str, write: Callable[[str], str], **keys: str) -> str:
    """What was measured, or nothing where it was not."""
    found = [row for row in rows if all(row[name] == value for name, value in keys.items())]
    return write(found[0][measure]) if found else ""


def _best_auc(rows: Rows, model: str, guard: str) -> float:
    """Of all attacks on what this guard tells, and of that which needs nothing but labels, which all of them tell."""
    labels = ("jittered labels", "label only")
    return max(
        float(row["auc"])
        for row in rows
        if row["model"] == model and (row["guard"] == guard or (row["attack"], row["guard"]) == labels)
    )


def _use(read: Read, model: str, guard: str) -> list[str]:
    """What is left of the answers' worth, and the time of a request of one row."""
    row, took = _only(read("usefulness"), model=model, guard=guard), _only(read("cost"), guard=guard)["one row"]
    ece = f"{float(row['ece']):.2f}" if row["ece"] else "no scores"
    return [_percent(row["accuracy"], 1), ece, f"{took} µs"]


def _auc(rows: Rows, model: str, attack: str, guard: str) -> str:
    found = [row for row in rows if (row["model"], row["attack"], row["guard"]) == (model, attack, guard)]
    return f"{float(found[0]['auc']):.2f} ({_percent(found[0]['tpr at 1 % fpr'])})" if found else ""


def _auc_errors(rows: Rows) -> str:
    auc, tpr = (max(float(row[f"{name} se"]) for row in rows) for name in ("auc", "tpr at 1 % fpr"))
    return (
        f"Means over {rows[0]['runs']} runs; the largest standard errors are {auc:.2f} of the AUC and"
        f" {tpr * 100:.0f} points of the members found."
    )


def _percent(value: str, decimals: int = 0) -> str:
    return f"{float(value) * 100:.{decimals}f} %"


def _small(value: str) -> str:
    number = float(value)
    return f"{number:.0e}".replace("e-0", "e-") if number < 1e-4 else f"{number:.2g}"


def _thousands(value: str) -> str:
    return f"{int(float(value)):,}".replace(",", " ")


def _points(rows: Rows, measure: str) -> str:
    error = max(float(row[f"{measure} se"]) for row in rows)
    return f"Means over {rows[0]['runs']} runs; the largest standard error is {error * 100:.1f} points."


def _spread(rows: Rows, measure: str) -> str:
    factor = max(float(row[f"{measure} highest"]) / float(row[f"{measure} lowest"]) for row in rows)
    return (
        f"Medians over {rows[0]['runs']} runs, of which the worst has up to {factor:.2g} times the error of the best."
    )
