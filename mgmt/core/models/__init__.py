"""Models: what the configuration offers, what is loaded of it, and who may talk to it.

The ancestor's words: `load-model`, `unload-model` and the client handshake live here. Not here: how a process
is started, watched and stopped (`core.supervision`).
"""

from mgmt.core.models.conditions import Conditions
from mgmt.core.models.handshake import Handshakes
from mgmt.core.models.leases import LeaseRecord, Leases
from mgmt.core.models.loading import Loading
from mgmt.core.models.operations import Operations
from mgmt.core.models.registry import Registry

__all__ = ["Conditions", "Handshakes", "LeaseRecord", "Leases", "Loading", "Operations", "Registry"]
