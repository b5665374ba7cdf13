"""The table of an agent's `policy.json`: what the daemon may have it run. What is not allowed there is refused."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mgmt.settings.values import Count, Cpus, Table, Text

ANY = "*"
PYTHON = "{python}"


def _executables(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        parts = entry.removesuffix("/").split("/")[1:]
        plain = entry.startswith("/") and not {"", ".", ".."} & set(parts)
        if entry not in (ANY, PYTHON, "/") and not plain:
            raise ValueError(f"{entry!r} is neither an absolute path without `..` nor {PYTHON} nor {ANY}")
    return entries


class PolicySettings(Table):
    """Everything is refused that is not allowed here; the refusal names the key."""

    executables: Annotated[tuple[Text, ...], AfterValidator(_executables)] = Field(
        (),
        description="programs of commands, hooks and probes: absolute files, folders (with a `/` at the end), "
        "`{python}` for the agent's own interpreter, which can do anything its account can, or `*`",
    )
    own_account: Annotated[bool, Field(strict=True)] = Field(
        True, description="units without `user` may run, as the agent's own account"
    )
    users: tuple[Text, ...] = Field((), description="accounts that `user` may name, or `*`")
    groups: tuple[Text, ...] = Field((), description="groups that `group` may name, or `*`")
    env: tuple[Text, ...] = Field(
        (), description="variables that `env` may set; `*` and `?` as in file names. Some of them load code"
    )
    scheduling: tuple[Literal["other", "batch", "idle", "fifo", "rr", "deadline"], ...] = Field(
        ("other", "batch", "idle"), description="policies that `scheduling` may ask for"
    )
    max_priority: Annotated[int, Field(strict=True, ge=1, le=99)] = Field(
        99, description="highest priority of fifo and rr"
    )
    min_nice: Annotated[int, Field(strict=True, ge=-20, le=19)] = Field(0, description="lowest `nice`")
    max_units: Count | None = Field(None, description="units at one time; no limit when absent")
    max_memory_mb: Count | None = Field(
        None, description="sum of the units' `resources.memory_max_mb`, which each unit must have then"
    )
    cpus: Cpus | None = Field(
        None, description="CPUs that units may name; each unit must name its `cpus` then. All when absent"
    )

    suites: Annotated[bool, Field(strict=True)] = Field(
        False,
        description="task suites may be run: whatever their users submit, as the agent's own account. The other "
        "keys do not concern their tasks, hooks and workers",
    )

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if not self.own_account and not self.users:
            raise ValueError("own_account is false and users is empty: no unit could run as anybody")
        return self
