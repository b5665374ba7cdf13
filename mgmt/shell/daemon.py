"""The daemon's shell: one loop that turns the world into events, and effects into deeds."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import secrets
import signal as signals
import time
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Barrier
from typing import Any

import uvloop
import zmq

from mgmt import __version__, config
from mgmt.config import Loaded
from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import CREW_PLANE, NODES_PLANE, UPLINK_PLANE, Now
from mgmt.core.state import Identity, State
from mgmt.core.step import LEGACY_PLANE, step
from mgmt.core.suites import operations
from mgmt.core.suites.blobs import ListStorage
from mgmt.protocol import defaults, frames, keys
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.keys import Grant
from mgmt.settings import Settings
from mgmt.shell import agent as agents
from mgmt.shell import blobs, observer, sight
from mgmt.shell.commands import Commands
from mgmt.shell.commits import Commits
from mgmt.shell.computing import compute
from mgmt.shell.courier import Courier, remove_tree
from mgmt.shell.couriers import ToItself, over_link
from mgmt.shell.door import Door
from mgmt.shell.executor import Executor
from mgmt.shell.identity import boot_id
from mgmt.shell.legacy import LegacyPlane
from mgmt.shell.logs import read_log
from mgmt.shell.native import NativePlane
from mgmt.shell.nodes import NodesPlane
from mgmt.shell.notify import Notifier, watchdog_interval_s
from mgmt.shell.outpost import Outpost
from mgmt.shell.ownership import claim, own
from mgmt.shell.prober import Prober
from mgmt.shell.probes import Probes
from mgmt.shell.relay import Relay
from mgmt.shell.rotation import Rotation, Watched
from mgmt.shell.router import ipc_path, remove_socket
from mgmt.shell.spawning import Spawner, groups_of_units
from mgmt.shell.timers import Timers
from mgmt.shell.topology import NvmlGpus, read_topology
from mgmt.shell.units import Units
from mgmt.shell.uplink import Uplink
from mgmt.shell.workers import Workers, make_folder
from mgmt.store import FILE_NAME, QUEUE_NAME, Batch, Lock, SqliteStore
from mgmt.store.queue.sqlite import SqliteEngine
from mgmt.store.queue.thread import Engine, Queue
from mgmt.worker import PROGRAM as PROCESS_WORKER

log = logging.getLogger("symphony-mgmt")  # the ancestor's name: its users filter on it

FIRST_SAMPLE_S = 0.02  # after a start
SAMPLE_S = 5.0  # how often CPU and memory of units are looked at
WORKERS = 2  # threads for what may block: reading logs, walking /proc
GONE = ".gone"  # how folders end that are being removed
GC_ALLOCATIONS = 20_000  # net, of containers, between two searches for cycles; Python's 700 are for scripts
FLUSH_S = 0.5  # how long the last answers may take at the end
UNTELLABLE = (
    "the answer could not be put into words: a fault of mgmt itself; its traceback is in the daemon's log"
)


class Daemon:
    """Everything the shell owns; `run` returns when the core said Quit and the last answers are out."""

    def __init__(
        self,
        loaded: Loaded,
        backend_path: Path | None,
        runtime: Path,
        state_dir: Path,
        agent: agents.AgentOptions | None = None,
    ) -> None:
        """Takes the lock and binds the endpoints; MgmtError when somebody else has them."""
        settings = loaded.settings
        policy = agents.policy_of(agent, state_dir) if agent is not None else None
        log_dir = state_dir / "logs"
        log_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        own(runtime)
        self._lock = Lock(state_dir)
        self._store = SqliteStore(state_dir / FILE_NAME)
        restored = self._store.load()
        self._notifier = Notifier.from_environ()
        self._cgroups = groups_of_units(state_dir)
        self._environ = dict(os.environ)
        for name in ("MGMT_TOKEN", "MGMT_TOKEN_FILE"):  # of whoever started it, and not of its units
            self._environ.pop(name, None)
        for endpoint in settings.endpoints.served().values():
            claim(endpoint)
        self._loop = uvloop.new_event_loop()
        self._context: zmq.Context[Any] = zmq.Context()
        serials = itertools.count(1)

        def serial() -> int:
            return next(serials)

        self._queue: deque[ev.Event] = deque()
        self._stepping = False
        guarded, keys_dir = settings.endpoints.guarded(), keys.keys_dir(state_dir)
        self._door: Door | None = None
        if guarded:
            self._door = Door(self._loop, self._context, keys_dir, self._on_revoked)
        keys.mark(keys_dir, bool(guarded))
        if self._door is not None and "control" in guarded:
            self._environ["MGMT_BACKEND_KEYS"] = self._door.backend_keys()
        self.native = NativePlane(
            self._loop,
            self._context,
            settings.endpoints.control,
            settings.timing.request_timeout_s,
            settings.limits.max_subscriber_queue,
            serial,
            self.emit,
            self._door if "control" in guarded else None,
        )
        self.legacy = LegacyPlane(self._loop, self._context, settings, serial, self.emit)
        self.relay = Relay(
            self._loop,
            self._context,
            settings.endpoints.relay,
            settings.limits.max_relay_frame_bytes,
            settings.limits.max_relay_queue,
            self._door.prepare("relay") if self._door is not None and "relay" in guarded else None,
        )
        self._nodes: NodesPlane | None = None
        if settings.endpoints.nodes is not None:
            self._nodes = NodesPlane(
                self._loop,
                self._context,
                settings.endpoints.nodes,
                settings.limits.max_relay_frame_bytes,
                self.relay,
                serial,
                self.emit,
                self._door if "nodes" in guarded else None,
            )
        self._uplink: Uplink | None = None
        self._outpost: Outpost | None = None
        if agent is not None:
            self._outpost = Outpost(self._loop, self._context, lambda message: self._up().carry(message))
            self._uplink = Uplink(
                self._loop,
                self._context,
                agent.join,
                settings.limits.max_relay_frame_bytes,
                serial,
                self.emit,
                self._outpost.on_carried,
                agent.credentials,
            )
        self._prober = Prober(self._loop, self._context, self.emit)
        self._timers = Timers(self._loop, lambda key: self.emit(ev.TimerFired(key)))
        self._spawner = Spawner(
            backend_path,
            runtime / "units",
            log_dir,
            self._environ,
            self._cgroups,
            lambda: self._state.settings,
        )
        self._executor = Executor(
            self._loop, self._spawner.segments, self._post, self._environ.get(observer.VARIABLE, "")
        )
        self._units = Units(self._loop, self._spawner, self._submit, self.emit)
        self._commands = Commands(self._loop, state_dir)
        self._probes = Probes(self._loop, self._commands, self._spawner.log_path, self._submit, self._post)
        self._commits = Commits(
            self._loop, self._store, self._prepare, lambda effect: self._perform[type(effect)](effect)
        )
        agent_id = restored.meta.get("agent") or secrets.token_hex(16)
        self._tasks: Queue | None = None  # an agent has none
        queue_id, suites, holders, storage = 0, (), (), ()
        self._blobs: blobs.Blobs | None = None
        self._itself = ToItself(serial, self._post)
        if agent is None:
            folder = state_dir / blobs.FOLDER
            contents = blobs.contents_of(settings.files, folder)
            self._blobs = blobs.Blobs(self._loop, folder, contents, self.emit)
            engine = queue_engine(settings, state_dir)
            self._running = False
            self._tasks = Queue(engine, self._deliver)
            queue_id = engine.queue_id
            suites = ask(self._tasks, operations.ListSuites(limit=1 << 31)).suites
            holders = ask(self._tasks, operations.ListHolders(agent_id))
            storage = ask(self._tasks, ListStorage())
        workers_socket = runtime / "workers"
        self._suite_workers = Workers(self._loop, workers_socket, self.emit)
        self._courier = Courier(
            self._loop,
            over_link(self._loop, lambda: self._up().ask)
            if agent is not None
            else self._itself.ask(self._loop),
            self.emit,
            state_dir / "cache",
            # Here is all content already.
            defaults.BLOB_CACHE_BYTES if agent is not None else 0,
        )
        self._rotation = Rotation(self._spawner.log_path)
        self._looks_at_logs = False
        self._runtime, self._state_dir = runtime, state_dir
        self._config_path, self._insecure = loaded.path, loaded.insecure
        self._sampler = sight.Sampler()
        self._unsampled: set[str] = set()  # started a moment ago
        self._removals = itertools.count(time.time_ns())
        self._workers = ThreadPoolExecutor(WORKERS, "worker")
        all_there = Barrier(WORKERS + 1)  # now: a pool makes its threads when it first needs them, if it can
        for _ in range(WORKERS):
            self._workers.submit(all_there.wait)
        all_there.wait()
        self._stop_signals = 0
        self._status = 0
        secret = restored.meta.get("secret") or secrets.token_bytes(32)
        topology = read_topology(gpus=NvmlGpus())
        self._state = State(
            settings,
            Identity(
                version=__version__,
                pid=os.getpid(),
                epoch=time.time_ns() // 1_000_000,
                secret=secret,
                config=str(loaded.path) if loaded.path is not None else loaded.source,
                log_dir=str(log_dir),
                started=_now(),
                topology=topology,
                host=os.uname().nodename,
                suites_dir=str(state_dir / "suites"),
                workers=str(workers_socket),
                worker=str(PROCESS_WORKER),
                queue=queue_id,
                owner=agent_id,
                environ={name: value for name, value in self._environ.items() if not _is_private(name)},
                debug=log.isEnabledFor(logging.DEBUG),
            ),
            agents.facts_of(agent, agent_id, topology, policy) if agent is not None else None,
        )
        boot = boot_id()
        self._restored = ev.Restored(
            restored.units,
            restored.events,
            restored.meta.get("boot") == boot,
            workloads=restored.workloads,
            assignments=restored.assignments,
            nodes=restored.nodes,
            crew=restored.meta.get("crew"),
            outbox=restored.outbox,
            suites=suites,
            holders=holders,
            storage=storage,
            accounts=restored.accounts,
        )
        meta = {"secret": secret, "boot": boot, "agent": agent_id}
        self._store.commit(Batch(meta=meta), lambda failure: None)
        self._perform: dict[type[Any], Callable[[Any], None]] = {
            fx.Answer: self._answer,
            fx.Tell: self.native.tell,
            fx.Publish: self.native.publish,
            fx.SetTimer: lambda effect: self._timers.set(effect.key, effect.at_ns),
            fx.CancelTimer: lambda effect: self._timers.cancel(effect.key),
            fx.Spawn: self._units.spawn,
            fx.Adopt: self._units.adopt,
            fx.Forget: self._units.forget,
            fx.AskProbe: lambda effect: self._probes.ask(effect, self._environ, None),
            fx.ForgetProbes: lambda effect: self._probes.forget(effect.unit),
            fx.RunHook: self._run_hook,
            fx.CancelHook: self._cancel_hook,
            fx.ReadConfig: self._read_config,
            fx.SignalUnit: self._units.signal,
            fx.KillUnit: self._units.kill,
            fx.LeaseUnit: self._units.lease,
            fx.ProbeHandshake: lambda effect: self._prober.start(
                effect.unit, effect.incarnation, effect.endpoint
            ),
            fx.Inspect: self._inspect,
            fx.RemoveEndpoint: self._remove_endpoint,
            fx.RelayGroup: self._set_group,
            fx.RelayLease: self.relay.set_lease,
            fx.ReadLog: self._read_log,
            fx.Compute: lambda effect: compute(effect, self._workers, self._loop, self.emit),
            fx.StageTasks: self._executor.stage,
            fx.BindTask: self._executor.bind,
            fx.ReleaseTasks: self._executor.release,
            fx.DropTasks: self._executor.drop,
            fx.ReadTasks: lambda effect: self._executor.read(effect, self._submit),
            fx.Note: _note,
            fx.Quit: self._quit,
            fx.Beat: self._beat_node,
            fx.ToNode: lambda effect: self._below().tell(effect),
            fx.AdmitNode: lambda effect: self._nodes.admit(effect) if self._nodes is not None else None,
            fx.SayHello: lambda effect: self._up().say_hello(effect),
            fx.ToDaemon: lambda effect: self._up().tell(effect),
            fx.OpenRelay: lambda effect: self._up().open_relay(effect),
            fx.Queue: self._ask_queue,
            fx.MakeSuiteFolder: self._make_suite_folder,
            fx.RemoveTree: self._remove_tree,
            fx.MoveFolder: _move_folder,
            fx.File: lambda effect: self._content().do(effect),
            fx.FetchInputs: self._courier.fetch,
            fx.KeepOutputs: self._courier.keep,
            fx.DropJobs: self._courier.drop,
            fx.ToWorker: self._suite_workers.send,
            fx.CloseWorker: self._suite_workers.close_one,
            fx.FollowSchedule: lambda effect: self._post(ev.FollowSchedule()),
            fx.Relink: lambda effect: self._up().relink(effect),
        }

    # ---- the loop ----

    def run(self) -> int:
        """Serve until stopped; the exit status."""
        loop = self._loop
        self._running = True
        for number in (signals.SIGTERM, signals.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, number)
        loop.add_signal_handler(signals.SIGHUP, self._on_hangup)
        loop.add_signal_handler(signals.SIGUSR1, self.emit, ev.HandOver("SIGUSR1"))
        interval_s = watchdog_interval_s()
        if interval_s is not None:
            self._beat(interval_s)
        self._commands.await_former()
        for left in (self._state_dir / "suites").glob(f"*{GONE}"):
            self._submit(partial(remove_tree, str(left)))
        # First: a unit that is started may be given the folder of a start that nobody knows any more.
        restored = self._restored.units.items() if self._restored.same_boot else ()
        self._units.clean({(name, unit["incarnation"]) for name, unit in restored if unit["has_process"]})
        if not self._restored.same_boot:
            self._executor.clean()  # instants of another boot mean nothing
        try:
            # The one event whose fault ends the daemon: it would know its units in part only. They run on.
            self.emit(self._restored)
            self._sample()
            if self._door is not None:
                self._door.announce()
            endpoint = self._state.settings.endpoints.control
            log.info("ready: pid %d, control endpoint %s", os.getpid(), endpoint)
            self._notifier.ready(f"serving on {endpoint}")
            # What is there now stays; and a submission of thousands of tasks is no reason to look for cycles.
            gc.freeze()
            gc.set_threshold(GC_ALLOCATIONS, 20, 20)
            loop.run_forever()
        finally:
            self._close()
        return self._status

    def emit(self, event: ev.Event) -> None:
        """Feed an event to the core and carry out what it wants; nested events wait for their turn.

        To be called last: an exception, which only a bug can raise, goes through here to the loop, which logs it
        with its traceback and goes on. Who has more to do uses `_post`.
        """
        self._queue.append(event)
        if not self._stepping:
            self._work()

    def _post(self, event: ev.Event) -> None:
        """Feed an event in a turn of its own."""
        self._loop.call_soon(self.emit, event)

    def _work(self) -> None:
        self._stepping = True
        broken: ev.Event | None = None
        effects: list[fx.Effect] = []
        try:
            while self._queue:
                broken, effects = self._queue.popleft(), []
                step(self._state, _now(), broken, effects)
                broken = None
                self._commits.carry_out(effects)
        finally:
            self._stepping = False
            if broken is not None:
                self._on_fault(broken, effects)
            if self._queue:
                self._loop.call_soon(self._work)

    def _on_fault(self, event: ev.Event, effects: list[fx.Effect]) -> None:
        """A step raised: the core hears of it next, with what the step had come to, and answers who asked."""
        if isinstance(event, ev.Faulted):
            self._commits.carry_out(effects)  # the fault is in what every step does: go on as well as we can
            return
        route = getattr(event, "route", None)
        if any(isinstance(effect, fx.Answer) and effect.route is route for effect in effects):
            route = None
        what = event.verb if isinstance(event, ev.Asked) else type(event).__name__
        self._queue.appendleft(ev.Faulted(route, what, tuple(effects)))

    def _submit(self, work: Callable[[], None]) -> None:
        self._workers.submit(work).add_done_callback(self._on_worked)

    def _on_worked(self, work: Future[None]) -> None:
        # In the worker, which would keep the exception to itself.
        fault = work.exception()
        if fault is not None:
            context = {"message": "a worker failed", "exception": fault}
            self._loop.call_soon_threadsafe(self._loop.call_exception_handler, context)

    def _close(self) -> None:
        self._notifier.stopping()
        deadline = time.monotonic() + FLUSH_S
        routers = [self.native.router, self.legacy.handshake, self.legacy.commands]
        if self._nodes is not None:
            routers.append(self._nodes.router)
        while not all(router.flush() for router in routers) and time.monotonic() < deadline:
            self._loop.run_until_complete(asyncio.sleep(0.01))
        self._courier.close()
        if self._blobs is not None:
            self._blobs.close()
        if self._tasks is not None:
            self._tasks.close()
        self._suite_workers.close()
        self._timers.close()
        self._executor.close()
        if self._door is not None:
            self._door.close_monitors()
        self._prober.close()
        self.relay.close()
        if self._outpost is not None:
            self._outpost.close()
        if self._uplink is not None:
            self._uplink.close(linger_ms=int(FLUSH_S * 1000))
        for router in routers:
            router.close(linger_ms=int(FLUSH_S * 1000))
        if self._door is not None:
            self._door.close()
        self._probes.close()
        self._commands.close()
        self._units.close()
        self._cgroups.close()
        self._store.close()
        self._context.term()
        self._workers.shutdown()
        self._loop.close()
        self._notifier.close()
        self._lock.release()
        log.info("stopped")

    # ---- effects ----

    def _quit(self, effect: fx.Quit) -> None:
        self._status = effect.status
        # Not now: what follows the effect in its step is still to be carried out.
        self._loop.call_soon(self._loop.stop)

    def _answer(self, effect: fx.Answer) -> None:
        answer = self._answerer(effect.route.plane)
        told = False
        try:
            answer(effect)
            told = True
        finally:
            if not told:  # a bug: the answer cannot be encoded, but this one can
                error = MgmtError("internal", UNTELLABLE)
                answer(fx.Answer(effect.route, frames.Outcome.ERROR, error.as_body()))

    def _answerer(self, plane: str) -> Callable[[fx.Answer], None]:
        if plane == LEGACY_PLANE:
            return self.legacy.answer
        if plane == NODES_PLANE:
            return self._below().answer
        if plane == CREW_PLANE:
            return self._itself.answer
        return self._up().answer if plane == UPLINK_PLANE else self.native.answer

    def _content(self) -> blobs.Blobs:
        assert self._blobs is not None, "agents ask their daemon for files"
        return self._blobs

    def _below(self) -> NodesPlane:
        assert self._nodes is not None, "only who serves agents has any"
        return self._nodes

    def _up(self) -> Uplink:
        assert self._uplink is not None, "only an agent has a daemon above it"
        return self._uplink

    def _beat_node(self, effect: fx.Beat) -> None:
        (self._up() if effect.peer is None else self._below()).beat(effect)

    def _set_group(self, effect: fx.RelayGroup) -> None:
        self.relay.set_group(effect)
        if self._outpost is not None:
            self._outpost.set_group(effect)

    def _remove_endpoint(self, effect: fx.RemoveEndpoint) -> None:
        self._prober.stop(effect.endpoint)
        path = ipc_path(effect.endpoint)
        if path is not None:
            remove_socket(path)

    def _prepare(self, effect: fx.Spawn) -> None:
        self._probes.mark(effect.unit)
        self._units.prepare(effect)

    def _run_hook(self, effect: fx.RunHook) -> None:
        def done(ok: bool, detail: str) -> None:
            self._post(ev.HookEnded(effect.unit, effect.incarnation, effect.which, ok, detail))

        backend = effect.backend.model_copy(update={"command": effect.hook.command})
        try:
            script = self._spawner.find_script(
                backend
            )  # of a backend, not of its hook: hardly ever asked for
            filled = self._spawner.fill(backend, effect.model, effect.unit, effect.endpoint, None, script)
        except MgmtError as error:
            self._loop.call_soon(done, False, error.text)
            return
        env = {**self._environ, **filled.env, **effect.env}
        key = (effect.unit, effect.which, effect.incarnation)
        self._commands.run(key, filled.argv, env, filled.cwd, effect.hook.timeout_s, done)

    def _cancel_hook(self, effect: fx.CancelHook) -> None:
        self._commands.cancel((effect.unit, effect.which, effect.incarnation))

    def _deliver(self, call: Callable[[], None]) -> None:
        """Carry an answer of the queue's thread to whoever asked; before the loop runs that is waiting for it."""
        if self._running:
            self._loop.call_soon_threadsafe(call)
        else:
            call()

    def _ask_queue(self, effect: fx.Queue) -> None:
        def done(result: Any) -> None:
            # In a turn of its own: the answers of one commit come together, and none may cost the others.
            self._post(ev.Queued(effect.tag, result))

        assert self._tasks is not None, "agents have no queue"
        self._tasks.ask(effect.operation, done)

    def _remove_tree(self, effect: fx.RemoveTree) -> None:
        """Its name is free at once: the next of that name may be made before all of it is removed."""
        gone = f"{effect.path}.{next(self._removals)}{GONE}"
        try:
            os.rename(effect.path, gone)
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("%s cannot be removed: %s", effect.path, error.strerror)
            return
        self._submit(partial(remove_tree, gone))

    def _make_suite_folder(self, effect: fx.MakeSuiteFolder) -> None:
        def make() -> None:
            event = ev.SuiteFolderMade(effect.holder, make_folder(effect.path))
            self._loop.call_soon_threadsafe(self.emit, event)

        self._submit(make)

    def _read_config(self, effect: fx.ReadConfig) -> None:
        def read() -> None:
            result: Settings | MgmtError
            runtime, state, insecure = self._runtime, self._state_dir, self._insecure
            try:
                if effect.config is None:
                    result = config.load(
                        self._config_path, runtime=runtime, state=state, insecure=insecure
                    ).settings
                else:
                    path = Path(effect.path) if effect.path is not None else None
                    result = config.parse(
                        dict(effect.config), path, runtime=runtime, state=state, insecure=insecure
                    )
            except MgmtError as error:
                result = error
            self._loop.call_soon_threadsafe(
                self._on_config, ev.ConfigRead(effect.route, effect.apply, result)
            )

        self._submit(read)

    def _on_config(self, event: ev.ConfigRead) -> None:
        try:
            self.emit(event)
        finally:
            if event.route is None:
                self._notifier.ready("configuration applied")

    def _inspect(self, effect: fx.Inspect) -> None:
        path = ipc_path(effect.endpoint)
        if path is not None:
            try:
                os.chmod(path, 0o600)  # the backend made it, with whatever mask it has
            except FileNotFoundError:
                pass
            except OSError as error:
                log.warning("%s: its socket %s keeps its mode: %s", effect.unit, path, error.strerror)
        if not self._unsampled:
            self._loop.call_later(FIRST_SAMPLE_S, self._take_first_samples)
        self._unsampled.add(effect.unit)
        if not effect.cpus:
            return

        def look() -> None:
            wrong = sight.wrong_masks(effect.pid, effect.cpus)
            event = ev.MaskChecked(effect.unit, effect.incarnation, wrong)
            self._loop.call_soon_threadsafe(self.emit, event)

        self._submit(look)

    def _read_log(self, effect: fx.ReadLog) -> None:
        path = self._spawner.log_path(effect.unit)

        def read() -> None:
            result: dict[str, Any] | MgmtError
            try:
                result = read_log(
                    effect.unit,
                    path,
                    effect.lines,
                    effect.offset,
                    effect.inode,
                    effect.since,
                    self._rotation.marks(effect.unit),
                )
            except MgmtError as error:
                result = error
            self._loop.call_soon_threadsafe(self.emit, ev.LogRead(effect.route, result))

        self._submit(read)

    # ---- signals and periodic work ----

    def _on_stop_signal(self, number: signals.Signals) -> None:
        self._stop_signals += 1
        self.emit(ev.StopRequested(signals.Signals(number).name, fast=self._stop_signals > 1))

    def _on_hangup(self) -> None:
        log.info("SIGHUP: applying the configuration file")
        if self._door is not None:
            self._door.look()
        self._notifier.reloading()
        self._read_config(fx.ReadConfig(None, apply=True, config=None, path=None))

    def _on_revoked(self, gone: list[Grant]) -> None:
        nodes = frozenset(grant.node for grant in gone if grant.node)
        self.emit(ev.KeysRevoked({grant.key: grant.name for grant in gone}, nodes))

    def _beat(self, interval_s: float) -> None:
        # Runs in the loop, so a loop that is stuck stops beating: that is the point.
        self._notifier.watchdog()
        self._loop.call_later(interval_s, self._beat, interval_s)

    def _sample(self) -> None:
        self._loop.call_later(SAMPLE_S, self._sample)
        self._look_at_logs()
        self._take_sample()

    def _look_at_logs(self) -> None:
        if self._looks_at_logs:
            return  # compressing takes as long as it takes
        self._looks_at_logs = True
        watched = []
        for name, unit in self._state.supervisor.units.items():
            backend = unit.spec.backend
            watched.append(Watched(name, backend.log_max_age_s, backend.log_compress, backend.log_keep))

        def look() -> None:
            old: list[str] = []
            try:
                old = self._rotation.look(watched, time.time())
            finally:
                self._loop.call_soon_threadsafe(self._on_old_logs, old)

        self._submit(look)

    def _on_old_logs(self, names: list[str]) -> None:
        self._looks_at_logs = False
        for name in names:
            unit = self._state.supervisor.units.get(name)
            if unit is not None and unit.has_process:
                self._units.turn_over((name, unit.incarnation))

    def _take_first_samples(self) -> None:
        """Of all that were started together. The first sample has memory, a share of CPU needs two."""
        names, self._unsampled = self._unsampled, set()
        self._loop.call_later(1.0, self._take_sample, names)
        self._take_sample(names)

    def _take_sample(self, only: Collection[str] | None = None) -> None:
        units = self._state.supervisor.units
        chosen = units.items() if only is None else ((name, units[name]) for name in only if name in units)
        pids = {name: unit.pid for name, unit in chosen if unit.pid is not None and not unit.node}
        if pids:
            self.emit(ev.Sampled(self._sampler.sample(pids)))


