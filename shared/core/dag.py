"""Orders steps by what they wait for. A graph is a mapping from a step to its parents, in file order.

Parents that are no keys of the mapping are ignored: the parser has a fault of its own for them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import TypeAlias

Parents: TypeAlias = Mapping[str, Iterable[str]]


def order(parents: Parents) -> list[str]:
    """The steps so that each follows its parents, in file order among equals.

    Raises ValueError, naming the cycle, when there is no such order.
    """
    ordered = _sorted(parents)
    if len(ordered) < len(parents):
        raise ValueError(" → ".join(cycles(parents)[0]))
    return ordered


def cycles(parents: Parents) -> list[tuple[str, ...]]:
    """Cycles that share no step, each as `(a, b, a)` where a is the parent of b. Empty for a DAG.

    Together they break every knot once: who mends them all may still meet another one.
    """
    found: list[tuple[str, ...]] = []
    rest = {step: _known(parents, step) for step in parents}
    while True:
        done = set(_sorted(rest))
        rest = {
            step: [parent for parent in those if parent not in done]
            for step, those in rest.items()
            if step not in done
        }
        if not rest:
            return found
        cycle = _walk_back(rest)
        found.append(cycle)
        on_it = set(cycle)
        rest = {
            step: [parent for parent in those if parent not in on_it]
            for step, those in rest.items()
            if step not in on_it
        }


def ancestors(parents: Parents, step: str) -> frozenset[str]:
    """Everything that `step` waits for, directly or not."""
    return _reach({name: _known(parents, name) for name in parents}, step)


def descendants(parents: Parents, step: str) -> frozenset[str]:
    """Everything that waits for `step`, directly or not."""
    return _reach(_children(parents), step)


def _known(parents: Parents, step: str) -> list[str]:
    return [parent for parent in dict.fromkeys(parents[step]) if parent in parents]


def _children(parents: Parents) -> dict[str, list[str]]:
    children: dict[str, list[str]] = {step: [] for step in parents}
    for step in parents:
        for parent in _known(parents, step):
            children[parent].append(step)
    return children


def _sorted(parents: Parents) -> list[str]:
    """Kahn's order; steps on a cycle, and behind one, are left out."""
    names = list(parents)
    place = {step: index for index, step in enumerate(names)}
    children = _children(parents)
    waiting = {step: len(_known(parents, step)) for step in names}
    ready = [place[step] for step in names if waiting[step] == 0]  # sorted, so a heap
    ordered: list[str] = []
    while ready:
        step = names[heapq.heappop(ready)]
        ordered.append(step)
        for child in children[step]:
            waiting[child] -= 1
            if waiting[child] == 0:
                heapq.heappush(ready, place[child])
    return ordered


def _walk_back(parents: Mapping[str, list[str]]) -> tuple[str, ...]:
    """A cycle of a graph in which every step has a parent, begun at its first step of the file."""
    trail: list[str] = []
    step = next(iter(parents))
    while step not in trail:
        trail.append(step)
        step = parents[step][0]
    cycle = trail[trail.index(step) :][::-1]
    place = {name: index for index, name in enumerate(parents)}
    first = cycle.index(min(cycle, key=place.__getitem__))
    cycle = cycle[first:] + cycle[:first]
    return (*cycle, cycle[0])


def _reach(edges: Mapping[str, list[str]], step: str) -> frozenset[str]:
    seen: set[str] = set()
    todo = list(edges.get(step, ()))
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(edges[name])
    return frozenset(seen)
