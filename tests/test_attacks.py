"""The attacks of ``bench/attacks`` work where nothing stops them, and the docs say what they found."""

import hashlib
import re
from math import inf, nan
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from bench.attacks import attributes, copying, detection, evasion, membership, poisoning, solving, watermarks
from bench.attacks.figures import FIGURES as CHARTS
from bench.attacks.models import Data, Task, customers, fit, patients
from bench.attacks.network import Network, teach
from bench.attacks.results import Columns, Measures, read_csv, summarise
from bench.attacks.tables import FIGURES, PAGES, TABLES, named, rewrite
from bench.attacks.victim import (
    ALL_DIGITS,
    BEST_CLASS,
    FRESH_NOISE,
    HEAVY_NOISE_BEST_KEPT,
    LABEL_IF_SURE,
    LABEL_ONLY,
    LIGHT_NOISE,
    ONE_DECIMAL,
    ROUNDED_NOISE,
    Defence,
    RefusedError,
    Rows,
    Victim,
    read_answer,
)

from mlguard import QueryMonitor, Watermark

WEIGHTS = np.array([1.5, -2.0, 0.5])
OFFSET = 0.25


class Linear:
    """A logistic regression of three features."""

    classes_ = (0, 1)

    def predict_proba(self, x: Rows) -> Rows:
        one = 1 / (1 + np.exp(-(x @ WEIGHTS + OFFSET)))
        return np.column_stack([1 - one, one])


def victim(defence: Defence, **more: int) -> Victim:
    return Victim(Linear(), defence, columns=3, low=-10.0, high=10.0, **more)


# The victim -----------------------------------------------------------------------------------------------------------


def test_an_attacker_sees_what_the_guard_lets_out() -> None:
    """Answers come through the guards, as JSON."""
    x = np.array([[0.2, 0.2, 0.3], [1.0, 0.0, 0.0]])
    true = Linear().predict_proba(x)
    with victim(ALL_DIGITS) as one:
        assert np.array_equal(one.ask(x), true)
    with victim(ONE_DECIMAL) as one:
        assert one.ask(x).tolist() == [[0.4, 0.6], [0.1, 0.9]]
    with victim(LABEL_ONLY) as one:
        assert one.ask(x).tolist() == np.eye(2)[true.argmax(axis=1)].tolist()


def test_a_budget_ends_the_attack() -> None:
    """When the budget is used up, nothing is told any more."""
    with victim(ALL_DIGITS, budget=5) as one:
        one.ask(np.zeros((5, 3)))
        with pytest.raises(RefusedError):
            one.ask(np.zeros((1, 3)))
        assert one.asked == 5


@pytest.mark.parametrize(
    ("answer", "scores"),
    [
        ([[0.2, 0.8, 0.0]], [[0.2, 0.8, 0.0]]),
        ([2], [[0.0, 0.0, 1.0]]),
        ([[{"label": 1, "score": 0.5}]], [[0.25, 0.5, 0.25]]),
        ([None, 0], [[1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0]]),
        (["abstain", [{"label": 0, "score": 1.0}]], [[1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0]]),
    ],
)
def test_every_form_of_an_answer_is_read(answer: list[object], scores: list[list[float]]) -> None:
    """An attacker makes scores of whatever is told."""
    assert np.allclose(read_answer(answer, 3), scores)


def test_keyed_noise_repeats_and_fresh_noise_does_not() -> None:
    """The same input gets the same noise, where it is keyed; an input close to it gets other noise, unless rounded."""
    x = np.full((2, 3), 0.1)
    x[1] += 1e-6
    cases = (LIGHT_NOISE, True, False), (FRESH_NOISE, False, False), (ROUNDED_NOISE, True, True)
    for defence, repeats, near in cases:
        with victim(defence) as one:
            first, second = one.ask(x), one.ask(x)
        assert np.array_equal(first, second) == repeats
        assert np.array_equal(first[0], first[1]) == near
        assert np.allclose(first.sum(axis=1), 1.0)