def _is_private(name: str) -> bool:
    """Whether a variable of this daemon is nothing for tasks."""
    return name.startswith("MGMT_") or name in (
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_FDS",
    )


def queue_engine(settings: Settings, state_dir: Path) -> Engine:
    """Where the queue lies; MgmtError `bad-config` when the library that a database needs is not installed."""
    if settings.queue.database is None:
        return SqliteEngine(state_dir / QUEUE_NAME)
    try:
        from mgmt.store.queue.postgres import PostgresEngine
    except ImportError as error:
        text = (
            f"queue.database needs the library {error.name}: install the extra, `pip install mgmt[postgres]`"
        )
        raise MgmtError("bad-config", text) from None
    return PostgresEngine(settings.queue.database, settings.queue.database_schema)


def ask(tasks: Queue, query: Any) -> Any:
    """What the queue answers, before the loop runs; MgmtError when it cannot."""
    answered: SimpleQueue[Any] = SimpleQueue()
    tasks.ask(query, answered.put)
    return answered.get()


def _now() -> Now:
    return Now(time.monotonic_ns(), time.time())


def _move_folder(effect: fx.MoveFolder) -> None:
    """A rename: at once, as the worker is told of it next."""
    try:
        os.makedirs(os.path.dirname(effect.to), mode=0o700, exist_ok=True)
        os.rename(effect.path, effect.to)
    except OSError as error:  # the worker does not find it, and says so
        log.error("%s cannot become %s: %s", effect.path, effect.to, error.strerror)


def _note(effect: fx.Note) -> None:
    log.log(getattr(logging, effect.level), "%s", effect.text, extra={"fields": dict(effect.fields)})
