"""What a test of the core needs, written as a table of what matters to it; the rest is filled in."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from mgmt.core.event import LEGACY_PLANE, NODES_PLANE, Asked, Now, Route
from mgmt.core.nodes import AgentFacts
from mgmt.core.placement import Cpu, Gpu, Topology
from mgmt.core.state import Identity, State
from mgmt.protocol import frames, messages, messages_suites
from mgmt.protocol.frames import Request
from mgmt.settings import Settings

S = 1_000_000_000
START_NS = 1_000 * S
START_S = 1.8e9
SECRET = bytes(range(32))
EPOCH = 1_700_000_000_000

_serials = itertools.count(1)


class ModelRow(NamedTuple):
    """A model and the backend made for it alone."""

    model: dict[str, Any]
    backend: dict[str, Any] | None


def a_restart(policy: str = "on-failure", **keys: Any) -> dict[str, Any]:
    """A restart policy without jitter, so that delays are round numbers."""
    return {"policy": policy, "jitter": 0.0, **keys}


def a_model(
    name: str = "echo",
    *,
    replicas: int = 1,
    aliases: tuple[str, ...] = (),
    fullname: str | None = None,
    no_backend: bool = False,
    **backend: Any,
) -> ModelRow:
    """A model; further keys are those of its backend (kind, restart, grace_s, cpus, ...)."""
    model: dict[str, Any] = {"name": name, "type": f"type-{name}", "replicas": replicas, "aliases": aliases}
    if fullname is not None:
        model["fullname"] = fullname
    if no_backend:
        return ModelRow(model, None)
    backend.setdefault("restart", a_restart())
    if backend.get("kind") == "symphony":
        return ModelRow(model, {"script": "main.py", **backend})
    return ModelRow(model, {"command": ["run"], **backend})


def a_unit(*, startup: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """A plain unit; `startup`, `ready`, `live` are probes, `pre_start` ... are hook timeouts in seconds."""
    probes: dict[str, Any] = {
        "startup": startup,
        "ready": settings.pop("ready", None),
        "live": settings.pop("live", None),
    }
    hooks = {
        which: {"command": [which], "timeout_s": settings.pop(which)}
        for which in ("pre_start", "post_start", "pre_stop", "post_stop")
        if which in settings
    }
    settings.setdefault("restart", a_restart())
    return {"command": ["run"], "probes": probes, "hooks": hooks, **settings}


def a_probe(kind: str = "tcp", **settings: Any) -> dict[str, Any]:
    """A probe asked every second; one bad answer counts."""
    needed: dict[str, dict[str, Any]] = {"tcp": {"address": "h:1"}, "exec": {"command": ["x"]}, "told": {}}
    return {"kind": kind, "period_s": 1.0, "failure_threshold": 1, **needed[kind], **settings}


def a_topology(cpus: int = 2, nodes: int = 1, gpus: int = 0, memory_mb: int = 1024) -> Topology:
    """A machine of so many CPUs, two to a core, and GPUs, in equal shares on the nodes."""
    return Topology(
        tuple(Cpu(n, n // 2, n * nodes // cpus) for n in range(cpus)),
        tuple(Gpu(f"GPU-{n}", n, n * nodes // gpus, 1 << 30) for n in range(gpus)),
        memory_mb << 20,
    )


def a_config(
    models: list[ModelRow] | None = None,
    units: dict[str, dict[str, Any]] | None = None,
    *,
    default: str | None = None,
    limits: dict[str, Any] | None = None,
    timing: dict[str, Any] | None = None,
    candidates: dict[str, Any] | None = None,
) -> Settings:
    """A configuration of these; without any: one model `echo`."""
    rows = [a_model()] if models is None and units is None else models or []
    document = {
        "model_backends": {row.model["type"]: row.backend for row in rows if row.backend is not None},
        "supported_models": [row.model for row in rows],
        "units": units or {},
        "default_model": default,
        "endpoints": {},
        "limits": limits or {},
        "timing": timing or {},
        "candidates": candidates or {},
    }
    return Settings.model_validate(document, context={"runtime": "/r", "state": "/s"})


def a_state(
    settings: Settings,
    topology: Topology,
    epoch: int = EPOCH,
    now_ns: int = START_NS,
    agent: AgentFacts | None = None,
    debug: bool = False,
) -> State:
    """A daemon that was just started, before its first event."""
    identity = Identity(
        version="1.2.3",
        pid=4242,
        epoch=epoch,
        secret=SECRET,
        config="/etc/mgmt/config.json",
        log_dir="/s/logs",
        started=Now(now_ns, START_S + (now_ns - START_NS) / S),
        topology=topology,
        host="box",
        suites_dir="/s/suites",
        workers="/r/workers",
        worker="/w/mgmt-worker",
        queue=7,
        debug=debug,
    )
    return State(settings, identity, agent)


def a_request(
    verb: str,
    *,
    peer: bytes = b"peer",
    session: int = 0,
    key: str = "",
    deadline_ns: int = 0,
    legacy: bool = False,
    **body: Any,
) -> Asked:
    """A request as it comes off the wire: the body went through msgpack and validation."""
    serial = next(_serials)
    id = 0 if legacy else serial
    head = Request(id, session, verb, frames.unpack(frames.pack(body)), 0, key)
    route = Route(serial, LEGACY_PLANE if legacy else "native", peer, id, session)
    return Asked(route, verb, messages.validate(head), deadline_ns, key)


def an_agent(
    name: str = "n1",
    *,
    tags: tuple[str, ...] = (),
    agent: str = "",
    incarnation: int = 1,
    groups: tuple[str, ...] = (),
    worker: dict[str, Any] | None = None,
) -> AgentFacts:
    """An agent of this name on a machine of its own; `worker`: it is an independent worker."""
    told = None
    if worker is not None:
        told = messages_suites.IndependentWorker.model_validate(worker).model_dump()
    id, machine = agent or f"agent-of-{name}", f"machine-of-{name}"
    facts = {"cpus": 2}
    return AgentFacts(
        name, "tcp://daemon:1", id, machine, incarnation, tags, {}, facts, groups=groups, worker=told
    )


def a_hello(node: str = "n1", *, peer: bytes = b"", legacy: bool = False, **body: Any) -> Asked:
    """The hello of an agent, as it comes to `endpoints.nodes`."""
    whole = {
        "versions": [1],
        "node": node,
        "agent": f"agent-of-{node}",
        "machine_id": f"machine-of-{node}",
        "incarnation": 1,
        "started_at": START_S,
        "version": "1.2.3",
        "pid": 77,
        "log_dir": "/n/logs",
        **body,
    }
    serial = next(_serials)
    head = Request(serial, 0, "agent-hello", frames.unpack(frames.pack(whole)), 0, "")
    return Asked(
        Route(serial, NODES_PLANE, peer or node.encode(), serial), "agent-hello", messages.validate(head)
    )


def a_legacy_route(peer: bytes = b"old") -> Route:
    return Route(next(_serials), LEGACY_PLANE, peer)