def test_noise_can_keep_the_best_class() -> None:
    """However large the noise, the best class stays the best."""
    x = np.random.default_rng(0).normal(0, 0.1, (200, 3))
    with victim(ALL_DIGITS) as bare, victim(HEAVY_NOISE_BEST_KEPT) as kept, victim(LIGHT_NOISE) as not_kept:
        assert np.array_equal(kept.label(x), bare.label(x))
        assert not np.array_equal(not_kept.label(x), bare.label(x))


# Extraction -----------------------------------------------------------------------------------------------------------


def test_equations_give_a_linear_model_away() -> None:
    """Four exact answers are three weights and an offset; with one decimal they are not."""
    true = np.append(WEIGHTS, OFFSET)
    for defence, small in ((ALL_DIGITS, True), (ONE_DECIMAL, False)):
        with victim(defence) as one:
            found = solving.solve(one, 3, 4, solving.View.of(defence), 0)
            assert one.asked == 4
        assert (solving.error(found, true) < 1e-9) == small


def test_noise_is_seen_through() -> None:
    """Who knows how noise and clipping bend the scores gets the weights out of enough answers."""
    with victim(LIGHT_NOISE) as one:
        found = solving.solve(one, 3, 5_000, solving.View.of(LIGHT_NOISE), 0)
    assert solving.error(found, np.append(WEIGHTS, OFFSET)) < 0.05


def test_halving_defeats_rounding_and_labels() -> None:
    """Points where the answer changes give the weights out of one decimal, and their direction out of labels."""
    true = np.append(WEIGHTS, OFFSET)
    with victim(ONE_DECIMAL) as one:
        assert solving.error(solving.bisect_rounding(one, 3, 1, 50, 0), true) < 1e-9
    with victim(LABEL_ONLY) as one:
        assert solving.error(solving.bisect_labels(one, 3, 50, 0), true / np.linalg.norm(true)) < 1e-9


def test_a_copy_is_taught_until_the_budget_is_spent() -> None:
    """The attacker gets as many answers as the budget holds, and a copy of a linear model from them."""
    pool = np.random.default_rng(1).uniform(0, 1, (400, 3))
    task = Task("linear", Linear(), Data(pool, np.zeros(400, np.intp)), Data(pool[::-1], np.zeros(400, np.intp)))
    asked, told = copying.take(task, ALL_DIGITS, copying.ordinary(pool, 0), 100, 0)
    assert asked.shape == (100, 3)
    assert copying.copy_and_compare(task, asked, told, 0) == 1.0


def test_ordinary_inputs_do_not_run_out() -> None:
    """After the pool come mixtures of it, within the bounds."""
    pool = np.random.default_rng(1).uniform(0, 1, (120, 3))
    inputs = copying.ordinary(pool, 0)
    assert np.array_equal(inputs(50), pool[50:100])
    mixed = inputs(1_000)
    assert mixed.shape == (50, 3)
    assert mixed.min() >= 0.0
    assert mixed.max() <= 1.0


@pytest.mark.parametrize("hidden", [0, 8])
def test_the_copy_climbs_along_its_gradient(hidden: int) -> None:
    """The gradient is what a small change of the input does to the loss."""
    random = np.random.default_rng(2)
    copy = teach(random.normal(size=(50, 4)), random.dirichlet(np.ones(3), 50), hidden=hidden, seed=0, steps=50)
    x, labels = random.normal(size=(5, 4)), np.array([0, 1, 2, 1, 0])

    def loss(at: Rows) -> Rows:
        logs: Rows = -np.log(copy.scores(at)[np.arange(5), labels])
        return logs

    for column in range(4):
        change = np.zeros(4)
        change[column] = 1e-5
        slope = (loss(x + change) - loss(x - change)) / 2e-5
        assert np.allclose(copy.gradient(x, labels)[:, column], slope, atol=1e-6)


