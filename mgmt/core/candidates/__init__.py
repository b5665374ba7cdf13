"""Candidates: which command to run next on which codebase, and why (Janitor's scheduling engine).

A candidate is a codebase and a campaign with a command and a value; a run is one attempt at it. Here live the
history of runs and what it says about the next one, scores, fairness, dependencies, and the ancestor's own
rules as mode compat. The columns are worked by `mgmt.kernel`; nothing here knows how a run is started.
"""
