"""What an agent's policy allows: each rule by itself, and that what is not allowed is refused with its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mgmt.config import load_policy, policy_schema
from mgmt.core.nodes.policy import allows
from mgmt.core.supervision import UnitSpec
from mgmt.protocol.errors import MgmtError
from mgmt.settings import ModelSettings, UnitSettings
from mgmt.settings.policy import PolicySettings

OPEN = {"executables": ["/opt/bin/"], "env": ["MODEL_*"]}


def spec(name: str = "u", model: dict[str, Any] | None = None, **settings: Any) -> UnitSpec:
    settings = {"command": ["/opt/bin/serve", "--x"], **settings}
    return UnitSpec(
        name,
        ModelSettings.model_validate({"name": name, "type": "t", **(model or {})}),
        UnitSettings.model_validate(settings),
    )


def rule(policy: dict[str, Any], unit: UnitSpec, *others: UnitSpec) -> str | None:
    """The key of the policy that refuses; None when nothing does."""
    error = allows(PolicySettings.model_validate({**OPEN, **policy}), unit, others)
    if error is None:
        return None
    assert error.code == "denied"
    assert error.detail["rule"] in error.text and repr(unit.name) in error.text
    found: str = error.detail["rule"]
    return found


def test_an_empty_policy_allows_nothing() -> None:
    error = allows(PolicySettings(), spec())
    assert error is not None and error.detail["rule"] == "executables"


@pytest.mark.parametrize(
    ("program", "allowed"),
    [
        ("/opt/bin/serve", True),
        ("/opt/bin/deep/serve", True),
        ("/opt/bin", False),
        ("/opt/binary", False),
        ("/usr/bin/one", True),
        ("/usr/bin/one2", False),
        ("/opt/bin/../../bin/sh", False),
        ("/opt/bin/./x", False),
        ("/opt/bin/{option.tool}", False),
        ("/opt/bin/{{model}}", True),
        ("serve", False),
        ("opt/bin/serve", False),
        ("{python}", False),
        ("{script}", False),
    ],
)
def test_programs_are_in_a_folder_or_named(program: str, allowed: bool) -> None:
    policy = {"executables": ["/opt/bin/", "/usr/bin/one"]}
    unit = spec(command=[program], model={"options": {"tool": "../../bin/sh"}})
    assert rule(policy, unit) == (None if allowed else "executables")


def test_the_interpreter_and_everything_must_be_said() -> None:
    unit = spec(command=["{python}", "-c", "1"])
    assert rule({"executables": ["{python}"]}, unit) is None
    assert rule({"executables": ["*"]}, unit) is None
    assert rule({"executables": ["/"]}, unit) == "executables"
    assert rule({"executables": ["{python}"]}, spec(command=["{python}3"])) == "executables"


@pytest.mark.parametrize("point", ["pre_start", "post_start", "pre_stop", "post_stop"])
def test_hooks_are_programs(point: str) -> None:
    assert rule({}, spec(hooks={point: {"command": ["/bin/sh"]}})) == "executables"
    assert rule({}, spec(hooks={point: {"command": ["/opt/bin/x"]}})) is None


@pytest.mark.parametrize("which", ["startup", "ready", "live"])
def test_probes_are_programs(which: str) -> None:
    assert rule({}, spec(probes={which: {"kind": "exec", "command": ["/bin/true"]}})) == "executables"
    assert rule({}, spec(probes={which: {"kind": "tcp", "address": "127.0.0.1:1"}})) is None


@pytest.mark.parametrize(
    ("policy", "settings", "broken"),
    [
        ({}, {}, None),
        ({}, {"user": "root"}, "users"),
        ({"users": ["models"]}, {"user": "root"}, "users"),
        ({"users": ["models"]}, {"user": "models"}, None),
        ({"users": ["*"]}, {"user": "root"}, None),
        ({"users": ["models"]}, {"user": "models", "group": "disk"}, "groups"),
        ({"users": ["models"], "groups": ["gpu"]}, {"user": "models", "group": "gpu"}, None),
        ({"users": ["models"], "own_account": False}, {}, "own_account"),
        ({}, {"env": {"MODEL_SIZE": "1"}}, None),
        ({}, {"env": {"LD_PRELOAD": "/tmp/x.so"}}, "env"),
        ({}, {"env": {"XMODEL_SIZE": "1"}}, "env"),
        ({}, {"scheduling": {"policy": "fifo", "priority": 1}}, "scheduling"),
        ({"scheduling": ["fifo"]}, {"scheduling": {"policy": "fifo", "priority": 1}}, None),
        ({"scheduling": ["fifo"]}, {}, "scheduling"),
        (
            {"scheduling": ["rr"], "max_priority": 10},
            {"scheduling": {"policy": "rr", "priority": 11}},
            "max_priority",
        ),
        ({}, {"nice": -1}, "min_nice"),
        ({"min_nice": -5}, {"nice": -5}, None),
        ({}, {"rlimits": {"rtprio": 50}}, "scheduling"),
        ({"scheduling": ["other", "fifo"]}, {"rlimits": {"rtprio": 50}}, None),
        ({}, {"rlimits": {"nice": 40}}, "min_nice"),
        ({}, {"rlimits": {"nofile": 40}}, None),
        ({"cpus": "2-3"}, {"cpus": "2"}, None),
        ({"cpus": "2-3"}, {"cpus": "1-2"}, "cpus"),
        ({"cpus": "2-3"}, {}, "cpus"),
        ({"cpus": "2-3"}, {"placement": {"cpus": 1}}, "cpus"),
        ({"max_memory_mb": 100}, {"resources": {"memory_max_mb": 100}}, None),
        ({"max_memory_mb": 100}, {"resources": {"memory_max_mb": 101}}, "max_memory_mb"),
        ({"max_memory_mb": 100}, {}, "max_memory_mb"),
    ],
)
def test_each_rule(policy: dict[str, Any], settings: dict[str, Any], broken: str | None) -> None:
    assert rule(policy, spec(**settings)) == broken


def test_a_models_own_words_count_too() -> None:
    assert rule({}, spec(model={"env": {"LD_PRELOAD": "x"}})) == "env"
    assert rule({"cpus": "2"}, spec(cpus="2", model={"cpus": "3"})) == "cpus"


def test_limits_are_of_all_units_together() -> None:
    half = {"resources": {"memory_max_mb": 50}}
    one, two, three = (spec(name, **half) for name in ("one", "two", "three"))
    assert rule({"max_units": 2}, two, one) is None
    assert rule({"max_units": 2}, three, one, two) == "max_units"
    assert rule({"max_units": 2}, two, one, two) is None  # it is one of them already
    assert rule({"max_memory_mb": 100}, two, one) is None
    assert rule({"max_memory_mb": 100}, three, one, two) == "max_memory_mb"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("[]", "must be an object"),
        ('{"executable": []}', 'unknown key, did you mean "executables"?'),
        ('{"executables": ["bin/sh"]}', "neither an absolute path"),
        ('{"executables": ["/opt/../bin/"]}', "neither an absolute path"),
        ('{"scheduling": ["real"]}', "must be one of"),
        ('{"own_account": false}', "no unit could run as anybody"),
        ('{"max_units": 0}', "must be at least 1"),
        ('{"cpus": "x"}', "no CPU number"),
        ('{"users": [], "users": ["root"]}', "given twice"),
    ],
)
def test_a_wrong_policy_is_refused_with_its_fault(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "policy.json"
    path.write_text(text)
    with pytest.raises(MgmtError, match=words) as refused:
        load_policy(path)
    assert refused.value.code == "bad-config"
    assert "mgmt config schema policy" in refused.value.text


def test_the_documented_policy_is_one() -> None:
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    example = json.loads(text.partition("```json\n")[2].partition("```")[0])
    policy = PolicySettings.model_validate(example)
    jsonschema.validate(example, policy_schema())
    unit = spec(command=["/opt/models/bin/serve"], user="models", cpus="4", resources={"memory_max_mb": 1024})
    assert allows(policy, unit) is None