# Evasion --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def images() -> Data:
    """Inputs that the linear model has as 1, away from the edges."""
    x = np.random.default_rng(3).uniform(0.3, 0.7, (400, 3))
    sure = x[(x @ WEIGHTS + OFFSET > 0.1) & (x @ WEIGHTS + OFFSET < 0.5)][:20]
    return Data(sure, np.ones(len(sure), np.intp))


def task_of(images: Data) -> Task:
    return Task("linear", Linear(), images, images)


def test_hop_skip_jump_finds_nearly_the_closest(images: Data) -> None:
    """Of a linear model the closest misread input is known: the attack comes close, with labels only."""
    closest = (images.x @ WEIGHTS + OFFSET) / np.linalg.norm(WEIGHTS)
    with victim(LABEL_ONLY) as one:
        result = evasion.hop_skip_jump(one, task_of(images), images, 0)
    assert result.queries <= 2_500
    assert np.all(result.distance >= closest * 0.999)
    assert np.median(result.distance / closest) < 1.2


def test_simba_needs_scores(images: Data) -> None:
    """Along the scores every input is misread in the end; without them one step must do."""
    with victim(ALL_DIGITS) as one:
        result = evasion.simba(one, task_of(images), images, 0, step=0.02)
    assert np.all(np.isfinite(result.distance))
    with victim(LABEL_ONLY) as one:
        assert not np.any(np.isfinite(evasion.simba(one, task_of(images), images, 0, step=0.02).distance))


def test_climbing_keeps_its_distance() -> None:
    """What is made on the copy is no further away than allowed, is an image still, and fools the copy."""
    random = np.random.default_rng(4)
    x = random.uniform(0, 1, (30, 5))
    copy = Network(None, random.normal(size=(5, 2)), np.zeros(2))
    labels = copy.scores(x).argmax(axis=1)
    changed = evasion.climb(copy, Data(x, labels), 0.8)
    assert np.all(np.linalg.norm(changed - x, axis=1) <= 0.8 + 1e-9)
    assert changed.min() >= 0.0
    assert changed.max() <= 1.0
    assert np.mean(copy.scores(changed).argmax(axis=1) != labels) > 0.5


# Membership and attributes --------------------------------------------------------------------------------------------


def test_shadow_models_tell_members_apart() -> None:
    """The scores of an overfit forest give its members away; labels alone do so less."""
    secret = customers("forest, overfit", 0)
    candidates = Data(
        np.concatenate([secret.members.x, secret.others.x]), np.concatenate([secret.members.y, secret.others.y])
    )
    shadows = membership.Shadows(secret, candidates, 8, 0)
    members = np.arange(800) < 400
    found = {}
    for defence in (ALL_DIGITS, BEST_CLASS, LABEL_IF_SURE, LABEL_ONLY):
        with Victim(secret.model, defence, columns=20, low=-12.0, high=12.0) as one:
            told = one.ask(candidates.x)[np.arange(800), candidates.y]
        guess = shadows.compare(told, shadows.told(defence))
        found[defence.name] = np.mean(guess[members][:, None] > guess[~members]) + 0.5 * np.mean(
            guess[members][:, None] == guess[~members]
        )
    assert found["all digits"] > 0.99
    assert found["best class, two decimals"] > 0.99
    assert found["label only"] < found["label only, none below 0.5"] < found["all digits"]


def test_a_column_is_found_out() -> None:
    """The scores of a forest give a missing column of its members away."""
    secret = patients(0)
    assert secret.model.score(secret.members.x, secret.members.y) == 1.0
    found = attributes.run(0, quick=True)["attributes"]
    baseline, told = found[attributes.BASELINE, ""], found["all digits", "1"]
    assert told["members"] > baseline["members"] + 0.1
    assert attributes.run(0, quick=True)["attributes"] == found


# The docs -------------------------------------------------------------------------------------------------------------


