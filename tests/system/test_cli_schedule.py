"""`mgmt schedule` without a daemon: the example files, real files, the picture, and what is said of bad ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from click.testing import Result

from mgmt.protocol.errors import Exit
from mgmt_cli.schedule import COMMANDS, schedule, tables
from mgmt_cli.schemas import schema_of
from tests.unit.cli_runner import run

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
BRAKE = str(EXAMPLES / "brake-by-wire.yaml")
LANE = str(EXAMPLES / "lane-keeping.yaml")
NODES = str(EXAMPLES / "nodes.yaml")
VECTORS = ROOT / "tests" / "data" / "vectors" / "timpani_dev.json"
SVG = "{http://www.w3.org/2000/svg}"

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return file


def plan(*args: str) -> Result:
    return run("schedule", "plan", *args)


def in_json(*args: str, status: int = Exit.OK) -> dict[str, Any]:
    result = run("schedule", *args, "--json")
    assert result.exit_code == status, result.output
    assert not result.stderr
    value: dict[str, Any] = json.loads(result.stdout)
    jsonschema.validate(value, schema_of(value["schema"]))
    return value


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name: str) -> None:
    result = run("schedule", name, "--help")
    assert result.exit_code == Exit.OK
    assert COMMANDS[name][1] in " ".join(result.output.split())
    command = schedule.get_command(None, name)  # type: ignore[arg-type]  # has no use of it
    assert command is not None
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert getattr(parameter, "help", None), f"{name} {parameter.opts[0]} has no help"


# plan


def test_a_plan_is_read_from_top_to_bottom() -> None:
    result = plan(BRAKE)
    assert result.exit_code == Exit.OK
    lines = result.output.splitlines()
    assert lines[0] == "workload brake-by-wire: 9 tasks on 2 CPUs of 2 nodes; every deadline is kept"
    assert "exact response times, fixed priorities; hyperperiod 100 ms" in lines[1]
    front = next(line for line in lines if line.startswith("front_ecu    2") and "%" in line)
    assert "94.0 %" in front
    assert "█" in front
    slip = next(line.split() for line in lines if "slip_control" in line)
    assert slip[:9] == ["slip_control", "FIFO", "80", "10", "3.2", "8", "7.2", "0.8", "0.0"]
    assert any(line.startswith("pedal-to-front-brake") and "28.7" in line for line in lines)


def test_a_plan_in_json() -> None:
    value = in_json("plan", BRAKE)
    assert value["hyperperiod_us"] == 100_000
    assert {row["task"]: row["response_us"] for row in value["tasks"]}["slip_control"] == 7200
    assert len(value["cpus"]) == 4
    assert [row["bound_us"] for row in value["chains"]] == [28_700, 28_300]


def test_colours_only_where_they_are_wanted() -> None:
    assert "\033[" not in plan(BRAKE).output
    assert "\033[32m" in plan(BRAKE, "--color", "always").output


def test_documents_of_other_systems(write: Write) -> None:
    value = in_json("plan", LANE, "--nodes", NODES)
    assert {row["node"] for row in value["tasks"]} == {"vision_ecu", "steer_ecu"}
    assert in_json("plan", str(EXAMPLES / "telemetry.json"), "--nodes", NODES)["workload"] == "telemetry"


def test_without_nodes_it_is_this_machine(write: Write) -> None:
    file = write("w.yaml", "workload: w\ntasks: [{name: a, period_us: 10000, wcet_us: 10, priority: 1}]\n")
    assert {row["node"] for row in in_json("plan", file)["tasks"]} == {"local"}


def test_a_plan_from_standard_input() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mgmt_cli", "schedule", "plan", "-"],
        input=Path(BRAKE).read_bytes(),
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert b"every deadline is kept" in done.stdout


@pytest.mark.parametrize("algorithm", ["best_fit_decreasing", "least_loaded"])
def test_algorithms(algorithm: str) -> None:
    assert in_json("plan", BRAKE, "--algorithm", algorithm)["algorithm"] == algorithm


def test_another_test() -> None:
    value = in_json("plan", BRAKE, "--test", "utilisation")
    assert {row["bound"] for row in value["tasks"]} == {"utilisation"}
    assert {row["response_us"] for row in value["tasks"]} == {None}
    assert "exact utilisation" in plan(BRAKE, "--test", "utilisation").output


def test_what_does_not_fit_is_refused_with_its_numbers(write: Write) -> None:
    result = plan(write("w.yaml", CROWDED))
    assert result.exit_code == Exit.FAILED
    assert result.stdout == ""
    for word in (
        "'slip_control'",
        "'brake-by-wire'",
        "CPU",
        "fixed priorities",
        "at most",
        "Nothing was placed",
    ):
        assert word in result.stderr
    error = in_json("plan", write("w.yaml", CROWDED), status=Exit.FAILED)["error"]
    assert error["code"] == "not-schedulable"
    assert error["detail"]["task"] == "slip_control"
    assert 0 < error["detail"]["largest_wcet_us"] < 7000


# With one CPU a node, and what does not fit there.
CROWDED = Path(BRAKE).read_text().replace("cpus: 2-3", "cpus: [2]").replace("wcet_us: 3200", "wcet_us: 7000")


BAD = """workload: w
nodes: {n: {cpus: [0]}}
tasks:
  - name: a
    period_us: 10000
    wcet_us: 20000
    priority: 50
  - {name: b, period_us: 10, wcet_us: 1, priority: 1}
