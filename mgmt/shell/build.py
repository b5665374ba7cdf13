"""How an installation is built: every subpackage, and the C programs beside the modules that start them.

Named in `[tool.setuptools.cmdclass]` of pyproject.toml and loaded by setuptools before any dependency of
the project is there: this file may import setuptools and the standard library only. `$CC`, `$CFLAGS` and
`$CLANG` are honoured. mgmt-observer is left out where clang or libbpf is missing; `python -m mgmt.shell.build`
builds it alone, in the source tree, and says what is missing.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from setuptools import Extension, find_packages
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

OBSERVER = "mgmt.rt.mgmt-observer"
PROGRAMS = ("mgmt.shell.mgmt-shim", "mgmt.rt.mgmt-executive", "mgmt.worker.mgmt-worker", OBSERVER)
PROGRAM_FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wconversion")
# -g: the types by which the kernel finds fields. v3: atomic instructions with a result, Linux 5.12.
BPF_FLAGS = ("-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra")


class BuildPackages(build_py):
    """Adds the subpackages of the roots listed in pyproject.toml, under their installed names."""

    def finalize_options(self) -> None:
        super().finalize_options()
        roots = list(self.packages or ())
        for root in roots:
            folder = self.get_package_dir(root)
            self.packages += [f"{root}.{name}" for name in find_packages(folder)]


class BuildNative(build_ext):
    """Builds the extensions of pyproject.toml: PROGRAMS as executables, any other as a C module."""

    def get_ext_filename(self, fullname: str) -> str:
        # Called with the full name for the build folder and with the last part for the source tree.
        if any(program.endswith(fullname) for program in PROGRAMS):
            return os.path.join(*fullname.split("."))
        return str(super().get_ext_filename(fullname))  # type: ignore[no-untyped-call]  # so in its stubs

    def build_extension(self, ext: Extension) -> None:
        if ext.name == OBSERVER:
            link_observer(Path(str(next(iter(ext.sources)))), Path(self.get_ext_fullpath(ext.name)))
        elif ext.name in PROGRAMS:
            link_program([str(s) for s in ext.sources], Path(self.get_ext_fullpath(ext.name)))
        else:
            super().build_extension(ext)


def link_program(sources: Sequence[str], target: Path, libraries: Sequence[str] = ()) -> None:
    """Compiles `sources` into the executable `target`.

    Static where the C library allows it: no dynamic linker at start, and no library needed inside a
    unit's own root. With `libraries` (flags) dynamic: those are the system's. Raises CompileError with
    the compiler's own words.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    command = [*compiler, *PROGRAM_FLAGS, *shlex.split(os.environ.get("CFLAGS", "")), "-o", str(target)]
    said = ""
    for link in [[]] if libraries else [["-static"], []]:
        done = _run([*command, *sources, *link, *libraries], "install gcc or clang, or name one in $CC")
        said = done.stderr
        if done.returncode == 0:
            sys.stderr.write(said)  # warnings
            return
    raise CompileError(f"cannot build {target.name} from {', '.join(sources)}:\n{said}")


def link_observer(source: Path, target: Path) -> None:
    """mgmt-observer, with what the kernel runs of it inside. CompileError where clang or libbpf is missing."""
    clang = shlex.split(os.environ.get("CLANG", "")) or ["clang"]
    program = source.with_name("observer.bpf.c")
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "observer.bpf.o"
        command = [*clang, *BPF_FLAGS, "-c", str(program), "-o", str(code)]
        done = _run(command, "install clang, or name it in $CLANG")
        if done.returncode != 0:
            raise CompileError(
                f"cannot compile {program} for the kernel; Debian, Ubuntu: apt-get install clang libbpf-dev\n"
                + done.stderr
            )
        libraries = (f'-DOBSERVER_OBJECT="{code}"', "-lbpf", "-lelf", "-lz")
        link_program([str(source)], target, libraries)


def _run(command: list[str], remedy: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CompileError(
            f"no C compiler: {command[0]!r} cannot be run ({error.strerror}); {remedy}"
        ) from error


if __name__ == "__main__":
    folder = Path(__file__).parents[1] / "rt"
    try:
        link_observer(folder / "observer.c", folder / "mgmt-observer")
    except CompileError as error:
        sys.exit(str(error))