def read(name: str) -> list[dict[str, str]]:
    return read_csv((FIGURES / f"{name}.csv").read_text("utf-8"))


def test_seeds_are_put_together() -> None:
    """A mean has its standard error, a median its lowest and highest; what was not measured is left empty."""
    runs: list[Measures] = [{("a",): {"x": value}} for value in (1.0, 2.0, 4.5)]
    endless: list[Measures] = [{("a",): {"x": value}} for value in (1.0, inf, inf)]
    mean = Columns("", ("who",), ("x",))
    assert mean.head == ["who", "x", "x se", "runs"]
    assert summarise(mean, runs) == [["a", "2.5", "1.041", "3"]]
    assert summarise(Columns("", ("who",), ("x",), "median"), runs) == [["a", "2", "1", "4.5", "3"]]
    assert summarise(mean, runs[:1]) == [["a", "1", "", "1"]]
    assert summarise(mean, endless) == [["a", "inf", "", "3"]]
    assert summarise(mean, [{("a",): {"x": nan}}] * 3) == [["a", "", "", "3"]]


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_the_docs_say_what_was_found(page: Path) -> None:
    """The tables of the pages are those of the CSV files, and one that was altered is put right."""
    text = page.read_text("utf-8")
    assert named(text)
    assert rewrite(text, read) == text
    line = text.partition("<!-- attacks: ")[2].splitlines()[3]
    altered = text.replace(line, re.sub(r"\d", "7", line))
    assert altered != text
    assert rewrite(altered, read) == text


def test_every_table_is_on_a_page() -> None:
    """What is measured is told."""
    assert {name for page in PAGES for name in named(page.read_text("utf-8"))} == set(TABLES)


# Elsewhere there is a column for each guard, or it is what guards cost, or no guard at all.
OTHER_TABLES = {
    "summary", "budgets", "training", "cost", "watermark", "poisoning", "poisoning-20", "poison-accepted",
    "detection", "false-alarms", "watching",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in TABLES if name not in OTHER_TABLES])
def test_no_guard_is_shown_without_what_it_costs(name: str) -> None:
    """Accuracy, calibration and time stand beside what each guard does to an attack."""
    lines = [[*map(str.strip, line.split("|")[1:-1])] for line in TABLES[name](read).splitlines() if "|" in line]
    columns = lines if name == "solving" else [*zip(*lines, strict=True)]  # there, guards are side by side
    worth = {head: [value for value in values if value not in {"", "---"}] for head, *values in columns}
    assert worth["accuracy"][0].endswith(" %")
    assert all(re.fullmatch(r"0\.\d\d|no scores", value) for value in worth["ECE"])
    assert all(re.fullmatch(r"\d+ µs", value) for value in worth["a request"])
    assert len(worth["accuracy"]) == len(worth["ECE"]) == len(worth["a request"]) > 2


@pytest.mark.parametrize("name", CHARTS)
def test_figures_show_what_was_found(name: str) -> None:
    """A figure is drawn from the CSV files, has a title and a description, and stands on a page."""
    text = (FIGURES / f"{name}.svg").read_text("utf-8")
    assert CHARTS[name](read) == text
    told = {element.tag.rpartition("}")[2]: element.text for element in ElementTree.fromstring(text)}
    assert told["title"]
    assert told["desc"]
    assert any(f"figures/attacks/{name}.svg" in page.read_text("utf-8") for page in PAGES)


# Watermarks -----------------------------------------------------------------------------------------------------------


def test_a_suspect_is_judged_by_its_labels() -> None:
    """A model that says what the owner knows is found; its accuracy is that on inputs nobody has seen."""
    x = np.random.default_rng(4).uniform(-1, 1, (50, 3))
    mark = Watermark.generate(hashlib.sha256(b"of the tests").digest(), like=x, classes=[0, 1])
    known = {bytes(row): label for row, label in zip(mark.inputs, mark.labels, strict=True)}
    with victim(LABEL_ONLY) as one:
        truth = Data(x, one.label(x))
        stranger = watermarks.judge(mark, one.label, truth)
        thief = watermarks.judge(mark, lambda rows: np.array([known.get(bytes(row), 0) for row in rows]), truth)
    assert stranger["accuracy"] == 1.0
    assert stranger["p"] > 1e-4
    assert thief["matches"] == 1.0
    assert thief["p"] == pytest.approx(2.0**-50)


