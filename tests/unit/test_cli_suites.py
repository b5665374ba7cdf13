"""`mgmt suite`, `task`, `worker` and `metrics` against a scripted daemon: exit statuses, words, what is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mgmt.protocol.errors import Exit, MgmtError
from mgmt_cli import meter, metrics, suite, task
from mgmt_cli.suite import tables as suites
from mgmt_cli.task import source
from mgmt_cli.task import tables as tasks
from tests.unit.cli_runner import Situation, judge, judge_json, run
from tests.unit.scripted_daemon import Script, scripted
from tests.unit.suite_bodies import AT, a_detail, a_node, a_suite, a_task, known, unknown

S = Situation
RETRIES = "--retries 2 --retry-delay 1s --retry-on 3"
Body = dict[str, Any]
ONE = known(a_suite(tasks={"total": 3, "pending": 1, "running": 1, "finished": 2}))
DONE = known(a_suite(state="COMPLETE", tasks={"total": 2, "finished": 2}))
WAITING = a_task(state="READY", exit_status=None, started_at=None, finished_at=None, node="", exec_state="")
AGENTS = {"added": ["n1"], "removed": [], "rejected": {}, "nodes": [a_node("n1")]}
WORKER = {
    "worker": "suite-5.w0",
    "node": "local",
    "suite": 5,
    "state": "busy",
    "task": 7,
    "done": 3,
    "pid": 4,
}
HELPER = {
    **WORKER,
    "worker": "helper",
    "suite": None,
    "state": "idle",
    "cpus": [],
    "tags": ["gpu"],
    "independent": True,
    "kind": "process",
    "workers": 2,
    "roles": {"a": "write"},
    "reason": "",
}
GAUGE = {"name": "mgmt_agents", "kind": "gauge", "help": "Nodes.", "samples": [
    {"name": "mgmt_agents", "labels": {"phase": "idle"}, "value": 2.0}]}  # fmt: skip


def took(body: Body) -> Body:
    numbers = list(range(101, 101 + len(body["tasks"])))
    return {"suite": 5, "tasks": numbers, "already": False}


def refuse(code: str, text: str, **detail: Any) -> MgmtError:
    return MgmtError(code, text, **detail)


SITUATIONS = [
    S("suite list", {"suites": known()}, 0, "no suite; `mgmt suite create`"),
    S("suite list etl --state open", {"suites": ONE}, 0, "5  etl   OPEN   admin         0      3     2        1"),
    S("suite list etll", {"suites": ONE}, 4, "Did you mean etl?"),
    S("suite list", None, 5, "no daemon"),
    S("suite status etl", {"suites": ONE}, 0, "Tasks:       3: 1 running, 2 finished"),
    S("suite status", {}, 2, "SUITE"),
    S("suite status nope", {"suites": ONE}, 4, "no suite 'nope'"),
    S("suite status 5 -f", {"suites": DONE, "tasks": {"tasks": [], "total": 0}}, 0, "suite 5 (etl) is COMPLETE"),
    S("suite wait etl", {"suite-wait": a_suite(state="COMPLETE")}, 0, "suite 5 (etl) is COMPLETE"),
    S("suite wait etl --timeout 50ms", {"suite-wait": None}, 7, "suite-wait"),
    S("suite close etl", {"suite-close": a_suite(state="CLOSED")}, 0, "CLOSED; tasks none yet"),
    S("suite close etl", {"suite-close": unknown("etl"), "suites": known(a_suite(name="etl2"))}, 4, "mean etl2?"),
    S("suite cancel etl", {"suite-cancel": {"suite": a_suite(state="CANCELLED"), "cancelled": 4}}, 0,
      "CANCELLED: 4 tasks will not run"),
    S("suite cancel etl", {"suite-cancel": refuse("denied", "no role")}, 6, "no role"),
    S("suite agents etl --add n1", {"suite-agents": AGENTS}, 0, "added: n1"),
    S("suite agents etl --add n2", {"suite-agents": {**AGENTS, "rejected": {"n2": "never joined"}}}, 9,
      "not n2: never joined"),
    S("suite refresh etl", {"suite-refresh": {**AGENTS, "nodes": []}}, 0, "no node may work on it"),
    S("suite create etl", {"suite-create": a_suite()}, 0, "suite 5 (etl) is OPEN"),
    S("suite create etl", {"suite-create": refuse("conflict", "suite 4 has the name")}, 8, "suite 4 has"),
    S("suite create --workers 0", {"suite-create": a_suite()}, 2, "worker_count"),
    S("suite create --cpus 3-", {}, 2, "not a list of CPUs"),
    S("suite create --binding shared", {}, 2, "name them with --cpus"),
    S("suite create --cleanup-timeout 5s", {}, 2, "give it with --cleanup"),
    S("suite create --file /nowhere", {}, 2, "/nowhere: No such file"),
    S("suite make", {}, 2, "No such command 'make'"),
    S("task submit --suite etl -- sort f", {"task-submit": took}, 0, "1 task submitted to suite etl: 101"),
    S("task submit", {}, 2, "Say what to do"),
    S("task submit /nowhere", {}, 2, "there is no such file"),
    S("task submit --retry-on 3 -- x", {}, 2, "--retries"),
    S("task submit --env X -- x", {}, 2, "NAME=VALUE"),
    S("task submit --task-timeout 5s --function os:getpid", {"task-submit": took}, 0, "1 task submitted: 101"),
    S("task submit --function nonsense", {"task-submit": took}, 2, "field `function`"),
    S("suite submit etl -- sort f", {"task-submit": took}, 0, "1 task submitted to suite etl: 101"),
    S("suite submit x -- sort", {"task-submit": unknown("x"), "suites": known()}, 4, "no suite 'x'"),
    S("task submit --suite x -- sort", {"task-submit": unknown("x"), "suites": known()}, 4, "no suite 'x'"),
    S("task submit --suite x -- sort", {"task-submit": refuse("conflict", "cancelled")}, 8, "cancelled"),
    S("task list", {"tasks": {"tasks": [a_task()], "total": 1}}, 0, "FINISHED     0        1  local         0"),
    S("task list --suite etl --limit 1", {"tasks": {"tasks": [a_task()], "total": 9}}, 0, "1 of 9 are shown"),
    S("task list --count", {"tasks": {"tasks": [], "total": 9}}, 0, "9"),
    S("task list x", {}, 2, "not the number of a task"),
    S("task list 9-3", {}, 2, "no span"),
    S("task list --exit-status three", {"tasks": {}}, 2, "exit_status"),
    S("task show 7", {"task-show": a_detail()}, 0, "Ended:      exit status 0"),
    S("task show 8", {"task-show": refuse("unknown-task", "there is no task 8")}, 4, "no task 8"),
    S("task explain 7", {"task-show": a_detail(WAITING, lines=["no node"])}, 0, "task 7 is READY\n  no node"),
    S("task logs 7", {"task-show": a_detail()}, 0, "hi"),
    S("task logs 7", {"task-show": a_detail(WAITING)}, 3, "has no output yet"),
    S("task wait 7 --for ExecSpawned", {"task-wait": a_task()}, 0, "task 7 is FINISHED with exit status 0"),
    S("task wait 7 --timeout 50ms", {"task-wait": None}, 7, "task-wait"),
    S("task watch 7", {"task-show": a_detail()}, 0, "FINISHED"),
    S("task cancel 7", {"task-cancel": {"cancelled": 1, "ending": 2}}, 0, "1 tasks will not run, 2 running"),
    S("task cancel", {"task-cancel": refuse("bad-body", "say which tasks")}, 2, "say which"),
    S("task retry 7", {"task-retry": {"tasks": [7]}}, 0, "1 tasks run again: 7"),
    S("task change 7 --priority 3", {"task-change": a_task(priority=3)}, 0, "priority 3"),
    S("task change 7", {}, 2, "Say what to change"),
    S("worker list", {"workers": {"workers": [{**WORKER, "cpus": [0, 1], "tags": []}]}}, 0, "busy      7     3"),
    S("worker show helper", {"workers": {"workers": [HELPER]}}, 0, "it is independent"),
    S("worker show nobody", {"workers": {"workers": []}}, 4, "there is no worker 'nobody'"),
    S("worker shutdown helper", {"worker-shutdown": {"workers": [HELPER]}}, 0, "tags gpu, groups a (write)"),
    S("worker shutdown", {"worker-shutdown": refuse("bad-body", "say which workers")}, 2, "say which"),
    S("worker tags helper gpu big-", {"worker-tags": {"workers": [HELPER]}}, 0, "tags gpu"),
    S("worker grant helper a --timeout 0.3", {"group-grant": None, "workers": {"workers": [HELPER]}}, 7,
      "group-grant"),
    S("worker pause local", {"worker-pause": {"workers": []}}, 0, "local: its workers take nothing new"),
    S("worker resume n9", {"worker-pause": refuse("unknown-node", "no node n9")}, 4, "n9"),
    S("metrics", {"metrics": {"metrics": [GAUGE]}}, 0, 'mgmt_agents{phase="idle"} 2'),
]  # fmt: skip


@pytest.mark.parametrize("situation", SITUATIONS, ids=str)
def test_a_situation_has_its_exit_status_and_its_words(situation: Situation, folder: str) -> None:
    judge(situation, folder)


@pytest.mark.parametrize("situation", SITUATIONS, ids=str)
def test_with_json_it_is_one_value_of_its_schema(situation: Situation, folder: str) -> None:
    judge_json(situation, folder)


@pytest.mark.parametrize(
    ("group", "name"),
    [(group, name) for group in (suite.suite, task.task) for name in group.commands_of],
)
def test_each_command_explains_itself(group: Any, name: str) -> None:
    result = run(group.name, name, "--help")
    assert result.exit_code == Exit.OK
    assert group.commands_of[name][1].split(".")[0] in " ".join(result.output.split())
    for parameter in group.get_command(None, name).params:
        if parameter.param_type_name == "option":
            assert getattr(parameter, "help", None), f"{name} {parameter.opts[0]} has no help"


# what is asked


def asked(folder: str, script: Script, *args: str, **options: Any) -> Body:
    """The body of the one request that the command makes."""
    with scripted(folder, script) as daemon:
        result = run(*args, **options)
        assert result.exit_code == 0, result.output
        return daemon.asked[-1][1]


def test_options_make_a_suite(folder: str) -> None:
    line = (
        "suite create etl --group ops --tag gpu --tag big --label x --priority 3 --workers 2 --kind resident"
    )
    more = "--prefetch 4 --cpus 0,2-3 --binding exclusive --background watch --background-policy fail"
    hooks = ["--provision", "sh -c 'make all'", "--provision-timeout", "5m", "--cleanup", "rm -r x"]
    body = asked(folder, {"suite-create": a_suite()}, *line.split(), *more.split(), *hooks)
    assert body == {
        "name": "etl",
        "group": "ops",
        "tags": ["gpu", "big"],
        "labels": ["x"],
        "priority": 3,
        "worker": {
            "worker_count": 2,
            "kind": "resident",
            "task_prefetch_count": 4,
            "cpu_binding": {"cores": [0, 2, 3], "strategy": "exclusive"},
        },
        "hooks": {
            "provision": {"args": ["sh", "-c", "make all"], "timeout_s": 300.0},
            "background": {"args": ["watch"], "policy": "fail"},
            "cleanup": {"args": ["rm", "-r", "x"]},
        },
    }


@pytest.mark.parametrize(("name", "text"), [
    ("s.json", json.dumps({"name": "a", "priority": 1, "worker": {"worker_count": 4},
                           "hooks": {"cleanup": {"args": ["c"]}}})),
    ("s.yaml", "name: a\npriority: 1\nworker: {worker_count: 4}\nhooks:\n  cleanup: {args: [c]}\n"),
])  # fmt: skip
def test_options_change_what_a_file_says(folder: str, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    path = str(tmp_path / name)
    options = ["--priority", "2", "--kind", "resident", "--cleanup-timeout", "3"]
    body = asked(folder, {"suite-create": a_suite()}, "suite", "create", "b", "--file", path, *options)
    assert body == {
        "name": "b",
        "priority": 2,
        "worker": {"worker_count": 4, "kind": "resident"},
        "hooks": {"cleanup": {"args": ["c"], "timeout_s": 3.0}},
    }


def test_options_make_a_task(folder: str) -> None:
    line = "suite submit etl --repeat 2 --priority 4 --label x --env A=b=c --cwd / --task-timeout 5s"
    more = [
        "--output",
        *RETRIES.split(),
        "--after",
        "9",
        "--after-success",
        *["--once", "k", "--", "run", "--json", "--", "x"],
    ]
    body = asked(folder, {"task-submit": took}, *line.split(), *more)
    one = {
        "args": ["run", "--json", "--", "x"],
        "priority": 4,
        "labels": ["x"],
        "envs": {"A": "b=c"},
        "cwd": "/",
        "timeout_s": 5.0,
        "terminal_output": True,
        "retries": {"limit": 2, "on_exit": [3], "delay_s": 1.0},
        "after": [9],
        "after_condition": "success",
    }
    assert body == {"suite": "etl", "group": None, "tags": [], "tasks": [one, one], "key": "k/0"}


def test_options_are_for_tasks_that_do_not_say_it(folder: str) -> None:
    lines = '["a"]\n\n{"args": ["b"], "priority": 7}\n'
    body = asked(folder, {"task-submit": took}, "task", "submit", "-", "--priority", "2", input=lines)
    assert body["tasks"] == [{"args": ["a"], "priority": 2}, {"args": ["b"], "priority": 7}]


def test_filters_reach_the_daemon(folder: str) -> None:
    line = "task list 3 5-6 --suite etl --creator ann --state running --tag t --label l --node n1"
    body = asked(
        folder,
        {"tasks": {"tasks": [], "total": 0}},
        *line.split(),
        "--exit-status",
        "!=0",
        "--priority",
        ">=2",
        "--limit",
        "5",
    )
    assert body == {
        "tasks": [3, 5, 6],
        "suite": "etl",
        "creators": ["ann"],
        "states": ["RUNNING"],
        "tags": ["t"],
        "labels": ["l"],
        "node": "n1",
        "exit_status": "!=0",
        "priority": ">=2",
        "limit": 5,
        "offset": 0,
        "count_only": False,
    }


# submitting much


def batches_of(text: str, name: str, folder: Path, repeat: int = 1) -> list[source.Batch]:
    path = folder / name
    path.write_text(text)
    return list(source.batches(str(path), source.entries(str(path)), {}, repeat))


@pytest.mark.parametrize(("name", "text", "lines"), [
    ("t.jsonl", '["a"]\n\n{"args": ["b"]}\n', [1, 3]),
    ("t.json", '[\n{"args": ["a"]},\n\n ["b"]]\n', [2, 4]),
    ("t.json", '[["a"], {"args": ["b"]}]', [1, 1]),
    ("t.json", '\n["a"]\n["b"]', [2, 3]),
    ("t.yaml", "- [a]\n# then\n- args: [b]\n", [1, 3]),
])  # fmt: skip
def test_files_of_tasks(tmp_path: Path, name: str, text: str, lines: list[int]) -> None:
    (batch,) = batches_of(text, name, tmp_path)
    assert batch.tasks == [{"args": ["a"]}, {"args": ["b"]}]
    assert batch.lines == lines


@pytest.mark.parametrize(("name", "text", "says"), [
    ("t.jsonl", '["a"]\n{"args": }\n', ":2: not JSON: Expecting value"),
    ("t.jsonl", '["a"]\n{"argss": ["b"]}\n', ":2: field `argss`"),
    ("t.jsonl", '["a"]\n\n{"args": ["b"], "timeout_s": -1}\n', ":3: field `timeout_s`"),
    ("t.jsonl", '["a"]\n7\n', ":2: a task is an object"),
    ("t.jsonl", '{"args": ["a"], "function": "os:getpid"}\n', ":1: give either"),
    ("t.json", '[\n{"args": ["a"]}\n{"args": ["b"]}]', ":3: not JSON: expected a comma"),
    ("t.json", '[\n{"args": ["a"]},\n{"args": }]', ":3: not JSON: Expecting value"),
    ("t.json", '[{"args": ["a"]}]\n[{"args": ["b"]}]', ":2: not JSON: expected nothing behind"),
    ("t.json", '[{"args": ["a"]},\n', ":2: not JSON"),
    ("t.yaml", "- [a]\n- args: 3\n", ":2: field `args`"),
    ("t.yaml", "- [a]\n- {\n", ":3: not YAML"),
    ("t.yaml", "args: [a]\n", "is not a list of tasks"),
    ("t.jsonl", '{"args": ["' + "x" * (600 << 10) + '"]}', ":1: is longer than 512 KiB"),
])  # fmt: skip
def test_a_bad_line_is_told_by_its_number(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(MgmtError) as caught:
        batches_of(text, name, tmp_path)
    assert says in caught.value.text
    assert caught.value.code == "bad-body"


def test_batches_are_bounded_and_always_the_same(tmp_path: Path) -> None:
    many = "".join(f'["{index}"]\n' for index in range(2500))
    first = batches_of(many, "t.jsonl", tmp_path)
    assert [len(batch.tasks) for batch in first] == [1000, 1000, 500]
    assert batches_of(many, "t.jsonl", tmp_path) == first
    large = "".join(f'["{index}", "{"x" * 100_000}"]\n' for index in range(6))
    assert [len(batch.tasks) for batch in batches_of(large, "t.jsonl", tmp_path)] == [2, 2, 2]


def test_what_is_before_a_bad_batch_is_submitted_and_nothing_behind_it(folder: str, tmp_path: Path) -> None:
    lines = [f'["{index}"]' for index in range(4000)]
    lines[2500] = '["x", 3]'
    with scripted(folder, {"task-submit": took}) as daemon:
        result = run("task", "submit", "--once", "k", "-", input="\n".join(lines))
        sent = [body for verb, body in daemon.asked if verb == "task-submit"]
    assert result.exit_code == Exit.USAGE
    assert "error: standard input:2501: field `args.1`" in result.stderr
    assert "2000 tasks were submitted before" in result.stderr
    assert "--once k" in result.stderr
    assert [body["key"] for body in sent] == ["k/0", "k/1"]


def test_what_the_daemon_refuses_is_told_by_its_line(folder: str) -> None:
    refused = refuse("bad-body", "tasks.1: the workers of suite 5 are of kind process: give `args`")
    with scripted(folder, {"task-submit": refused}):
        result = run("task", "submit", "-", input='["a"]\n\n{"function": "os:getpid"}\n')
    assert result.exit_code == Exit.USAGE
    assert "error: standard input:3: the workers of suite 5 are of kind process" in result.stderr


def test_an_answer_that_says_try_again_is_asked_for_again_with_the_same_key(folder: str) -> None:
    keys: list[str] = []

    def submit(body: Body) -> Body:
        keys.append(body["key"])
        if len(keys) == 2:
            raise MgmtError("stopping", "the daemon is stopping")
        return {**took(body), "already": len(keys) == 3}

    many = "".join(f'["{index}"]\n' for index in range(1500))
    with scripted(folder, {"task-submit": submit}):
        result = run("task", "submit", "-", input=many)
    assert result.exit_code == 0, result.output
    assert len(keys) == 3
    assert keys[1] == keys[2] != keys[0]
    assert "1500 tasks submitted" in result.output


# waiting


def answers(*bodies: Body | MgmtError) -> Callable[[Body], Body]:
    left = list(bodies)

    def answer(body: Body) -> Body:
        found = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(found, MgmtError):
            raise found
        return found

    return answer


@pytest.mark.parametrize(
    ("ended", "status"),
    [
        ([a_task(exit_status=0), a_task(8, exit_status=3)], 3),
        ([a_task(exit_status=2), a_task(8, exit_status=-9)], 137),
        ([a_task(), a_task(8, state="CANCELLED", exit_status=None)], 1),
        ([a_task(state="FAILED", exit_status=-11), a_task(8)], 11),
    ],
)
def test_waiting_ends_with_the_worst_of_the_tasks(folder: str, ended: list[Body], status: int) -> None:
    def listed(body: Body) -> Body:
        if "exit_status" in body:
            good = [one for one in ended if one["state"] == "FINISHED" and one["exit_status"] == 0]
            return {"tasks": [], "total": len(good)}
        return {"tasks": [], "total": 0} if "states" in body else {"tasks": ended, "total": len(ended)}

    script: Script = {"task-submit": took, "tasks": listed}
    with scripted(folder, script):
        result = run("task", "submit", "--wait", "--repeat", "2", "--json", "--", "x")
    assert result.exit_code == status, result.output
    assert json.loads(result.stdout)["exit_status"] == status


def test_following_shows_changes_until_the_end(folder: str) -> None:
    first = a_suite(tasks={"total": 2, "pending": 2, "running": 1, "ready": 1})
    second = a_suite(tasks={"total": 2, "pending": 1, "running": 1, "finished": 1})
    last = a_suite(tasks={"total": 2, "finished": 2}, state="COMPLETE")
    script: Script = {
        "suites": known(first),
        "suite-wait": answers(second, last),
        "tasks": {"tasks": [], "total": 1},
    }
    with scripted(folder, script) as daemon:
        result = run("suite", "status", "5", "-f", "--json")
        waits = [body for verb, body in daemon.asked if verb == "suite-wait"]
    assert result.exit_code == Exit.FAILED
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["tasks"]["finished"] for one in told] == [0, 1, 2]
    assert [body["seen"] for body in waits] == [first["tasks"], second["tasks"]]
    assert "1 of them did not end with 0" in result.stderr


def test_watching_ends_as_the_task_did(folder: str) -> None:
    with scripted(folder, {"task-show": a_detail(a_task(exit_status=-9))}):
        result = run("task", "watch", "7")
    assert result.exit_code == Exit.FAILED
    assert result.output == "task 7 is FINISHED with SIGKILL on local\n"


def test_watching_says_each_state_once(folder: str) -> None:
    running = a_task(state="RUNNING", exec_state="ExecSpawned", exit_status=None, finished_at=None)
    script: Script = {"task-show": a_detail(WAITING), "task-wait": answers(running, running, a_task())}
    with scripted(folder, script):
        result = run("task", "watch", "7")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "task 7 is READY",
        "task 7 is RUNNING (ExecSpawned) on local",
        "task 7 is FINISHED with exit status 0 on local",
    ]


# what is shown


def test_a_suite_in_detail() -> None:
    worker = {"worker_count": 2, "cpu_binding": {"cores": [0, 2, 3], "strategy": "exclusive"},
              "task_prefetch_count": 4, "kind": "resident"}  # fmt: skip
    hooks = {
        "provision": {"args": ["sh", "-c", "make all"], "envs": {}, "resources": [], "timeout_s": 300.0},
        "background": {"args": ["w"], "envs": {}, "resources": [], "policy": "fail"},
        "cleanup": None,
    }
    lines = suites.detail(a_suite(worker=worker, hooks=hooks, tags=["gpu"], completed_at=AT))
    assert lines[0] == "suite 5 (etl)"
    for line in (
        "  Workers:     2 of kind resident on each node, exclusive on CPUs 0,2-3",
        "  Provision:   sh -c 'make all', at most 5m00s",
        "  Background:  w, when it ends: fail",
        "  Completed:   2023-11-14T22:13:20.000Z",
        "local  matched    executing        2  -",
    ):
        assert line in lines


@pytest.mark.parametrize(("status", "text"), [
    (0, "exit status 0"), (-9, "SIGKILL"), (-99, "signal 99"), (None, "no exit status")])  # fmt: skip
def test_how_a_task_ended(status: int | None, text: str) -> None:
    assert tasks.exit_text(a_task(exit_status=status)) == text


def test_long_commands_stay_on_their_line() -> None:
    line = tasks.tasks([a_task(command="x\ny" * 100)])[1]
    assert line.endswith("…")
    assert "\n" not in line


def test_the_bar_its_rate_and_its_end() -> None:
    rate = meter.Rate(10.0)
    for second in range(30):
        rate.add(float(second), 50 * second if second < 20 else 950 + 100 * (second - 19))
    assert rate.per_s() == pytest.approx(100, rel=0.05)
    assert (
        meter.line(250, 1000, 50.0, "3 running")
        == f"{'█' * 6}{'░' * 18} 250/1,000 25%  3 running  50/s  ETA 15s"
    )
    assert meter.line(5, None, 2.5) == "5  2.5/s"
    assert meter.line(0, 0, 0.0) == f"{'░' * 24} 0/0 -  0.0/s"


def test_labels_of_metrics_are_escaped() -> None:
    sample = {"name": "m_sum", "labels": {"a": 'x"\\\ny'}, "value": 0.25}
    family = {"name": "m", "kind": "histogram", "help": "two\nlines", "samples": [sample]}
    assert metrics.exposition([family]) == (
        '# HELP m two\\nlines\n# TYPE m histogram\nm_sum{a="x\\"\\\\\\ny"} 0.25\n'
    )
