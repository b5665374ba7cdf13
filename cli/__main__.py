"""`python -m mgmt_cli` is `mgmt`."""

from __future__ import annotations

from .main import main

main()