# Detection ------------------------------------------------------------------------------------------------------------


def test_an_attack_ends_with_the_verdict_or_when_it_is_given_up() -> None:
    """A walk along lines is noticed, ordinary inputs are not, and each row is a query of one of the accounts."""
    x = np.random.default_rng(6).normal(0, 1, (600, 3))
    linear = Task("linear", Linear(), Data(x[:400], np.zeros(400, np.intp)), Data(x[400:], np.arange(200) % 2))
    reference = QueryMonitor.calibrate(x[:400], scores=Linear().predict_proba(x[:400]))
    target = detection.Target(linear, reference, linear.unseen)
    with detection.Service(target, accounts=2) as service:
        attacker = detection.Attacker(service, accounts=2)
        asked = detection._until_noticed(attacker, lambda one, seed: detection.line_search(one, x[400:], seed), 0)
        assert asked == attacker.asked == service.asked <= 60
        assert service.suspects
    with detection.Service(target) as service:
        attacker = detection.Attacker(service, enough=50)
        assert detection._until_noticed(attacker, lambda one, _: one.label(x[400:]), 0) == inf
        assert service.asked == 50
    shares = detection._suspected(target, 0, across=True, quick=True)
    assert shares["ordinary"] == shares["the same rows"] == 0


# Poisoning ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def iris() -> poisoning.Field:
    """Three kinds of flowers, two of which are hard to tell apart."""
    return next(field for field in poisoning.fields(0) if field.name.startswith("iris"))


def test_poison_is_what_it_says(iris: poisoning.Field) -> None:
    """Flipped labels are wrong, relabelled rows are of one class, and border rows lie between two."""
    random = np.random.default_rng(0)
    size = 2 * len(iris.theirs.x)  # more than the attackers have
    for attack in (poisoning.flipped, poisoning.one_class, poisoning.plausible, poisoning.clean):
        assert attack(iris, size, random).x.shape == (size, 4)
    known = {bytes(row): label for row, label in zip(iris.theirs.x, iris.theirs.y, strict=True)}
    flips = poisoning.flipped(iris, 20, random)
    assert all(known[bytes(row)] != label for row, label in zip(flips.x, flips.y, strict=True))
    relabelled = poisoning.one_class(iris, 5, random)
    assert {known[bytes(row)] for row in relabelled.x} == {iris.source}
    assert set(relabelled.y) == set(poisoning.plausible(iris, 5, random).y) == {iris.target}
    assert set(poisoning.clean(iris, 5, random).y) == {iris.source}


def test_guards_keep_poison_out_and_honest_rows_in(iris: poisoning.Field) -> None:
    """What is measured comes from the endpoint: caps bound one account, checks keep wrong labels back."""
    first = fit(iris.make(), iris.own)
    flips = poisoning.flipped(iris, 40, np.random.default_rng(0))
    told = {
        guard: poisoning.collect(first, iris, guard, poisoning.Campaign(flips, 1, 0))
        for guard in (poisoning.NO_GUARD, *poisoning.GUARDS)
    }
    accepted = {guard: part for guard, (_, part, _) in told.items()}
    assert accepted["none"] == 1.0
    assert accepted["caps alone"] <= 0.1
    assert accepted["one doubt is enough"] <= accepted["all must doubt"] <= 0.1
    for taken, part, kept_back in told.values():
        assert len(taken.x) == round(40 * part + len(iris.honest.x) * (1 - kept_back))
        assert kept_back < 0.2
