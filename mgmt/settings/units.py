"""How a supervised process is run: the tables shared by model backends and plain units."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mgmt import template
from mgmt.protocol import defaults
from mgmt.settings.values import (
    Command,
    Count,
    Cpus,
    Env,
    ExitCode,
    Name,
    Needs,
    Pattern,
    Rlimits,
    Seconds,
    Table,
    Text,
    Umask,
    in_folder,
    shared,
    signal_name,
)

LEGACY_COMMAND = ("{python}", "{script}", "--ipc-endpoint", "{endpoint}", "--model-name", "{fullname}")


class RestartSettings(Table):
    """When and how fast a backend that ended is started again."""

    policy: Literal["no", "on-failure", "always"] = Field(
        "on-failure", description="after which end the backend is started again"
    )
    delay_s: Seconds = Field(defaults.RESTART_DELAY_S, description="wait before the first restart")
    delay_max_s: Seconds = Field(defaults.MAX_RESTART_DELAY_S, description="the growing wait stops here")
    factor: Annotated[float, Field(strict=True, ge=1, le=100, allow_inf_nan=False)] = Field(
        defaults.RESTART_FACTOR, description="growth of the wait from one restart to the next"
    )
    jitter: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] = Field(
        defaults.RESTART_JITTER, description="share of the wait that is drawn at random"
    )
    limit: Annotated[int, Field(strict=True, ge=0, le=1 << 20)] = Field(
        defaults.RESTART_LIMIT, description="restarts within the window; one more end is FATAL"
    )
    window_s: Seconds = Field(defaults.RESTART_WINDOW_S, description="the window of `limit`")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.delay_max_s < self.delay_s:
            raise ValueError(f"delay_max_s ({self.delay_max_s:g}) is smaller than delay_s ({self.delay_s:g})")
        return self


class ProbeSettings(Table):
    """One question about a unit's health, asked again and again."""

    kind: Literal["told", "exec", "http", "tcp", "log"] = Field(
        description="how it is asked: told (the unit's own messages), exec (exit status 0), http (2xx or 3xx), "
        "tcp (a connection), log (a matching line)"
    )
    command: tuple[str, ...] = Field((), description="argument vector of an `exec` probe")
    url: Text | None = Field(
        None, description="address of an `http` probe, such as `http://127.0.0.1:80/health`"
    )
    address: Text | None = Field(None, description="`HOST:PORT` of a `tcp` probe, or an absolute socket path")
    pattern: Pattern | None = Field(
        None, description="regular expression of a `log` probe, searched in a line"
    )
    period_s: Seconds = Field(defaults.PROBE_PERIOD_S, description="from one question to the next")
    timeout_s: Seconds = Field(defaults.PROBE_TIMEOUT_S, description="an answer later than this is a bad one")
    success_threshold: Count = Field(1, description="good answers in a row that count as good")
    failure_threshold: Count = Field(
        defaults.PROBE_FAILURES, description="bad answers in a row that count as bad"
    )

    _needed: ClassVar = {"exec": "command", "http": "url", "tcp": "address", "log": "pattern"}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = self._needed.get(self.kind)
        for key in self._needed.values():
            if (key == needed) != bool(getattr(self, key)):
                raise ValueError(
                    f"a probe of kind {self.kind} {'needs' if key == needed else 'has no'} `{key}`"
                )
        if self.url is not None and (urlsplit(self.url).scheme != "http" or not urlsplit(self.url).hostname):
            raise ValueError(f"`url` {self.url!r} is no http:// address")
        if self.address is not None and not self.address.startswith("/"):
            host, _, port = self.address.rpartition(":")
            if not host or not port.isdigit() or not 1 <= int(port) <= 65535:
                raise ValueError(
                    f"`address` {self.address!r} is neither HOST:PORT nor an absolute socket path"
                )
        return self


class ProbesSettings(Table):
    """A unit's probes; each may be left out."""

    startup: ProbeSettings | None = Field(
        None,
        description="whether it is up at all; by default what its kind tells, or the start itself",
    )
    ready: ProbeSettings | None = Field(
        None, description="whether it may get requests; bad takes it out of routing"
    )
    live: ProbeSettings | None = Field(None, description="whether it is worth keeping; bad restarts it")


class HookSettings(Table):
    """A command run at a point of a unit's life. Whatever it started ends with it."""

    command: Command = Field(description="argument vector; placeholders as in the unit's command")
    timeout_s: Seconds = Field(defaults.HOOK_TIMEOUT_S, description="after this it is killed and has failed")


