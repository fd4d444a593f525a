"""Who was in the training data: from the score, from what models with and without somebody say, and from labels alone.

Three attacks. A threshold on the score of the true class (Yeom et al., 2018). LiRA (Carlini et al., 2022): the attacker
trains models like it on data like it, with and without the candidate, truncates what they say as the service does, and
asks which of the two the service's score is more like. And for labels alone (Choquette-Choo et al., 2021): how often
inputs close to the candidate get its label, compared in the same way.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from bench.attacks.models import MEMBERSHIP_MODELS, Data, Secret, customers, fit
from bench.attacks.results import Columns, Measures
from bench.attacks.victim import (
    ALL_DIGITS,
    BEST_CLASS,
    HEAVY_NOISE_BEST_KEPT,
    LABEL_IF_SURE,
    LABEL_ONLY,
    ONE_DECIMAL,
    TWO_DECIMALS,
    Defence,
    Labels,
    Rows,
    Victim,
    read_answer,
)
from mlguard import truncate_output

TABLES = {
    "membership": Columns("Membership inference", ("model", "attack", "guard"), ("auc", "tpr at 1 % fpr")),
    "membership-curve": Columns("Members found, by false alarms", ("model", "attack", "guard", "fpr"), ("tpr",)),
}
DEFENCES = (ALL_DIGITS, TWO_DECIMALS, ONE_DECIMAL, BEST_CLASS, HEAVY_NOISE_BEST_KEPT, LABEL_IF_SURE, LABEL_ONLY)

_SHADOWS = 24
_JITTER = (0.1, 0.2, 0.4)  # standard deviations, where that of each feature is 1
_JITTERED = 10  # inputs around a candidate, at each distance
_AVERAGED = 50  # inputs next to a candidate, whose answers are averaged
_FALSE_ALARMS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_BOUND = 12.0  # of what the service takes


def run(seed: int, *, quick: bool) -> dict[str, Measures]:
    """All models and guards, on data of its own."""
    found: Measures = {}
    curve: Measures = {}
    for kind in [*MEMBERSHIP_MODELS][: 1 if quick else None]:
        secret = customers(kind, seed)
        for (attack, defence), guesses in _guesses(secret, 4 if quick else _SHADOWS, seed).items():
            members = np.arange(len(guesses)) < len(secret.members.y)
            false, true, _ = roc_curve(members, guesses, drop_intermediate=False)
            at = {limit: float(true[np.searchsorted(false, limit, side="right") - 1]) for limit in _FALSE_ALARMS}
            found[kind, attack, defence.name] = {
                "auc": float(roc_auc_score(members, guesses)),
                "tpr at 1 % fpr": at[0.01],
            }
            for limit, share in at.items():
                curve[kind, attack, defence.name, f"{limit:g}"] = {"tpr": share}
    return {"membership": found, "membership-curve": curve}


def _guesses(secret: Secret, count: int, seed: int) -> dict[tuple[str, Defence], Rows]:
    """By attack and guard, how likely each candidate seems to be a member. The members come first."""
    candidates = Data(*(np.concatenate(both) for both in zip(_pair(secret.members), _pair(secret.others), strict=True)))
    everyone = np.arange(len(candidates.y)), candidates.y
    shadows = Shadows(secret, candidates, count, seed)
    guesses = {}
    for defence in DEFENCES:
        with Victim(
            secret.model, defence, columns=candidates.x.shape[1], low=-_BOUND, high=_BOUND, seed=seed
        ) as victim:
            told = victim.ask(candidates.x)[everyone]
            guesses["threshold", defence] = told
            guesses["LiRA", defence] = shadows.compare(told, shadows.told(defence))
            if defence.noise is not None:
                around = _around(candidates.x, 1e-6, _AVERAGED, seed)
                told = np.mean([victim.ask(x)[everyone] for x in around], axis=0)
                guesses["LiRA on averages", defence] = shadows.compare(told, shadows.told(defence, _AVERAGED))
            if defence in {ALL_DIGITS, LABEL_ONLY}:
                share = jittered(victim.label, candidates, seed)
                guesses["jittered labels", defence] = shadows.compare(share, shadows.jittered(seed))
    return guesses


def _pair(data: Data) -> tuple[Rows, Labels]:
    return data.x, data.y


class Shadows:
    """Models that the attacker trained, each on half of the candidates.

    Args:
        secret: What is attacked.
        candidates: Who may be a member.
        count: How many models: an even number.
        seed: Of the halves and the training.
    """

    def __init__(self, secret: Secret, candidates: Data, count: int, seed: int) -> None:
        random = np.random.default_rng(seed + 1_000)
        self._candidates = candidates
        self._with = np.zeros((count, len(candidates.y)), dtype=bool)
        self._models = []
        for number in range(count):
            # In pairs: the second of two is trained with those whom the first one was trained without.
            half = random.permutation(len(candidates.y))[: len(secret.members.y)]
            self._with[number, half] = True
            if number % 2:
                self._with[number] = ~self._with[number - 1]
            chosen = self._with[number]
            made = secret.make(seed + 1_000 + number)
            self._models.append(fit(made, Data(candidates.x[chosen], candidates.y[chosen])))
        self._said = [model.predict_proba(candidates.x) for model in self._models]
        self._shares: Rows | None = None

    def told(self, defence: Defence, repeats: int = 1) -> Rows:
        """The score of the true class as a service with this guard would tell it, shape (models, candidates)."""
        everyone = np.arange(len(self._candidates.y)), self._candidates.y
        fresh = np.random.default_rng(0)
        return np.array(
            [np.mean([as_told(said, defence, fresh)[everyone] for _ in range(repeats)], axis=0) for said in self._said]
        )

    def jittered(self, seed: int) -> Rows:
        """How often inputs around a candidate get its label, shape (models, candidates)."""
        if self._shares is None:
            self._shares = np.array([jittered(model.predict, self._candidates, seed) for model in self._models])
        return self._shares

    def compare(self, own: Rows, seen: Rows) -> Rows:
        """The logarithm of how much more likely a service's answers are if it was trained with the candidates.

        As scores or as the logarithms of their odds, whatever tells the attacker's own models apart better.

        Args:
            own: What the service told of each candidate.
            seen: What the attacker's models tell, shape (models, candidates).
        """

        def trial(change: Callable[[Rows], Rows]) -> float:
            guess = _ratio(change(seen[0]), change(seen[2:]), self._with[2:])
            return float(roc_auc_score(self._with[0], guess))

        changes: tuple[Callable[[Rows], Rows], ...] = (_log_odds, np.copy)
        best = max(changes, key=trial)
        return _ratio(best(own), best(seen), self._with)


def _ratio(own: Rows, seen: Rows, trained_with: NDArray[np.bool_]) -> Rows:
    """Of two normal distributions: what models with a candidate say, and what those without."""
    likelihood = []
    for chosen in (trained_with, ~trained_with):
        kept = np.where(chosen, seen, np.nan)
        centre = np.nanmean(kept, axis=0)
        spread = np.sqrt(np.nanmean((kept - centre) ** 2)) + 0.01  # one for all: there are few models
        likelihood.append(-((own - centre) ** 2) / (2 * spread**2) - np.log(spread))
    ratio: Rows = likelihood[0] - likelihood[1]
    return ratio


def _log_odds(score: Rows) -> Rows:
    score = score.clip(1e-3, 1 - 1e-3)
    odds: Rows = np.log(score / (1 - score))
    return odds


def as_told(said: Rows, defence: Defence, fresh: np.random.Generator) -> Rows:
    """What a service with this guard would tell. The policy is no secret, but the key of its noise is one."""
    if defence.noise is not None:
        said = defence.noise.add(said, fresh)
    if defence.output is None:
        return said
    answer = truncate_output(said, **defence.output)
    return answer if isinstance(answer, np.ndarray) else read_answer(answer, said.shape[1])


def jittered(label: Callable[[Rows], Labels], candidates: Data, seed: int) -> Rows:
    """How often inputs around each candidate get its label."""
    around = [x for scale in _JITTER for x in _around(candidates.x, scale, _JITTERED, seed)]
    share: Rows = np.mean([label(x) == candidates.y for x in [candidates.x, *around]], axis=0)
    return share


def _around(x: Rows, scale: float, copies: int, seed: int) -> list[Rows]:
    random = np.random.default_rng(seed)
    return [(x + random.normal(0, scale, x.shape)).clip(-_BOUND, _BOUND) for _ in range(copies)]
