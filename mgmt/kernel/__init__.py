"""Scheduling analyses and placement: exact, in integers, with the same answers in C and in Python.

The C extension is used where it is built; `MGMT_KERNEL=python` or a missing extension selects the readable
twins in `reference.py` and `reference_placement.py`.
"""
