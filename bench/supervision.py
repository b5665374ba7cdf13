"""Figures of many units: starting, restarting, asking after and adopting them, beside other supervisors."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import daemon, installed, supervisors, wire
from bench.figure import Figure, interleave, percentile
from bench.supervisors import Circus, Ours, Peer, Supervisord

FEW, MANY = 10, 200
PAUSE_S = 0.02  # between two crashes: each meets a supervisor at rest
PEER_PAUSE_S = 1.7  # peers take an end in the first second for a start that failed
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def supervision(quick: bool) -> list[Figure]:
    """200 `sleep infinity`; peers are left out, and the first row says why, when they cannot be installed."""
    found = installed.peers("supervisors")
    figures = []
    if isinstance(found, str):
        figures.append(Figure("peers that were found", "", [0], note=found))
    programs = found if isinstance(found, Path) else None
    return [*figures, *_crash(quick, programs), *_many(quick, programs), *_at_rest(quick), _adoption(quick)]


@contextmanager
def _peers(programs: Path | None, count: int) -> Iterator[list[Peer]]:
    with ExitStack() as stack:
        kinds: list[type[Supervisord] | type[Circus]] = [] if programs is None else [Supervisord, Circus]
        yield [
            stack.enter_context(supervisors.peer(kind, programs, count))
            for kind in kinds
            if programs is not None
        ]


def _crash(quick: bool, programs: Path | None) -> list[Figure]:
    """kill -9 of a unit until its successor is seen."""
    times, peer_times = (40, 2) if quick else (200, 5)
    with supervisors.ours(FEW) as ours, supervisors.floor(FEW) as floor, _peers(programs, FEW) as peers:
        ours.start_ms()

        def crash(supervisor: supervisors.Supervisor, pause_s: float = PAUSE_S) -> Callable[[], float]:
            def once() -> float:
                time.sleep(pause_s)
                return supervisor.respawn_ms()

            return once

        once_ms, floor_ms = interleave(times, crash(ours), crash(floor))
        taken = interleave(peer_times, *(crash(peer, PEER_PAUSE_S) for peer in peers))
    name = "kill -9 to respawned"
    figures = [
        Figure(f"{name}, p50", "ms", once_ms, floor_ms, floor.name, "ratio<=", 2),
        Figure(f"{name}, p99", "ms", [percentile(once_ms, 0.99)], [percentile(floor_ms, 0.99)], floor.name,
               "value<=", 10),
    ]  # fmt: skip
    for peer, peer_ms in zip(peers, taken, strict=True):
        goal = 0.01 if peer.name == Supervisord.name else 1.0
        figures.append(
            Figure(f"{name}, beside {peer.name}", "ms", once_ms, peer_ms, peer.name, "ratio<=", goal)
        )
    return figures


def _many(quick: bool, programs: Path | None) -> list[Figure]:
    """Starting all units by one request, their status by library and by command."""
    rounds, commands, asks = (3, 7, 50) if quick else (9, 25, 200)
    with supervisors.ours(MANY) as ours, _peers(programs, MANY) as peers:
        everyone: list[Ours | Peer] = [ours, *peers]

        def start(supervisor: Ours | Peer) -> Callable[[], float]:
            def once() -> float:
                taken_ms = supervisor.start_ms()
                supervisor.stop()
                return taken_ms

            return once

        for peer in peers:
            peer.stop()
        start(ours)()  # the first one makes the folders and writes the caches of the others
        bare, *started = interleave(rounds, _bare_start_ms, *map(start, everyone))
        for each in everyone:
            each.start_ms()
        daemon.wait_until(lambda: set(ours.states().values()) == {"RUNNING"})

        def ask(supervisor: Ours | Peer) -> Callable[[], float]:
            return lambda: statistics.median(supervisor.status_s(asks)) * 1e3

        def run(supervisor: Ours | Peer) -> Callable[[], float]:
            return lambda: _process_ms(*supervisor.command_line)

        asked = interleave(5, *map(ask, everyone))
        told = interleave(commands, *map(run, everyone))
    name = f"start of {MANY} units until all are seen"
    figures = [Figure(name, "ms", started[0], bare, "Popen loop", "ratio<=", 2.5)]
    for peer, peer_ms in zip(peers, started[1:], strict=True):
        figures.append(
            Figure(f"{name}, beside {peer.name}", "ms", started[0], peer_ms, peer.name, "ratio<=", 0.333)
        )
    name = f"status of {MANY} units through the library, p50"
    figures.append(Figure(name, "ms", asked[0], sense="value<=", goal=0.5))
    for peer, peer_ms in zip(peers, asked[1:], strict=True):
        figures.append(Figure(f"{name}, beside {peer.name}", "ms", asked[0], peer_ms, peer.name))
    name = f"mgmt status of {MANY} units as a process"
    for peer, peer_ms in zip(peers, told[1:], strict=True):
        command = Path(peer.command_line[0][0]).name
        figures.append(Figure(name, "ms", told[0], peer_ms, f"{command} status", "ratio<=", 0.7))
    return figures if peers else [*figures, Figure(name, "ms", told[0])]


def _bare_start_ms() -> float:
    start = time.perf_counter()
    processes = [subprocess.Popen(supervisors.COMMAND) for _ in range(MANY)]
    taken_ms = (time.perf_counter() - start) * 1e3
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
    return taken_ms


def _process_ms(command: list[str], environ: dict[str, str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, env=environ, capture_output=True, check=False)
    taken_ms = (time.perf_counter() - start) * 1e3
    if done.stdout.count(b"unit-") != MANY:
        raise RuntimeError(f"{command} said: {done.stdout[-500:]!r} {done.stderr[-500:]!r}")
    return taken_ms


def _at_rest(quick: bool) -> list[Figure]:
    """What idle units take: memory of the daemon and of the shims, CPU of the daemon."""
    window_s, windows = (5.0, 1) if quick else (5.0, 4)
    with supervisors.ours(2 * MANY) as ours:
        twice_mb = _settled_mb(ours)
    with supervisors.ours(MANY) as ours:
        with_mb = _settled_mb(ours)
        shims_mb = [_resident_bytes(pid) / 1e6 for pid in supervisors.children(ours.pid)]
        cpu = []
        for _ in range(windows):
            before_s, start = ours.daemon.cpu_s(), time.monotonic()
            time.sleep(window_s)
            cpu.append((ours.daemon.cpu_s() - before_s) / (time.monotonic() - start) * 100)
    return [
        Figure(
            f"resident memory per idle unit, from {MANY} to {2 * MANY}",
            "KB",
            [(twice_mb - with_mb) / MANY * 1e3],
            sense="value<=",
            goal=15,
        ),
        Figure("resident memory of a shim, the largest", "MB", [max(shims_mb)], sense="value<=", goal=1),
        Figure("resident memory of a shim", "MB", shims_mb),
        Figure(f"CPU at rest, {MANY} units", "%", cpu, sense="value<", goal=1),
    ]


def _settled_mb(ours: Ours) -> float:
    """With all units started, and looked at: each start asks for a sample a second later."""
    ours.start_ms()
    time.sleep(2.0)
    ours.states()
    return ours.daemon.resident_mb()


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def _adoption(quick: bool) -> Figure:
    """kill -9 of the daemon and a start, until its successor adopted all units and says so."""
    with daemon.place(units=supervisors.unit_settings(MANY, autostart=True)) as (folder, environ, command):
        process = _started(command, environ, folder)
        session = wire.Control(f"ipc://{folder}/control")
        daemon.wait_until(lambda: all(unit["ready"] for unit in session.call("status")["units"]))
        before = {unit["unit"]: unit["pid"] for unit in session.call("status")["units"]}
        taken_ms = []
        try:
            for _ in range(3 if quick else 9):
                since = session.call("status")["service"]["seq"]
                session.socket.close(0)
                start = time.perf_counter()
                process.kill()
                process.wait()
                process = _started(command, environ, folder)
                session = wire.Control(f"ipc://{folder}/control")
                adopted = _adopted_by(session, since)
                status = session.call("status")
                taken_ms.append((time.perf_counter() - start) * 1e3)
                if adopted != set(before) or before != {u["unit"]: u["pid"] for u in status["units"]}:
                    raise RuntimeError("a unit was lost or started twice")
        finally:
            process.terminate()
            process.wait()
    name = f"kill -9 of the daemon and a start until {MANY} units are adopted"
    return Figure(name, "ms", taken_ms, sense="value<=", goal=500)


def _started(command: list[str], environ: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    with open(folder / "daemon.log", "ab") as log:
        return subprocess.Popen(command, env=environ, stdout=log, stderr=log)


def _adopted_by(session: wire.Control, since: int) -> set[str]:
    """The units that are told to be adopted after the event of that number, as soon as there are MANY."""
    snapshot = session.call("subscribe", {"since": since, "epoch": session.welcome["epoch"]})
    adopted = {event["unit"] for event in snapshot["events"] if event.get("reason") == "adopted"}

    def note(body: dict[str, object]) -> bool:
        if body.get("reason") == "adopted":
            adopted.add(str(body["unit"]))
        return len(adopted) == MANY

    if len(adopted) < MANY:
        session.until_event(note)
    return adopted
