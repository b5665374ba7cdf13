"""What is stored of candidates, page by page, for commands that look at all of it themselves."""

from __future__ import annotations

from typing import Any

from mgmt.core import effect as fx
from mgmt.core.candidates import batches
from mgmt.core.candidates.hosts import KIND
from mgmt.core.candidates.settings import OWN_KEYS
from mgmt.core.event import Asked, Now
from mgmt.core.state import State
from mgmt.core.suites.candidate_rows import GetRows, Row
from mgmt.core.verbs import Body, handles
from mgmt.protocol import defaults, frames
from mgmt.protocol import messages_candidates as msg
from mgmt.protocol.errors import MgmtError

PAGE_BYTES = defaults.MAX_CONTROL_FRAME_BYTES // 2
PAGE_ROWS = 4000


@handles("candidates-export")
def _export(state: State, now: Now, asked: Asked, body: msg.CandidatesExport, out: list[fx.Effect]) -> Body:
    def then(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if isinstance(result, MgmtError):
            state.sessions.refuse(asked.route, result, out)
            return
        page, size = list[Row](), 0
        for row in result.rows:
            size += len(row.record)
            if page and size > PAGE_BYTES:
                break
            page.append(row)
        more = len(page) < len(result.rows) or len(page) == limit
        told = state.settings.candidates.model_dump(mode="json")
        state.sessions.answer(
            asked.route,
            frames.Outcome.OK,
            {
                # Hosts are no table of candidates: how long each is left alone is the daemon's own affair.
                "rows": [
                    {"table": row.kind, "record": frames.unpack(row.record)} for row in page if row.kind != KIND
                ],
                "next_table": page[-1].kind if more else None, "next_name": page[-1].name if more else None,
                "settings": {name: value for name, value in told.items() if name not in OWN_KEYS},
            },
            out,
        )  # fmt: skip

    state.sessions.park(now, asked, out)
    limit = batches.PAGE if body.after_table in ("", batches.KIND) else PAGE_ROWS
    state.board.ask(GetRows((body.after_table, body.after_name), limit), then, out)
    return None
