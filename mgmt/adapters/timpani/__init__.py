"""TIMPANI on the wire: a gRPC server towards its submitters and nodes, and a client of the daemon.

Here live the family's three services (SchedInfoService, NodeService; FaultService as its client), the barrier at
which its nodes start together, and the queue of faults. What fits where is decided by the daemon, or, in mode
compat, by `mgmt.core.schedule.compat`. The ancestor's word for it: timpani-o, less its scheduler.

grpcio is needed (`pip install 'mgmt[grpc]'`); it is imported by `rpc` and `gateway` only.
"""
