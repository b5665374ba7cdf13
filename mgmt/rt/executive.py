"""The agent's end of mgmt-executive: start it, hand it segments, hear what it reports.

What goes over the socket is described at the top of executive.c. When the executive ends, the tasks go on;
a new one that is given the same segments reads on where the former stopped.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

PROGRAM = Path(__file__).with_name("mgmt-executive")
PROTOCOL_VERSION = 1
HIGHEST_PRIORITY = 99
_PACKET_BYTES = 65536


class ExecutiveError(Exception):
    """A request that was refused, or an executive that has ended; the text says what and what to do."""

    def __init__(self, text: str, error: int = 0) -> None:
        super().__init__(text)
        self.errno = error


@dataclass(frozen=True, slots=True)
class Hello:
    """What the executive was granted: policy `fifo` with its priority, or `other` and the errno that says why."""

    policy: str
    priority: int
    errno: int

    @property
    def text(self) -> str:
        if self.policy == "fifo":
            return f"the executive runs with FIFO priority {self.priority}"
        return (
            f"the executive runs without real-time priority ({os.strerror(self.errno)}), so misses may be seen "
            "late; grant CAP_SYS_NICE or LimitRTPRIO=, and cpu.rt_runtime_us in a control group of version 1"
        )


@dataclass(frozen=True, slots=True)
class Miss:
    """A job not complete at its deadline, told once. `running`: it had been released. Instants in monotonic ns."""

    task: int
    job: int
    deadline_ns: int
    seen_ns: int
    running: bool
    misses: int  # in the window, or in a row


@dataclass(frozen=True, slots=True)
class Fault:
    """Misses reached max_dmiss. `action`: kill has been done (errno 0) or not, restart is the supervisor's."""

    task: int
    job: int
    deadline_ns: int
    seen_ns: int
    misses: int
    action: str
    errno: int