"""


def test_faults_are_told_with_their_lines(write: Write) -> None:
    file = write("bad.yaml", BAD)
    result = plan(file)
    assert result.exit_code == Exit.USAGE
    assert result.stderr.splitlines() == [
        f"error: {file}:6: task 'a': wcet_us is 20000: must be 1 to 10000 us, at most the period",
        f"{file}:8: task 'b': period_us is 10: must be 1000 to 10000000 us",
    ]
    problems = in_json("plan", file, status=Exit.USAGE)["error"]["detail"]["problems"]
    assert [problem["line"] for problem in problems] == [6, 8]


def test_faults_of_a_node_file_are_told_in_it(write: Write) -> None:
    nodes = write("nodes.yaml", 'nodes:\n  n1:\n    available_cpus: [0-3]\n    max_memory_mb: "4096MB"\n')
    result = plan(LANE, "--nodes", nodes)
    assert result.exit_code == Exit.USAGE
    assert f"{nodes}:3: node 'n1': available_cpus has '0-3'" in result.stderr
    assert f"{nodes}:4: node 'n1': max_memory_mb is '4096MB'" in result.stderr


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("w.yaml", "a: [1\nb: 2\n", "w.yaml:2: not YAML"),
        ("w.yaml", "a: 1\nb: 2\na: 3\n", "w.yaml:3: the key 'a' is given twice"),
        ("w.yaml", "a: &x [1]\nb: *x\n", "w.yaml:2: anchors and aliases are not taken here"),
        ("w.yaml", "\n" + "- " * 33, "w.yaml:2: is nested deeper than 32 levels"),
        ("w.yaml", "[" * 1_000_000, "w.yaml:1: is nested deeper than 32 levels"),
        ("w.yaml", "a: !!python/object:os.system {}\n", "w.yaml:1: not YAML"),
        ("w.yaml", "", "there is no task in it"),
        ("w.json", "{", "w.json: not JSON"),
        ("w.json", '{"a": 1, "a": 2}', "the key 'a' is given twice"),
        ("w.json", "[" * 100_000, "w.json: not JSON"),
        (
            "w.json",
            '{"workload": "w",\n"tasks": [\n{"name": "a"}]}',
            "w.json:3: task 'a': period_us is missing",
        ),
    ],
)
def test_a_file_that_is_none(name: str, text: str, says: str, write: Write) -> None:
    result = plan(write(name, text))
    assert result.exit_code == Exit.USAGE, result.output
    assert says in result.stderr


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in plan(str(tmp_path / "absent.yaml")).stderr
    (tmp_path / "x.yaml").write_bytes(b"a: \xff\n")
    assert "is not UTF-8: byte 3 is 0xff" in plan(str(tmp_path / "x.yaml")).stderr
    assert plan(str(tmp_path)).exit_code == Exit.USAGE


# The picture


def drawn(path: str) -> ElementTree.Element:
    return ElementTree.fromstring(Path(path).read_text(encoding="utf-8"))


def words(picture: ElementTree.Element) -> list[str]:
    return ["".join(element.itertext()) for element in picture.iter(f"{SVG}text")]


def test_the_picture_says_all_that_the_table_says(tmp_path: Path) -> None:
    out = str(tmp_path / "brake.svg")
    result = plan(BRAKE, "--gantt", out)
    assert f"drawn: {out}" in result.output
    picture = drawn(out)
    said = words(picture)
    for row in in_json("plan", BRAKE)["tasks"]:
        assert row["task"] in said
        assert tables.time(row["response_us"]) in said
        assert tables.time(row["slack_us"]) in said
    for word in (
        "Schedule of brake-by-wire",
        "time in ms",
        "front_ecu  CPU 2",
        "94.0 % load",
        "released",
        "deadline",
    ):
        assert word in said
    assert any("without jitter. After 100 ms it repeats" in text for text in said)
    assert any("2 CPUs without tasks" in text for text in said)
    bars = [rect for rect in picture.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    assert len(bars) > 100
    assert [name for name in tmp_path.iterdir() if name.suffix != ".svg"] == []


def test_the_picture_of_the_documents_is_what_is_drawn(tmp_path: Path) -> None:
    out = tmp_path / "brake.svg"
    plan(BRAKE, "--gantt", str(out))
    shown = (EXAMPLES / "brake-by-wire.svg").read_text()
    assert out.read_text() == shown, f"draw it anew: mgmt schedule plan {BRAKE} --gantt {BRAKE[:-5]}.svg"


def test_nothing_is_drawn_outside_the_picture(tmp_path: Path) -> None:
    out = str(tmp_path / "x.svg")
    plan(BRAKE, "--gantt", out, "--span", "37ms")
    picture = drawn(out)
    width, height = float(picture.get("width", 0)), float(picture.get("height", 0))
    for rect in picture.iter(f"{SVG}rect"):
        x, y = float(rect.get("x", 0)), float(rect.get("y", 0))
        assert x >= 0
        assert x + float(rect.get("width", 0)) <= width
        assert y >= 0
        assert y + float(rect.get("height", 0)) <= height
    for text in picture.iter(f"{SVG}text"):
        assert 0 <= float(text.get("x", -1)) <= width
        assert 0 <= float(text.get("y", -1)) <= height
    assert any("Shown are 37 ms of 100 ms" in text for text in words(picture))


def test_names_are_text_in_the_picture(write: Write, tmp_path: Path) -> None:
    name = "<script>alert('x')</script>&\\\"]]>"
    task = {"name": name, "period_us": 10_000, "wcet_us": 10, "priority": 1, "node": "<n&>"}
    document = {"workload": "a<b>&", "nodes": {"<n&>": {"cpus": [0]}}, "tasks": [task]}
    out = str(tmp_path / "x.svg")
    assert plan(write("w.json", json.dumps(document)), "--gantt", out).exit_code == Exit.OK
    picture = drawn(out)
    assert "Schedule of a<b>&" in words(picture)
    assert "<n&>  CPU 0" in words(picture)
    assert list(picture.iter(f"{SVG}script")) == []


def test_a_picture_of_thousands_of_jobs_is_bounded(write: Write, tmp_path: Path) -> None:
    tasks = [{"name": f"t{i}", "period_us": 1000, "wcet_us": 1, "priority": 1} for i in range(300)]
    tasks.append({"name": "slow", "period_us": 10_000_000, "wcet_us": 1, "priority": 2})
    document = {"workload": "w", "nodes": {"n": {"cpus": "0-7"}}, "tasks": tasks}
    out = tmp_path / "x.svg"
    assert (
        plan(write("w.json", json.dumps(document)), "--gantt", str(out), "--span", "10s").exit_code == Exit.OK
    )
    assert out.stat().st_size < 20 << 20
    assert any("after which it repeats" in text for text in words(drawn(str(out))))


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    result = plan(BRAKE, "--gantt", str(tmp_path / "no" / "x.svg"))
    assert result.exit_code == Exit.USAGE
    assert "cannot be written: No such file or directory" in result.stderr


def test_a_refused_plan_draws_nothing(write: Write, tmp_path: Path) -> None:
    out = tmp_path / "x.svg"
    assert plan(write("w.yaml", CROWDED), "--gantt", str(out)).exit_code == Exit.FAILED
    assert not out.exists()


# compat


LATE = """workload: w
nodes: {n1: {cpus: [2]}}
tasks:
  - {name: long, period_us: 10000, wcet_us: 4000, priority: 50, node: n1}
  - {name: short, period_us: 10000, wcet_us: 1000, deadline_us: 2000, priority: 10, node: n1}
  - {name: huge, period_us: 10000, wcet_us: 6000, priority: 5, node: n1}
