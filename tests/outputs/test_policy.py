"""OutputPolicy: a value that says what goes out, and cannot say two things at once."""

import copy
import dataclasses
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from mlguard import ConfigurationError, OutputPolicy, truncate_output

SETTINGS: list[dict[str, Any]] = [
    {},
    {"decimals": 1},
    {"significant": 3},
    {"exact": True},
    {"top_k": 3},
    {"top_k": 3, "rest": "other"},
    {"top_k": 3, "rest": "others"},
    {"label_only": True},
    {"label_only": True, "decimals": 0},
    {"confidence": 1.0},
    {"min_confidence": 0.5},
    {"min_confidence": 0.5, "abstain": None},
    {"bins": [0, 1, 2]},
    {"bins": [0, 1, 3]},
    {"bins": [0, 1, 2], "bins_as": "edges"},
]


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("balanced", OutputPolicy(decimals=2)),
        ("private", OutputPolicy(label_only=True, decimals=0)),
        ("open", OutputPolicy(exact=True)),
    ],
)
def test_presets_are_what_they_say(name: str, policy: OutputPolicy) -> None:
    """Each preset is a plain value, equal to one that is written out."""
    assert OutputPolicy.named(name) == policy
    assert dataclasses.replace(OutputPolicy.named(name)) == policy


def test_a_policy_is_a_value() -> None:
    """Equal settings make equal policies, which are hashable, frozen, and can be copied and pickled."""
    policies = [OutputPolicy(**settings) for settings in SETTINGS]
    assert len(set(policies)) == len(SETTINGS)
    for policy, settings in zip(policies, SETTINGS, strict=True):
        assert policy == OutputPolicy(**settings) == copy.deepcopy(policy) == pickle.loads(pickle.dumps(policy))
    with pytest.raises(dataclasses.FrozenInstanceError):
        policies[0].decimals = 15  # type: ignore[misc]  # the point of the test


def test_changing_the_list_of_bins_later_changes_nothing() -> None:
    """What was given is copied."""
    bins = [0, 1, 2]
    policy = OutputPolicy(bins=bins)
    bins[0] = -1
    assert policy.bins == (0.0, 1.0, 2.0)


def test_bins_may_be_an_array() -> None:
    """As ``numpy.quantile`` gives them."""
    assert OutputPolicy(bins=np.quantile([0.0, 4.0], [0, 0.5, 1])).bins == (0.0, 2.0, 4.0)
    with pytest.raises(ConfigurationError, match="rising order"):
        OutputPolicy(bins=np.zeros((2, 2)))


def test_fingerprints_tell_policies_apart_and_are_stable() -> None:
    """Every setting is in the fingerprint, equal policies have equal ones, also in another process."""
    prints = [OutputPolicy(**settings).fingerprint() for settings in SETTINGS]
    assert len(set(prints)) == len(SETTINGS)
    assert OutputPolicy(confidence=1).fingerprint() == OutputPolicy(confidence=1.0).fingerprint()
    assert OutputPolicy(decimals=2).fingerprint() == OutputPolicy().fingerprint()
    for name in (field.name for field in dataclasses.fields(OutputPolicy)):
        assert f"{name}=" in prints[0]
    code = "import mlguard; print(mlguard.OutputPolicy(bins=[0, 0.1, 2], bins_as='edges').fingerprint())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == OutputPolicy(bins=[0, 0.1, 2], bins_as="edges").fingerprint()


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"decimals": 2, "significant": 3}, "exclude each other"),
        ({"decimals": 2, "exact": True}, "exclude each other"),
        ({"significant": 0}, "significant"),
        ({"significant": 16}, "significant"),
        ({"significant": True}, "significant"),
        ({"significant": 2.0}, "significant"),
        ({"significant": 2, "top_k": 1}, "use decimals"),
        ({"significant": 2, "min_confidence": 0.5}, "use decimals"),
        ({"exact": 1}, "exact"),
        ({"exact": None}, "exact"),
        ({"top_k": 2, "rest": ""}, "rest"),
        ({"top_k": 2, "rest": 5}, "rest"),
        ({"rest": "other"}, "give top_k too"),
        ({"label_only": True, "confidence": 1.0}, "exclude each other"),
        ({"top_k": 1, "confidence": 1.0}, "exclude each other"),
        ({"top_k": 1, "bins": [0, 1]}, "exclude each other"),
        ({"confidence": -0.1}, "confidence"),
        ({"confidence": 1.1}, "confidence"),
        ({"confidence": float("nan")}, "confidence"),
        ({"confidence": True}, "confidence"),
        ({"confidence": "1"}, "confidence"),
        ({"min_confidence": 0.5, "abstain": ""}, "abstain"),
        ({"min_confidence": 0.5, "abstain": 0}, "abstain"),
        ({"min_confidence": 0.5, "bins": [0, 1]}, "choose one"),
        ({"min_confidence": 0.5, "top_k": 2, "rest": "abstain"}, "must differ"),
        ({"bins": [0]}, "bins"),
        ({"bins": [0, 0]}, "bins"),
        ({"bins": [1, 0]}, "bins"),
        ({"bins": [0, float("inf")]}, "bins"),
        ({"bins": [0, float("nan")]}, "bins"),
        ({"bins": [False, True]}, "bins"),
        ({"bins": "01"}, "bins"),
        ({"bins": 3}, "bins"),
        ({"bins": [0, "1"]}, "bins"),
        ({"bins": [0, 1], "bins_as": "middle"}, "bins_as"),
        ({"bins_as": "edges"}, "give the bins"),
    ],
    ids=repr,
)
def test_a_setting_that_cannot_work_is_refused_at_once(settings: dict[str, Any], names: str) -> None:
    """Two settings that exclude each other, or one that means nothing, fail when the policy is made."""
    with pytest.raises(ConfigurationError, match=names):
        OutputPolicy(**settings)
    with pytest.raises(ConfigurationError, match=names):
        truncate_output(**settings)


def test_a_preset_that_there_is_none_of_is_refused() -> None:
    """A typo names those that there are."""
    with pytest.raises(ConfigurationError, match="'balanced', 'private', 'open'"):
        truncate_output("privat")
    with pytest.raises(ConfigurationError, match="'balanced', 'private', 'open'"):
        OutputPolicy.named("privat")
    with pytest.raises(ConfigurationError, match="OutputPolicy or one of"):
        truncate_output(policy=7)  # type: ignore[call-overload]  # the point of the test


def test_one_way_to_say_it_at_a_time() -> None:
    """A policy and settings, or two policies, are a mistake rather than a mixture."""
    with pytest.raises(ConfigurationError, match="top_k and a policy exclude"):
        truncate_output(policy="balanced", top_k=2)
    with pytest.raises(ConfigurationError, match="top_k and a policy exclude"):
        truncate_output("balanced", top_k=2)  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ConfigurationError, match="two policies"):
        truncate_output("balanced", policy="open")  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(TypeError, match="topk"):
        truncate_output(topk=2)  # type: ignore[call-overload]  # the point of the test
