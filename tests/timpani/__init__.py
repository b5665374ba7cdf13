"""TIMPANI on the wire: a mock submitter, mock nodes and a mock sink of faults, and the tests that use them.

Each mock is a program as well: `python -m tests.timpani.submitter`, `.node`, `.sink`; `--help` says how.
"""
