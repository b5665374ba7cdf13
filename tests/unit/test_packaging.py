"""What an installation promises: one version, the shim as a program, every subpackage in the wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools.errors import CompileError

import mgmt
from mgmt.shell.build import link_observer, link_program

ROOT = Path(__file__).parents[2]


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert mgmt.__version__ == project["version"]


def test_the_shim_is_a_program_beside_its_caller() -> None:
    shim = Path(mgmt.__file__).parent / "shell" / "mgmt-shim"
    assert os.access(shim, os.X_OK), f"{shim} is missing: make venv"


def test_every_subpackage_is_built() -> None:
    """The roots are declared; what lies below them is found, under the installed names."""
    code = (
        "import setuptools, json\n"
        "dist = setuptools.dist.Distribution(); dist.parse_config_files()\n"
        "build = dist.get_command_obj('build_py'); build.ensure_finalized()\n"
        "print(json.dumps(sorted(build.packages)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=50,
    )  # fmt: skip
    installed = {"mgmt": "mgmt", "cli": "mgmt_cli", "backends": "mgmt_backends"}
    expected = set()
    for folder, name in installed.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            expected.add(".".join([name, *init.parent.relative_to(ROOT / folder).parts]))
    assert done.stdout.strip() == str(sorted(expected)).replace("'", '"')


@pytest.mark.parametrize(
    ("clang", "said"), [("/nonexistent/clang", "install clang"), ("false", "libbpf-dev")]
)
def test_without_clang_or_libbpf_the_observer_says_what_is_missing(
    clang: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLANG", clang)
    with pytest.raises(CompileError, match=said):
        link_observer(ROOT / "mgmt" / "rt" / "observer.c", tmp_path / "mgmt-observer")
    extensions = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    optional = [one["name"] for one in extensions if one.get("optional")]
    assert "mgmt.rt.mgmt-observer" in optional, "an installation goes on without it"


@pytest.mark.parametrize("flags", ["", "-DGREETING=3"])
def test_a_program_is_linked(flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "p.c"
    source.write_text("#ifndef GREETING\n#define GREETING 0\n#endif\nint main(void) { return GREETING; }\n")
    monkeypatch.setenv("CFLAGS", flags)
    link_program([str(source)], tmp_path / "bin" / "p")
    assert subprocess.run([tmp_path / "bin" / "p"], check=False).returncode == (3 if flags else 0)


def test_without_static_libraries_it_is_linked_dynamically(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "cc-without-static"
    compiler.write_text('#!/bin/sh\ncase " $* " in *" -static "*) exit 1;; esac\nexec cc "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    (tmp_path / "p.c").write_text("int main(void) { return 0; }\n")
    link_program([str(tmp_path / "p.c")], tmp_path / "p")
    assert subprocess.run([tmp_path / "p"], check=False).returncode == 0


def test_a_build_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.c").write_text("int main(void) { return missing; }\n")
    with pytest.raises(CompileError, match="missing"):
        link_program([str(tmp_path / "p.c")], tmp_path / "p")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CompileError, match=r"no-such-compiler.*\$CC"):
        link_program([str(tmp_path / "p.c")], tmp_path / "p")