@dataclass(frozen=True, slots=True)
class Gone:
    """The process of a task has ended; `job` is the first that is not due from it."""

    task: int
    job: int
    seen_ns: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The segment of a task was cut; it is no longer watched."""

    task: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """So many Miss reports found no room because nobody read them. The segments have counted them."""

    count: int


Report = Miss | Fault | Gone | Lost | Dropped


class Executive:
    """A running executive, one a node. Use `await Executive.start(...)`, and `await close()` at the end."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        control: socket.socket,
        report: Callable[[Report], None],
        ended: Callable[[str], None],
    ) -> None:
        self.hello = Hello("", 0, 0)
        self.process = process
        self._control = control
        self._report = report
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._answers: dict[int, tuple[str, asyncio.Future[None]]] = {}  # what was asked, by number
        self._unsent: deque[bytes] = deque()
        self._serial = 0
        self._over = False
        self._loop.add_reader(control.fileno(), self._on_readable)

    @classmethod
    async def start(
        cls,
        report: Callable[[Report], None],
        ended: Callable[[str], None] = lambda text: None,
        *,
        priority: int = HIGHEST_PRIORITY,
        program: Path = PROGRAM,
    ) -> Executive:
        """Start one. `report` takes what it tells; `ended` is called once, with a text, if it ends by itself.

        ExecutiveError when it cannot be started. Without the right to FIFO it runs all the same; see `hello`.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    program,
                    "--fd",
                    str(theirs.fileno()),
                    "--priority",
                    str(priority),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise ExecutiveError(
                    f"cannot start {program}: {error.strerror}; build it: make venv"
                ) from error
        self = cls(process, ours, report, ended)
        try:
            await self._greeted
        except BaseException:
            await self.close()
            raise
        return self

    def add(self, segment: Path) -> Awaitable[None]:
        """Watch a segment: a new one from its start on, a started one from where the last executive stopped."""
        return self._ask("add", f"segment {segment}", path=quote(os.fsencode(os.path.abspath(segment))))

    async def stage(self, segments: Mapping[int, Path]) -> None:
        """Watch all of these, by task number, or none: what was added is removed again on a refusal."""
        results = await asyncio.gather(*map(self.add, segments.values()), return_exceptions=True)
        refused = [result for result in results if result is not None]
        if refused:
            added = [task for task, result in zip(segments, results, strict=True) if result is None]
            await asyncio.gather(*map(self.remove, added), return_exceptions=True)
            raise refused[0]

    def bind(self, task: int, pid: int, start_ticks: int | None = None) -> Awaitable[None]:
        """Name the process of a task, for its end, for `kill` and for releases by signal.

        `start_ticks` is field 22 of its /proc/PID/stat (None: read now), so that a later process of the
        same number is never meant.
        """
        if start_ticks is None:
            start_ticks = start_ticks_of(pid)
        return self._ask("bind", f"process {pid} of task {task}", task=task, pid=pid, start=start_ticks)

    async def release(self, tasks: Iterable[int], t0_ns: int) -> None:
        """Release these from the common instant T0 on, in CLOCK_MONOTONIC ns.

        The instant is common because each sleeps to it: give it far enough ahead for all to be told. Whoever
        is told after T0, or joins after it, enters at T0 + k * hyperperiod.
        """
        answers = [self._ask("start", f"start of task {task}", task=task, t0=t0_ns) for task in tasks]
        await asyncio.gather(*answers)

    def remove(self, task: int) -> Awaitable[None]:
        """Watch it no longer; its releases go on until its process ends, except those by signal."""
        return self._ask("remove", f"task {task}", task=task)

    async def close(self) -> None:
        """End it; the tasks go on."""
        self._finish("the executive was closed before it answered")
        await self.process.wait()

    # ---- the socket ----

    def _ask(self, verb: str, what: str, **fields: int | str) -> asyncio.Future[None]:
        """Sends at once, in the order of the calls; the answer is awaited."""
        self._serial += 1
        answer: asyncio.Future[None] = self._loop.create_future()
        if self._over:
            answer.set_exception(ExecutiveError(f"{what}: {_ENDED}"))
            return answer
        self._answers[self._serial] = what, answer
        words = "".join(f" {key}={value}" for key, value in fields.items())
        self._unsent.append(f"{verb} n={self._serial}{words}".encode("ascii"))
        self._send()
        return answer

    def _send(self) -> None:
        try:
            while self._unsent:
                self._control.send(self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            self._loop.add_writer(self._control.fileno(), self._send)
            return
        except OSError:
            pass  # its end is seen by reading
        self._loop.remove_writer(self._control.fileno())

    def _on_readable(self) -> None:
        try:
            packet = self._control.recv(_PACKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._finish(_ENDED)
            self._ended(_ENDED)
            return
        for line in packet.decode("ascii").splitlines():
            word, *rest = line.split(" ")
            self._take(word, dict(pair.split("=", 1) for pair in rest))

    def _take(self, word: str, fields: dict[str, str]) -> None:
        def number(key: str) -> int:
            return int(fields[key])

        match word:
            case "ok":
                self._answer(number("n"), None)
            case "refused":
                self._answer(number("n"), (number("errno"), fields.get("at", "")))
            case "miss":
                self._report(
                    Miss(number("task"), number("job"), number("deadline"), number("seen"),
                         bool(number("running")), number("misses"))
                )  # fmt: skip
            case "fault":
                self._report(
                    Fault(number("task"), number("job"), number("deadline"), number("seen"),
                          number("misses"), fields["action"], number("errno"))
                )  # fmt: skip
            case "gone":
                self._report(Gone(number("task"), number("job"), number("seen")))
            case "lost":
                self._report(Lost(number("task")))
            case "dropped":
                self._report(Dropped(number("count")))
            case "hello":
                self.hello = Hello(fields["policy"], number("priority"), number("errno"))
                if not self._greeted.done():
                    self._greeted.set_result(None)

    def _answer(self, serial: int, refusal: tuple[int, str] | None) -> None:
        what, answer = self._answers.pop(serial)
        if answer.done():  # who asked waits no longer
            return
        if refusal is None:
            answer.set_result(None)
        else:
            error, at = refusal
            answer.set_exception(ExecutiveError(f"{what}: {_explain(error, at)}", error))

    def _finish(self, why: str) -> None:
        if self._over:
            return
        self._over = True
        self._loop.remove_reader(self._control.fileno())
        self._loop.remove_writer(self._control.fileno())
        self._control.close()
        for what, waiting in (("start of the executive", self._greeted), *self._answers.values()):
            if not waiting.done():
                waiting.set_exception(ExecutiveError(f"{what}: {why}"))
        self._answers.clear()


def start_ticks_of(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0  # the executive finds no such process, and says so
    return int(text.rpartition(")")[2].split()[19])


def _explain(error: int, at: str) -> str:
    """An errno and the field it is about, for who asked."""
    match error, at:
        case errno.EPROTO, _:
            where = f" ({at} is wrong)" if at else " (its size is wrong)"
            return f"not a real-time segment of this version{where}; remove the file and lay it down anew"
        case errno.EBUSY, _:
            return "another executive has it; one a node: end the other, or give this one its own segments"
        case errno.EEXIST, _:
            return "another segment with this task number is watched; remove that first, or number them apart"
        case errno.ENOENT, "task":
            return "no such task is watched; add its segment first"
        case errno.EALREADY, _:
            return "it has started with another T0, which it keeps; for a new one lay down a new segment"
        case errno.ESRCH, _:
            return "this process has ended; start it again and bind the new one"
        case errno.ENOSPC, "tasks":
            return "the executive watches as many as it can (1024); remove some"
    return os.strerror(error) + (f" ({at})" if at else "")


_ENDED = "mgmt-executive has ended; the tasks go on unwatched: start it again and add their segments"
