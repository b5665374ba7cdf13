"""The durable queue of task suites: one set of operations on SQLite or PostgreSQL."""
