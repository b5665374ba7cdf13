"""Whether Debian packages that a run lacked are available now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from debian.debian_support import NativeVersion

KEYS = frozenset(["name", "archqual", "arch", "distribution", "version", "restrictions"])
# The strict ones of Debian, which the ancestor cannot ask its database, and those that the database takes.
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<<": lambda a, b: bool(a < b),
    "<=": lambda a, b: bool(a <= b),
    "=": lambda a, b: bool(a == b),
    ">=": lambda a, b: bool(a >= b),
    ">>": lambda a, b: bool(a > b),
    "<": lambda a, b: bool(a < b),
    ">": lambda a, b: bool(a > b),
    "<>": lambda a, b: bool(a != b),
    "!=": lambda a, b: bool(a != b),
}


class RelationError(Exception):
    """A relation, or a version, that means nothing."""


@lru_cache(maxsize=65536)
def version(text: str) -> NativeVersion:
    """A version in Debian's order."""
    try:
        from debian.debian_support import NativeVersion
    except ImportError:
        raise RelationError(
            "Debian versions are compared by python-debian, which is not there: pip install 'mgmt[debian]'"
        ) from None
    try:
        return NativeVersion(text)
    except (ValueError, TypeError):
        raise RelationError(f"{text!r} is no Debian version") from None


def available(relation: Any, versions: Mapping[str, Sequence[str]]) -> bool:
    """Whether a version of the package is there that the relation allows; only name and version count."""
    if not isinstance(relation, Mapping):
        raise RelationError(f"the relation {relation!r} is no object")
    unknown = sorted(str(key) for key in relation if key not in KEYS)
    if unknown:
        raise RelationError(f"the relation has a key that is not known: {unknown[0]}")
    name, wanted = relation.get("name"), relation.get("version")
    if not isinstance(name, str):
        raise RelationError("the relation has no name")
    there = versions.get(name, ())
    if not wanted:
        return bool(there)
    if not isinstance(wanted, Sequence) or isinstance(wanted, str) or len(wanted) < 2:
        raise RelationError(f"the version {wanted!r} is no pair of an operator and a version")
    operator, bound = wanted[0], wanted[1]
    compare = OPERATORS.get(operator) if isinstance(operator, str) else None
    if compare is None:
        raise RelationError(f"the operator {operator!r} is not known; known are << <= = >= >>")
    limit = version(str(bound))
    return any(compare(version(one), limit) for one in there)


def satisfied(relations: Any, versions: Mapping[str, Sequence[str]]) -> bool:
    """All of the lists have one relation that is available: `[]` is true, `[[]]` is false."""
    if not isinstance(relations, Sequence) or isinstance(relations, str):
        raise RelationError("relations must be a list of lists")
    for alternatives in relations:
        if not isinstance(alternatives, Sequence) or isinstance(alternatives, str):
            raise RelationError("relations must be a list of lists")
        if not any(available(relation, versions) for relation in alternatives):
            return False
    return True
