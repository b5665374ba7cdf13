"""The twelve promises, and the tests that hold each of them; a promise without a test is a failure here."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

# Number -> what is promised -> the tests, `FILE::TEST` below this folder's parent.
PROMISES: dict[str, tuple[str, ...]] = {
    "P1 when a stop is answered, no process of the tree exists": (
        "fault/test_stop_is_empty.py::test_nothing_of_a_tree_outlives_its_stop",
        "fault/test_stop_is_empty.py::test_a_dead_leaders_tree_is_ended_too",
        "fault/test_stop_is_empty.py::test_a_dead_shims_tree_is_ended_by_its_group",
        "fault/test_stop_is_empty.py::test_a_restart_never_waits_for_a_fork_loop",
        "fault/test_faulty_backends.py::test_daemonised_grandchildren_never_outlive_their_backend",
        "system/test_shim.py::test_kill_leaves_nobody",
    ),
    "P2 a daemon killed at any point loses, doubles and mistakes nobody": (
        "fault/test_daemon_crash.py::test_a_daemon_killed_at_any_moment_loses_and_doubles_nothing",
        "fault/test_takeover.py::test_a_stop_in_its_grace_goes_on",
        "fault/test_takeover.py::test_a_pre_start_hook_is_run_again_and_never_beside_itself",
        "fault/test_takeover.py::test_a_unit_in_backoff_is_started_when_its_time_comes",
        "fault/test_takeover.py::test_a_stop_that_waits_for_a_dependant_goes_on",
        "fault/test_takeover.py::test_a_unit_whose_shim_is_killed_is_ended_and_started_again_once",
        "fault/test_takeover.py::test_a_pid_used_again_is_never_signalled",
        "fault/test_takeover.py::test_a_shim_in_doubt_is_not_signalled_and_its_unit_not_doubled",
        "fault/test_takeover.py::test_two_hundred_units_are_adopted",
        "fault/test_schedule_crash.py::test_a_daemon_killed_in_the_midst_of_submissions_loses_and_doubles_nothing",
        "system/test_schedule_daemon.py::test_a_next_daemon_has_the_same_schedule",
    ),
    "P3 a restart and an upgrade of the daemon keep the units": (
        "fault/test_takeover.py::test_a_hand_over_keeps_every_process",
        "fault/test_takeover.py::test_a_hangup_applies_the_file_and_touches_only_what_changed",
        "system/test_systemd_node.py::test_restart_keeps_the_units",
        "system/test_systemd_node.py::test_units_are_adopted_when_the_daemon_is_killed",
    ),
    "P4 nobody waits for a slow stop of somebody else": (
        "fault/test_parallel.py::test_a_stop_of_a_minute_delays_nobody",
        "fault/test_parallel.py::test_stops_run_beside_each_other",
    ),
    "P5 places are the same for the same configuration, exclusive, and kept by every thread": (
        "fault/test_parallel.py::test_every_thread_has_the_promised_cpus_whatever_the_order_and_the_daemon",
        "fault/test_parallel.py::test_cpus_of_an_exclusive_owner_are_refused_with_his_name",
        "system/test_schedule_daemon.py::test_a_unit_keeps_tasks_off_its_cpu",
        "system/test_schedule_daemon.py::test_tasks_keep_a_unit_off_their_cpu",
        "fault/test_faulty_backends.py::test_every_thread_of_pinned_backends_keeps_its_cpus",
        "fault/test_faulty_backends.py::test_a_backend_that_leaves_its_cpus_is_reported",
    ),
    "P6 each request has exactly one answer": (
        "fault/test_replica_loss.py::test_each_request_through_the_relay_gets_one_answer",
        "fault/test_replica_loss.py::test_direct_clients_of_both_replicas_hear_of_their_own_only",
        "fault/test_hostile_frames.py::test_two_peers_of_one_identity_do_not_stop_the_newer_one",
        "fault/test_slow_clients.py::test_more_requests_than_a_relay_may_queue_are_answered_busy",
        "fault/test_slow_clients.py::test_a_client_that_leaves_with_answers_waiting_is_counted_once",
        "fault/test_half_open_link.py::test_each_request_over_a_dead_link_ends_once_and_in_time",
        "wire/test_client_serve.py::test_a_restarted_daemon_gets_the_open_request_again",
    ),
    "P7 output never blocks a unit, and every byte of it is accounted for": (
        "fault/test_backend_logs.py::test_a_flood_of_output_is_rotated_and_disturbs_nobody",
        "fault/test_backend_logs.py::test_a_log_that_is_removed_meanwhile_is_made_again",
        "fault/test_backend_logs.py::test_a_full_disk_never_blocks_a_backend",
        "system/test_shim.py::test_full_disk_never_blocks_and_every_byte_is_accounted_for",
        "system/test_shim.py::test_frozen_daemon_is_dropped_and_holds_nothing_up",
    ),
    "P8 what was wanted survives a crash in the middle of a write": (
        "unit/test_store.py::test_a_journal_cut_at_any_byte_is_a_prefix_of_the_commits",
        "unit/test_store.py::test_a_store_cut_at_any_byte_is_refused_and_left_alone",
        "unit/test_store.py::test_a_checkpoint_that_was_interrupted_is_repeated",
        "unit/test_store.py::test_a_full_disk_is_told_and_survived",
        "fault/test_damaged_store.py::test_a_damaged_store_is_refused_and_recovered",
    ),
    "P9 garbage and oversized messages never end the daemon, and a wrong key is an error within two seconds": (
        "fault/test_hostile_frames.py::test_each_of_two_thousand_mutated_messages_gets_one_answer",
        "fault/test_hostile_frames.py::test_each_of_three_thousand_random_bodies_gets_its_one_answer",
        "fault/test_hostile_frames.py::test_a_message_far_above_the_limit_ends_the_connection",
        "fault/test_hostile_frames.py::test_strangers_that_do_not_speak_zmq_disturb_nobody",
        "fault/test_keys.py::test_a_wrong_server_key_is_told_to_both",
        "fault/test_keys.py::test_a_key_that_is_not_allowed_is_told_to_both",
        "fault/test_keys.py::test_no_key_is_told_to_both",
        "fault/test_keys.py::test_a_revoked_key_is_shut_out_without_a_restart",
    ),
    "P10 neither heartbeats nor restarts make it grow": (
        "fault/test_steadiness.py::test_memory_is_flat_over_heartbeats",
        "fault/test_steadiness.py::test_restarts_leave_nothing_behind",
        "fault/test_faulty_backends.py::test_two_hundred_rounds_leak_neither_descriptors_nor_threads_nor_files",
    ),
    "P11 nothing dead stays, and neither SIGCHLD nor the wall clock is relied on": (
        "fault/test_steadiness.py::test_no_zombie_grows_old_and_no_child_signal_is_needed",
        "fault/test_steadiness.py::test_a_step_of_the_clock_moves_no_timer",
        "fault/test_steadiness.py::test_a_frozen_process_is_killed_and_started_again",
        "system/test_shim.py::test_no_zombies",
    ),
    "P12 cycle times are published, and misses counted": (
        "rt/test_release.py::test_no_drift_over_2000_periods",
        "rt/test_release.py::test_execution_is_cpu_time_and_response_is_not",
        "rt/test_deadlines.py::test_without_max_dmiss_misses_are_only_counted",
        "rt/test_deadlines.py::test_a_fault_exactly_at_max_dmiss_before_the_next_release",
        "system/test_schedule_tasks.py::test_what_was_measured_is_shown_and_drawn",
    ),
}


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text())
    names = (node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(name for name in names if name.startswith("test_"))


def test_there_are_twelve_promises() -> None:
    assert [promise.split()[0] for promise in PROMISES] == [f"P{number}" for number in range(1, 13)]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.split()[0])
def test_each_promise_has_its_tests(promise: str) -> None:
    named = [name.split("::") for name in PROMISES[promise]]
    assert named
    assert not [f"{file}::{test}" for file, test in named if test not in names_in(file)]
