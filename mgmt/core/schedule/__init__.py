"""Workloads of periodic tasks: documents in, placements out. The arithmetic is `mgmt.kernel`'s."""
