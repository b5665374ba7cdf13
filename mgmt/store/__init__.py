"""The store: what the daemon was told and must still know after any crash.

One small interface (`Batch`, `Restored`, the `Store` methods `load`, `commit`, `close`); the embedded engine is
SQLite in WAL mode. The ancestor kept everything in memory.
"""

from mgmt.store.lock import Lock
from mgmt.store.sqlite import Batch, Restored, SqliteStore

__all__ = ["FILE_NAME", "QUEUE_NAME", "Batch", "Lock", "Restored", "SqliteStore"]

FILE_NAME = "state.db"  # in the state folder
QUEUE_NAME = "queue.db"  # likewise, unless the queue is in a database