class HooksSettings(Table):
    """Commands at points of a unit's life. A failed `pre_start` is a failed start; others are only reported."""

    pre_start: HookSettings | None = Field(None, description="before the program is started")
    post_start: HookSettings | None = Field(None, description="when the unit became ready")
    pre_stop: HookSettings | None = Field(None, description="before the stop signal is sent")
    post_stop: HookSettings | None = Field(None, description="when no process of the unit is left")


class PlacementSettings(Table):
    """Which part of the machine a unit gets; see docs/operations.md for how places are chosen."""

    cpus: Count | None = Field(
        None, description="number of CPUs to choose; use `cpus` beside it to name them"
    )
    exclusive: bool = Field(False, description="nobody else gets these CPUs while the unit runs")
    layout: Literal["compact", "spread"] = Field(
        "compact", description="close together (one NUMA node, whole cores), or as far apart as possible"
    )
    numa_node: Annotated[int, Field(strict=True, ge=0, le=1023)] | None = Field(
        None,
        description="only CPUs and memory of this NUMA node; all its CPUs when none are counted or named",
    )
    gpus: Annotated[int, Field(strict=True, ge=0, le=64)] | tuple[Text, ...] = Field(
        0, description="number of GPUs, or their UUIDs; a GPU belongs to one unit"
    )
    memory_mb: Annotated[int, Field(strict=True, ge=1, le=1 << 30)] | None = Field(
        None, description="memory set aside in the ledger, MiB"
    )


class SchedulingSettings(Table):
    """Scheduling policy of the process, set before it is executed; real-time ones need privileges."""

    policy: Literal["other", "batch", "idle", "fifo", "rr", "deadline"] = Field(
        "other", description="as in sched(7)"
    )
    priority: Annotated[int, Field(strict=True, ge=1, le=99)] | None = Field(
        None, description="1 to 99, higher is more urgent; required for fifo and rr"
    )
    runtime_us: Count | None = Field(None, description="deadline: CPU time per period")
    deadline_us: Count | None = Field(None, description="deadline: from release; default the period")
    period_us: Count | None = Field(None, description="deadline: from release to release")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.policy in ("fifo", "rr")) != (self.priority is not None):
            raise ValueError("`priority` belongs to policy fifo or rr, and these need one")
        given = [self.runtime_us, self.period_us]
        if (self.policy == "deadline") != all(given) or (self.policy != "deadline" and self.deadline_us):
            raise ValueError("`runtime_us` and `period_us` belong to policy deadline, which needs both")
        if self.policy == "deadline":
            deadline_us = self.deadline_us or self.period_us
            if not (self.runtime_us or 0) <= (deadline_us or 0) <= (self.period_us or 0):
                raise ValueError("runtime_us <= deadline_us <= period_us must hold")
        return self


class ResourceSettings(Table):
    """Limits of the whole tree, enforced by its control group where the system has the controllers."""

    memory_max_mb: Count | None = Field(
        None, description="memory of the tree, MiB; beyond it the kernel kills"
    )
    cpu_max_percent: Annotated[float, Field(strict=True, gt=0, le=1_000_000)] | None = Field(
        None, description="CPU time; 100 is one CPU"
    )
    pids_max: Count | None = Field(None, description="processes and threads of the tree")


class NodeTagSettings(Table):
    """Nodes chosen by what they are."""

    tags: Annotated[tuple[Name, ...], Field(min_length=1)] = Field(
        description="tags that a node must have, all of them"
    )


