"""What waits for what: an order in which all come after what they need, and the cycles where there is none."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple, TypeVar

Node = TypeVar("Node", bound=Hashable)


class Order(NamedTuple):
    """`order`: all nodes that can be reached, each after what it needs, else the lesser name first. `cycles`:
    members of each, in its order. `stuck`: nodes of no cycle that wait for one."""

    order: list[Any]
    cycles: list[list[Any]]
    stuck: list[Any]


def order_of(needs: Mapping[Node, Iterable[Node]]) -> Order:
    """`needs`: node -> what it needs; what is no key itself is taken as there. O(edges log nodes)."""
    missing = {node: {one for one in wanted if one in needs} for node, wanted in needs.items()}
    waiting: dict[Node, list[Node]] = {}
    for node, wanted in missing.items():
        for one in wanted:
            waiting.setdefault(one, []).append(node)
    left = {node: len(wanted) for node, wanted in missing.items()}
    ready: list[Any] = [node for node, count in left.items() if not count]
    heapify(ready)
    order = []
    while ready:
        node = heappop(ready)
        order.append(node)
        for other in waiting.get(node, ()):
            left[other] -= 1
            if not left[other]:
                heappush(ready, other)
    rest: list[Any] = sorted(node for node, count in left.items() if count)
    cycles = _cycles(rest, missing)
    members = {node for cycle in cycles for node in cycle}
    return Order(order, cycles, [node for node in rest if node not in members])


def _cycles(rest: list[Any], missing: Mapping[Any, set[Any]]) -> list[list[Any]]:
    """Strongly connected components (Tarjan, without recursion) with an edge within, by their least member."""
    among = set(rest)
    number: dict[Any, int] = {}
    low: dict[Any, int] = {}
    stack: list[Any] = []
    on: set[Any] = set()
    found = []
    for root in rest:
        if root in number:
            continue
        work = [(root, iter(sorted(missing[root] & among)))]
        number[root] = low[root] = len(number)
        stack.append(root)
        on.add(root)
        while work:
            node, edges = work[-1]
            for other in edges:
                if other not in number:
                    number[other] = low[other] = len(number)
                    stack.append(other)
                    on.add(other)
                    work.append((other, iter(sorted(missing[other] & among))))
                    break
                if other in on:
                    low[node] = min(low[node], number[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == number[node]:
                    component: list[Any] = []
                    while component[-1:] != [node]:
                        component.append(stack.pop())
                        on.discard(component[-1])
                    if len(component) > 1 or node in missing[node]:
                        found.append(_around(component, missing))
    return sorted(found)


def _around(component: list[Any], missing: Mapping[Any, set[Any]]) -> list[Any]:
    """A walk from the least member to what it needs, and so on, while there is somebody new; then the others."""
    left = set(component)
    node = min(left)
    walk = []
    while True:
        walk.append(node)
        left.discard(node)
        following = sorted(missing[node] & left)
        if not following:
            return [*walk, *sorted(left)]
        node = following[0]