"""


def test_a_plan_by_the_ancestor_shows_what_it_hides(write: Write, tmp_path: Path) -> None:
    file, out = write("w.yaml", LATE), str(tmp_path / "x.svg")
    args = (file, "--mode", "compat", "--algorithm", "target_node_priority")
    value = in_json("plan", *args, status=Exit.FAILED)
    assert value["ok"]
    assert (value["placed"], value["phantom"], value["late"]) == (2, 1, ["short"])
    assert {"task": "huge", "node": "n1", "cpu": -1} in value["tasks"]
    result = plan(*args, "--gantt", out)
    assert result.exit_code == Exit.FAILED
    assert "1 phantom (on no CPU, and accepted), 1 task would miss deadlines" in result.output
    assert "misses its deadline" in words(drawn(out))


def test_nodes_are_scanned_as_the_ancestor_does(write: Write) -> None:
    nodes = write("nodes.yaml", "nodes:\n  n1:\n    available_cpus: [2-5]\n    max_memory_mb: 4096MB\n")
    file = write("w.yaml", LATE.replace("nodes: {n1: {cpus: [2]}}\n", ""))
    value = in_json("plan", file, "--nodes", nodes, "--mode", "compat", status=Exit.FAILED)
    assert {row["cpu"] for row in value["tasks"]} == {2, -1}, "of a range it reads the first number"
    bad = write("bad.yaml", "nodes:\n  n1:\n    max_memory_mb: lots\n")
    result = plan(file, "--nodes", bad, "--mode", "compat")
    assert result.exit_code == Exit.USAGE
    assert f"{bad}: line 3" in result.stderr


# compare


def test_an_engine_compared_with_itself() -> None:
    args = ("--left", "strict:least_loaded", "--right", "strict:least_loaded")
    assert in_json("compare", BRAKE, *args)["differing"] == 0
    assert "no difference" in run("schedule", "compare", BRAKE, *args).output
    assert in_json("compare", "--random", "30", *args)["workloads"] == []


def test_a_comparison_shows_both_places(write: Write) -> None:
    file = write("w.yaml", LATE)
    args = ("--right", "compat:target_node_priority")
    value = in_json("compare", file, *args, status=Exit.FAILED)
    (result,) = value["workloads"]
    assert result["right"]["late"] == ["short"]
    assert result["left"]["refusal"]
    said = run("schedule", "compare", file, *args).output
    assert "n1 CPU 2" in said
    assert "1 phantom" in said


def test_a_comparison_by_chance_can_be_repeated() -> None:
    args = ("compare", "--random", "20", "--seed", "7")
    one = in_json(*args, status=Exit.FAILED)
    assert one == in_json(*args, status=Exit.FAILED)
    assert one["compared"] == 20
    assert one != in_json("compare", "--random", "20", "--seed", "8", status=Exit.FAILED)
    assert "20 workloads" in run("schedule", *args).output


@pytest.mark.parametrize(
    "args", [[], [BRAKE, "--random", "3"], [BRAKE, "--left", "strict:best"], [BRAKE, "--right", "x"]]
)
def test_a_comparison_that_makes_no_sense(args: list[str]) -> None:
    assert run("schedule", "compare", *args).exit_code == Exit.USAGE


# replay


def test_recorded_cases_pass() -> None:
    result = run("schedule", "replay", str(VECTORS))
    assert (result.exit_code, result.output) == (Exit.OK, "70 passed, 0 failed\n")
    assert in_json("replay", str(VECTORS))["failures"] == []


def test_a_case_that_fails_is_named(write: Write) -> None:
    value = json.loads(VECTORS.read_text())
    value["cases"][3]["expect_cpp"]["placed"] += 1
    file = write("cases.json", json.dumps(value))
    result = run("schedule", "replay", file)
    assert result.exit_code == Exit.FAILED
    assert result.output.splitlines()[-1] == "69 passed, 1 failed"
    assert f"{value['cases'][3]['id']} (" in result.output
    failed = in_json("replay", file, status=Exit.FAILED)
    assert (failed["passed"], failed["failed"]) == (69, 1)
    assert failed["failures"][0]["difference"].startswith("placed: expected")


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"cases": 7}'])
def test_a_file_without_cases_has_not_passed(text: str, write: Write) -> None:
    result = run("schedule", "replay", write("cases.json", text))
    assert result.exit_code == Exit.USAGE
    assert "passed" not in result.output


# explain


def test_a_task_of_a_file_is_explained() -> None:
    result = run("schedule", "explain", "slip_control", "--file", BRAKE)
    assert result.exit_code == Exit.OK
    for word in (
        "CPU 2 of node 'front_ecu'",
        "its worst response is 7200 us",
        "more urgent there: pedal",
        "could grow",
    ):
        assert word in result.output
    value = in_json("explain", "brake-by-wire/slip_control", "--file", BRAKE)
    assert value["task"]["task"] == "slip_control"
    assert value["largest_wcet_us"] >= 3200


def test_a_task_that_is_not_in_the_file() -> None:
    result = run("schedule", "explain", "nobody", "--file", BRAKE)
    assert result.exit_code == Exit.UNKNOWN
    assert "has no task 'nobody'; it has pedal" in result.stderr


# Columns


@pytest.mark.parametrize(
    ("us", "text"),
    [(0, "0"), (1, "0.001"), (2500, "2.5"), (10_000, "10"), (123_456, "123.456"), (-1500, "-1.5")],
)
def test_milliseconds_are_exact(us: int, text: str) -> None:
    assert tables.milliseconds(us) == text


@pytest.mark.parametrize(
    ("us", "text"), [(250, "250 us"), (1000, "1 ms"), (2_500_000, "2.5 s"), (2_500_001, "2500.001 ms")]
)
def test_times_have_units(us: int, text: str) -> None:
    assert tables.time(us) == text


def test_a_column_has_the_decimals_of_its_finest_entry() -> None:
    assert tables.decimals([10_000, 2250, None, 500]) == ["10.00", "2.25", "-", "0.50"]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "····"), (1.0, "████"), (0.5, "██··"), (0.53, "██▏·"), (7.0, "████"), (-1.0, "····")],
)
def test_bars(share: float, text: str) -> None:
    assert tables.bar(share, 4) == text
