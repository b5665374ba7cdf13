"""`mgmt version`: ours, and that of the protocol."""

from __future__ import annotations

from mgmt import __version__
from mgmt.protocol.errors import Exit

from .invocation import Invocation, verb


@verb("version")
def version(invocation: Invocation) -> int:
    """Asks no daemon; `mgmt status` says which version that is."""
    from mgmt.protocol.frames import VERSION

    invocation.say(f"mgmt {__version__} (protocol {VERSION})")
    if invocation.json:
        invocation.emit("mgmt.version/1", {"version": __version__, "protocol": VERSION})
    return Exit.OK
