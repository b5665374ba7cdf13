"""What a backend process is started with: its script, found, and its command, filled in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mgmt import template
from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError
from mgmt.settings import ModelSettings, RunSettings, Settings, parse_cpus

SUBFOLDERS = ("", "backend", "backends")


@dataclass(frozen=True, slots=True)
class Found:
    """The result of one search: `path` is absolute, or None when no place of `tried` has the script."""

    script: str
    path: Path | None
    tried: list[Path]

    def require(self) -> Path:
        """The path, or a `start-failed` error that names the places."""
        if self.path is None:
            places = "".join(f"\n  {path}" for path in self.tried)
            raise MgmtError(
                "start-failed",
                f"backend script {self.script!r} is in none of these places:{places}\n"
                "Name its folder with --backend-path DIR or with backend_path in the configuration.",
                script=self.script,
            )
        return self.path


def find_backend_script(
    settings: Settings, script: str, command_line_path: Path | None = None, *, cwd: Path | None = None
) -> Found:
    """The first place that has `script`; an absolute one is its own only place.

    In this order: the folder of the command line, `backend_path` of the configuration, the folder that the
    `mgmt` package is in, the working directory, its parents up to five levels. In each of them the folder
    itself comes first, then its `backend/`, then its `backends/`.
    """
    if Path(script).is_absolute():
        candidates = iter([Path(script)])
    else:
        folders = _folders(settings, command_line_path, cwd or Path.cwd())
        candidates = (folder / sub / script for folder in folders for sub in SUBFOLDERS)
    tried: list[Path] = []
    for candidate in dict.fromkeys(candidates):
        tried.append(candidate)
        if _is_file(candidate):
            return Found(script, candidate, tried)
    return Found(script, None, tried)


def _folders(settings: Settings, command_line_path: Path | None, cwd: Path) -> Iterator[Path]:
    if command_line_path is not None:
        yield cwd / command_line_path
    if settings.backend_path is not None:
        yield cwd / settings.backend_path
    package = Path(__file__).resolve().parent
    yield package.parent
    yield package.parent / "mgmt_backends"  # where the shipped backends are once installed
    yield cwd
    yield from list(cwd.parents)[: defaults.BACKEND_SEARCH_PARENTS]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder that may not be entered has nothing for us
        return False


@dataclass(frozen=True, slots=True)
class Launch:
    """One filled-in start of a backend. `env` holds the additions only; `cpus` is None for all of them."""

    argv: list[str]
    env: dict[str, str]
    cwd: str | None
    cpus: tuple[int, ...] | None


def launch(
    backend: RunSettings,
    model: ModelSettings,
    *,
    unit: str,
    endpoint: str,
    script: Path | None = None,
    config_path: str | None = None,
    backend_path: str | None = None,
    python: str = sys.executable,
) -> Launch:
    """Fill the templates of `backend` for one process of `model`; `script` is the found file."""
    values: dict[str, str | None] = {
        "python": python,
        "script": None if script is None else str(script),
        "endpoint": endpoint,
        "model": model.name,
        "fullname": model.fullname,
        "unit": unit,
        "config_path": config_path,
        "backend_path": backend_path,
        **{template.OPTION + name: value for name, value in model.options.items()},
    }
    cpus = model.cpus or backend.cpus
    env = {name: template.fill(text, values) for name, text in (backend.env | model.env).items()}
    argv = template.fill_command(backend.command, values)
    return Launch(argv, env, backend.cwd, None if cpus is None else parse_cpus(cpus))