class RunSettings(Table):
    """What every supervised process has."""

    kind: str = "plain"
    command: Command = Field(
        description="argument vector; placeholders: "
        + ", ".join(f"`{{{name}}}`" for name in (*template.NAMES, "option.NAME"))
        + ". An element with `{config_path}` and a `--flag` before it vanish when there is none"
    )
    env: Env = Field(
        default_factory=dict, description="variables added to the environment; placeholders as in `command`"
    )
    cwd: Annotated[Text, AfterValidator(in_folder)] | None = Field(
        None, description="working folder; a relative one is meant from the file's folder"
    )
    cpus: Cpus | None = Field(None, description="CPUs it may run on, such as `0-3,6`; all when absent")
    nice: Annotated[int, Field(strict=True, ge=-20, le=19)] = Field(
        0, description="scheduling niceness; below 0 needs privileges"
    )
    restart: RestartSettings = Field(default_factory=shared(RestartSettings), description="restart policy")
    success_exit_codes: tuple[ExitCode, ...] = Field(
        (0,), description="exit codes that are no failure for `on-failure`"
    )
    ready_timeout_s: Seconds = Field(
        defaults.READY_TIMEOUT_S, description="from start to ready; else the start failed"
    )
    stop_signal: Annotated[
        Literal["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "KILL"], BeforeValidator(signal_name)
    ] = Field("TERM", description="first signal of a stop, with or without `SIG`")
    grace_s: Seconds = Field(defaults.GRACE_S, description="from the stop signal to SIGKILL of the tree")
    log_max_bytes: Annotated[int, Field(strict=True, ge=4096, le=1 << 40)] = Field(
        defaults.MAX_LOG_BYTES, description="size at which a captured output file is rotated"
    )
    log_keep: Annotated[int, Field(strict=True, ge=0, le=1000)] = Field(
        defaults.MAX_OLD_LOGS, description="rotated output files that are kept"
    )
    log_max_age_s: Annotated[float, Field(strict=True, gt=0, le=1e9)] | None = Field(
        None, description="age at which the captured output file is rotated"
    )
    log_compress: bool = Field(False, description="compress rotated output files")
    scheduling: SchedulingSettings = Field(default_factory=shared(SchedulingSettings), description="policy")
    placement: PlacementSettings = Field(
        default_factory=shared(PlacementSettings), description="CPUs, GPUs, memory"
    )
    resources: ResourceSettings = Field(
        default_factory=shared(ResourceSettings), description="limits of the tree"
    )
    rlimits: Rlimits = Field(
        default_factory=dict, description="resource limits by lower-case name: a number, or `soft:hard`"
    )
    oom_score_adj: Annotated[int, Field(strict=True, ge=-1000, le=1000)] | None = Field(
        None, description="how readily the kernel kills it when memory is short"
    )
    umask: Umask | None = Field(None, description="mode bits taken from new files, octal such as `027`")
    user: Text | None = Field(None, description="account it runs as; needs privileges")
    group: Text | None = Field(None, description="group it runs as; the account's own when absent")
    timer_slack_us: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] | None = Field(
        None, description="how late the kernel may fire its timers"
    )
    probes: ProbesSettings = Field(default_factory=shared(ProbesSettings), description="health")
    hooks: HooksSettings = Field(
        default_factory=shared(HooksSettings), description="commands at points of its life"
    )
    requires: Needs = Field(
        default_factory=dict,
        description="units started with it and stopped after it; by name the condition to wait for (started, "
        "ready, completed); a list means ready",
    )
    wants: Needs = Field(
        default_factory=dict, description="like `requires`, but their failure is no obstacle"
    )
    after: Needs = Field(default_factory=dict, description="only the order, when the other is started anyway")
    autostart: bool = Field(False, description="started with the daemon")
    node: Name | NodeTagSettings | None = Field(
        None,
        description="the node that runs it, by name or by tags; this machine (`local`) when absent",
    )
    on_node_lost: Literal["keep", "stop", "replace"] = Field(
        "keep",
        description="when its node is lost: leave it as it is, stop it there and here, or run it on another node",
    )

    @model_validator(mode="after")
    def _one_way_to_name_cpus(self) -> Self:
        if self.cpus is not None and self.placement.cpus is not None:
            raise ValueError("`cpus` names them and `placement.cpus` counts them; give one of the two")
        return self

    def holes(self) -> set[str]:
        """The placeholders that its command and environment use."""
        return template.holes((*self.command, *self.env.values()))

    @property
    def takes_config_path(self) -> bool:
        """Whether a `config_path` given with a load reaches the process at all."""
        return "config_path" in self.holes()


class BackendSettings(RunSettings):
    """How the processes of one model type are run. A plain string is the script of a `symphony` backend."""

    kind: Literal["native", "symphony"] = Field(
        "native", description="what it speaks: the native protocol, or the ancestor's data plane"
    )
    command: Command = Field(
        LEGACY_COMMAND,
        description="argument vector; placeholders: "
        + ", ".join(f"`{{{name}}}`" for name in (*template.NAMES, "option.NAME"))
        + ". An element with `{config_path}` and a `--flag` before it vanish when there is none. "
        "Required for `native`; this default is for `symphony`",
    )
    script: Text | None = Field(
        None, description="file that `{script}` stands for; searched as described above"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "native" and "command" not in self.model_fields_set:
            raise ValueError('needs a command (or kind "symphony", which has one)')
        if "script" in self.holes() and self.script is None:
            raise ValueError("needs a script: its command or environment uses {script}")
        return self


class UnitSettings(RunSettings):
    """A supervised process that is no model: anything with a command."""

    kind: Literal["plain"] = Field(
        "plain", description="always plain; readiness comes from its startup probe"
    )
    oneshot: bool = Field(
        False, description="it is meant to end: exit status 0 is `completed`, not a failure"
    )
