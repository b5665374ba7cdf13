"""The default policy under watch: falling back, in the shadow, and with predictions that are wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.system.place import Place, until
from tests.system.test_candidates import SETTINGS, WORLD, ended, load, metrics, told

# The default policy refuses a value below 0; by Janitor's rules the bonus of a first run makes up for it.
ODD = {"codebase": "gamma", "campaign": "tidy", "command": "true", "value": -20, "publish_policy": "build"}
MORE = {"policies": {"build": [{"role": "main", "mode": "build-only"}]}, "candidates": [ODD]}


def begun(place: Place, **settings: Any) -> None:
    place.configure(candidates={**SETTINGS, **settings})
    place.started()
    assert place.mgmt("suite", "create", "work", "--workers", "1").returncode == 0
    assert place.mgmt("worker", "pause", "local").returncode == 0
    load(place, WORLD)


def alerts(place: Place) -> list[str]:
    told: list[str] = json.loads(place.mgmt("status", "--json").stdout)["service"]["alerts"]
    return told


@pytest.mark.parametrize(("mode", "queued", "counted"), [("native", 3, 0), ("fallback", 4, 1)])
def test_a_candidate_that_the_default_policy_refuses(
    place: Place, mode: str, queued: int, counted: int
) -> None:
    begun(place, mode=mode)
    load(place, MORE)
    done = told(place, "schedule", status=9)
    assert (done["queued"], [fault["column"] for fault in done["faults"]]) == (queued, ["value"])
    assert metrics(place)["fallback_total"] == counted
    assert ["gamma in tidy: the default policy failed" in text for text in done["warnings"]] == [
        True
    ] * counted
    names = {(row["codebase"], row["campaign"]) for row in told(place, "queue")["queue"]}
    assert (("gamma", "tidy") in names) == bool(counted)


def test_in_the_shadow_janitors_rules_decide(place: Place) -> None:
    begun(place, mode="shadow")
    own = told(place, "list")["candidates"]
    theirs = told(place, "list", "--policy", "janitor_compat")["candidates"]
    assert own == theirs
    assert told(place, "schedule")["queued"] == 3
    figures = metrics(place)
    assert -1 <= figures["shadow_rank_correlation"] <= 1 and figures["shadow_overlap"] == 1
    ended(place)
    figures = metrics(place)
    assert figures["predicted_total"] == figures["beside_predicted_total"] == 2
    assert figures["brier_sum"] != figures["beside_brier_sum"]
    assert {row["policy"] for row in told(place, "compare")["policies"]} == {"default", "janitor_compat"}


def test_predictions_that_are_wrong_are_an_alert_until_they_may_be(place: Place) -> None:
    strict = {"minimum_runs": 0.5, "brier": 0.01, "duration": 1000, "half_life": "1d"}
    begun(place, accuracy=strict)
    assert alerts(place) == []
    told(place, "schedule")
    ended(place)
    until(lambda: bool(alerts(place)))
    (alert,) = alerts(place)
    assert "the Brier score of predicted chances is" in alert and "(accuracy.brier)" in alert
    assert f"alert: {alert}" in place.mgmt("status").stdout
    figures = metrics(place)
    assert figures['alert{measure="brier"}'] == 1 and figures['accuracy{measure="brier"}'] > 0.01
    assert figures['alert{measure="duration"}'] == 0
    assert alert in (place.folder / "state" / "daemon.log").read_text()
    place.configure(candidates={**SETTINGS, "accuracy": {**strict, "brier": 1.0}})
    assert place.mgmt("apply").returncode == 0
    until(lambda: not alerts(place))
    assert metrics(place)['alert{measure="brier"}'] == 0
