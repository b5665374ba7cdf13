"""One finding of `mgmt doctor`, and how it is made: by trying, and reporting what the system said."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Probe:
    """One finding: `status` is ok, refused (the system said no) or absent; `needed` decides the exit."""

    probe: str
    status: str
    needed: bool
    detail: str
    meaning: str


def said(error: OSError) -> str:
    """EPERM: Operation not permitted."""
    return f"{errno.errorcode.get(error.errno or 0, '?')}: {error.strerror}"


def tried(name: str, call: Callable[[], str], meaning: str, needed: bool = False) -> Probe:
    """Do it, and report what the system said."""
    try:
        return Probe(name, "ok", needed, call(), meaning)
    except (FileNotFoundError, NotADirectoryError) as error:
        return Probe(name, "absent", needed, said(error), meaning)
    except OSError as error:
        absent = error.errno == errno.ENOSYS
        return Probe(name, "absent" if absent else "refused", needed, said(error), meaning)
