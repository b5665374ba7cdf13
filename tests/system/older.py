"""Runs a program of mgmt as one of another version: `python older.py REVISIONS -- python -m mgmt ...`.

REVISIONS are those of the protocol that it speaks, for example `1` or `3,4`. One that speaks only the first is
strict about what came later, as that version was, and reads the schema versions of before, too.
"""

from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from typing import Any

STATE, QUEUE = 7, 1  # the schema versions that the older one reads


def become(spoken: tuple[int, ...]) -> None:
    """Every module of mgmt is one of the other version from now on."""
    from pydantic import create_model

    from mgmt.protocol import revisions
    from mgmt.protocol.messages import NOTICES
    from mgmt.protocol.table import Message
    from mgmt.store import sqlite
    from mgmt.store.queue import tables

    unsaid = {name: revisions.newer(name, spoken[-1]) for name in NOTICES}
    vars(revisions)["newer"] = lambda name, revision: unsaid[name]
    for name, row in NOTICES.items():
        if unsaid[name]:
            fields: dict[str, Any] = {
                field: (info.annotation, info)
                for field, info in row.body.model_fields.items()
                if field not in unsaid[name]
            }
            NOTICES[name] = replace(row, body=create_model(row.body.__name__, __base__=Message, **fields))
    revisions.SPOKEN = spoken
    if spoken == (1,):
        sqlite.SCHEMA_VERSION, tables.SCHEMA_VERSION = STATE, QUEUE
        for version in range(STATE, max(sqlite._MIGRATIONS) + 1):
            del sqlite._MIGRATIONS[version]
        tables.MIGRATIONS.clear()


if __name__ == "__main__":
    told, dashes, _, option, program, *arguments = sys.argv[1:]
    assert (dashes, option) == ("--", "-m"), sys.argv
    del sys.path[0]  # the folder of this file, whose modules have names of their own
    become(tuple(map(int, told.split(","))))
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name="__main__", alter_sys=True)
