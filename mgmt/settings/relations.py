"""Units across tables: each name means one thing, each relation names a unit, and nobody waits for himself.

Works on the raw value of the file, so that these faults are found beside faults within tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from mgmt.protocol import defaults
from mgmt.settings.values import did_you_mean, shown
from mgmt.strictjson import Location, Problem

# In the words of a sentence: `a requires b`.
RELATIONS = {"requires": "requires", "wants": "wants", "after": "comes after"}


def faults(raw: Mapping[str, Any], taken: Mapping[str, str]) -> Iterator[Problem]:
    """`taken` has the names and aliases of models, with the place in the file that took each."""
    units = _table(raw, "units")
    owners = _owners(raw)
    for name in units:
        if name in taken:
            yield ("units", name), f"{shown(name)} is taken by {taken[name]}; a name means one unit or model"
        elif name in owners:
            owner = f"a replica of the model {shown(owners[name])}"
            yield ("units", name), f"{shown(name)} is taken by {owner}; rename one of the two"
    tables: dict[Location, Any] = {("units", name): table for name, table in units.items()}
    tables |= {("model_backends", kind): table for kind, table in _table(raw, "model_backends").items()}
    known = {**dict.fromkeys(owners), **dict.fromkeys(units)}
    for location, table in tables.items():
        for relation in RELATIONS:
            for key, other in _named(table, relation):
                if other not in known:
                    problem = f"there is no unit {shown(other)}{_hint(raw, other, owners, known)}"
                    yield (*location, relation, key), problem
    yield from _cycle(raw, owners)


def find_cycle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """The names along one cycle, first repeated last; empty when there is none.

    Iterative depth-first search; names are visited in sorted order, so the same graph gives the same cycle.
    """
    done: set[str] = set()
    for root in sorted(graph):
        path: dict[str, None] = {}  # an ordered set
        stack = [iter([root])]
        while stack:
            name = next(stack[-1], None)
            if name is None:
                stack.pop()
                if path:
                    done.add(path.popitem()[0])
            elif name in path:
                names = list(path)
                return [*names[names.index(name) :], name]
            elif name not in done:
                path[name] = None
                stack.append(iter(sorted(graph.get(name, ()))))
    return []


def _cycle(raw: Mapping[str, Any], owners: Mapping[str, str]) -> Iterator[Problem]:
    units = _table(raw, "units")
    places: dict[str, Location] = {name: ("units", name) for name in units}
    kinds = {model["name"]: model["type"] for model in _models(raw)}
    places |= {unit: ("model_backends", kinds[model]) for unit, model in owners.items()}
    how: dict[str, dict[str, str]] = {}
    for unit, (table, key) in places.items():
        settings = raw[str(table)][key]
        how[unit] = {
            other: verb
            for relation, verb in reversed(RELATIONS.items())  # a requirement outranks an ordering
            for _, other in _named(settings, relation)
        }
    cycle = find_cycle(how)
    if cycle:
        steps = ", ".join(f"{one} {how[one][other]} {other}" for one, other in pairwise(cycle))
        problem = f"it would wait for itself: {' -> '.join(cycle)} ({steps}); take one of these away"
        yield places[cycle[0]], problem


def _owners(raw: Mapping[str, Any]) -> dict[str, str]:
    """The units that are replicas of models -> the model; a model without a backend has none."""
    backends = _table(raw, "model_backends")
    owners: dict[str, str] = {}
    for model in _models(raw):
        name, replicas = model["name"], model.get("replicas", 1)
        if model["type"] in backends and type(replicas) is int and 1 <= replicas <= defaults.MAX_REPLICAS:
            names = [name] if replicas == 1 else [f"{name}.{n}" for n in range(replicas)]
            owners.update(dict.fromkeys(names, name))
    return owners


def _hint(raw: Mapping[str, Any], other: str, owners: Mapping[str, str], known: Mapping[str, object]) -> str:
    replicas = [unit for unit, model in owners.items() if model == other]
    if replicas:
        return f"; the model has several: {', '.join(map(shown, replicas))}"
    for model in _models(raw):
        if other == model["name"]:
            return f"; model_backends has no {shown(model['type'])} to run the model"
        aliases = model.get("aliases")
        if isinstance(aliases, list) and other in aliases:
            return f"; it is an alias, the model's name is {shown(model['name'])}"
    return did_you_mean(other, known)


def _named(table: object, relation: str) -> Iterator[tuple[str | int, str]]:
    """(key or index, name) of the others that a table names in one relation."""
    others = table.get(relation) if isinstance(table, dict) else None
    if isinstance(others, dict):
        yield from ((name, name) for name in others)
    elif isinstance(others, list):
        yield from ((index, name) for index, name in enumerate(others) if isinstance(name, str))


def _table(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = raw.get(key)
    return value if isinstance(value, dict) else {}


def _models(raw: Mapping[str, Any]) -> list[dict[str, Any]]:
    models = raw.get("supported_models")
    return [
        model
        for model in (models if isinstance(models, list) else [])
        if isinstance(model, dict)
        and isinstance(model.get("name"), str)
        and isinstance(model.get("type"), str)
    ]
