"""THE table of what the queue can do: operation → the function that does it in an open transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mgmt.core.suites import blobs as blob_ops
from mgmt.core.suites import candidate_rows as kept
from mgmt.core.suites import operations as ops
from mgmt.store.queue import (
    blobs,
    candidates,
    exchange,
    giving_back,
    holders,
    queries,
    submitting,
    suites,
    tasks,
)

# Each function takes the connection and its own operation; the first is an instance of the key.
OPERATIONS: dict[type, Callable[..., Any]] = {
    ops.CreateSuite: suites.create_suite,
    ops.CloseSuite: suites.close_suite,
    ops.CancelSuite: suites.cancel_suite,
    ops.ChangeSuite: suites.change_suite,
    ops.OpenLane: suites.open_lane,
    ops.Submit: submitting.submit,
    ops.CancelTasks: tasks.cancel_tasks,
    ops.ChangeTask: tasks.change_task,
    ops.RetryTask: tasks.retry_task,
    ops.Prune: tasks.prune,
    ops.OpenHolder: holders.open_holder,
    ops.RenewHolders: holders.renew_holders,
    ops.EndHolder: holders.end_holder,
    ops.Reconcile: holders.reconcile,
    ops.Exchange: exchange.exchange,
    ops.ExecStates: holders.exec_states,
    ops.ReportDeath: giving_back.report_death,
    ops.Sweep: holders.sweep,
    kept.PutRows: candidates.put_rows,
    kept.RecordRun: candidates.record_run,
    kept.ChangePriorities: candidates.change_priorities,
    kept.SubmitNew: candidates.submit_new,
    blob_ops.BeginUpload: blobs.begin_upload,
    blob_ops.EndUpload: blobs.end_upload,
    blob_ops.SweepUploads: blobs.sweep_uploads,
    blob_ops.DeleteBlobs: blobs.delete_blobs,
}
QUERIES: dict[type, Callable[..., Any]] = {
    ops.ListSuites: queries.list_suites,
    ops.GetSuite: queries.get_suite,
    ops.ListLanes: queries.list_lanes,
    ops.ListTasks: queries.list_tasks,
    ops.GetTask: queries.get_task,
    ops.ListHolders: queries.list_holders,
    kept.GetRows: candidates.get_rows,
    kept.GetLabelled: candidates.get_labelled,
    blob_ops.ListBlobs: blobs.list_blobs,
    blob_ops.ListUnused: blobs.list_unused,
    blob_ops.ListStorage: blobs.list_storage,
}
