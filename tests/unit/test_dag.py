from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.dag import ancestors, cycles, descendants, order

Graph = dict[str, list[str]]

DIAMOND: Graph = {"join": ["left", "right"], "right": ["start"], "left": ["start"], "start": []}


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Any graph: with cycles, self loops, doubled edges and parents that do not exist."""
    names = [f"s{number}" for number in range(draw(st.integers(0, 8)))]
    parent = st.sampled_from([*names, "stranger"])
    return {name: draw(st.lists(parent, max_size=4)) for name in names}


@st.composite
def acyclic(draw: st.DrawFn) -> Graph:
    names = draw(st.permutations([f"s{number}" for number in range(draw(st.integers(0, 10)))]))
    before: list[str] = []
    graph: Graph = {}
    for name in names:
        graph[name] = draw(st.lists(st.sampled_from(before), max_size=3)) if before else []
        before.append(name)
    return {name: graph[name] for name in draw(st.permutations(names))}


def test_a_step_follows_its_parents_and_equals_keep_the_order_of_the_file() -> None:
    assert order(DIAMOND) == ["start", "right", "left", "join"]
    assert order({"c": [], "a": [], "b": ["a"]}) == ["c", "a", "b"]


def test_a_cycle_is_named_from_its_first_step_in_the_order_of_waiting() -> None:
    assert cycles({"a": ["c"], "b": ["a"], "c": ["b"], "d": ["c"]}) == [("a", "b", "c", "a")]
    with pytest.raises(ValueError, match="a → b → a"):
        order({"a": ["b"], "b": ["a"]})


def test_cycles_that_share_no_step_are_all_found() -> None:
    graph = {"a": ["b"], "b": ["a"], "x": ["x"], "c": ["d", "a"], "d": ["c"], "free": []}
    assert cycles(graph) == [("a", "b", "a"), ("x", "x"), ("c", "d", "c")]


def test_ancestors_and_descendants_are_reached_through_others() -> None:
    assert ancestors(DIAMOND, "join") == {"left", "right", "start"}
    assert ancestors(DIAMOND, "start") == frozenset()
    assert descendants(DIAMOND, "start") == {"left", "right", "join"}
    assert descendants(DIAMOND, "join") == frozenset()


def test_five_thousand_steps_in_a_row_need_no_recursion() -> None:
    graph: Graph = {f"s{n}": [f"s{n - 1}"] if n else [] for n in range(5000)}
    assert order(graph) == list(graph)
    assert len(ancestors(graph, "s4999")) == 4999


@given(acyclic())
def test_an_order_holds_every_step_once_after_its_parents(graph: Graph) -> None:
    ordered = order(graph)
    assert sorted(ordered) == sorted(graph)
    place = {step: index for index, step in enumerate(ordered)}
    assert all(place[parent] < place[step] for step in graph for parent in graph[step])
    assert cycles(graph) == []


@given(acyclic())
def test_an_order_is_the_first_one_by_the_file(graph: Graph) -> None:
    # at every point the step that comes is the first of the file of those that could come
    file = list(graph)
    done: list[str] = []
    for step in order(graph):
        ready = [name for name in file if name not in done and set(graph[name]) <= set(done)]
        assert step == ready[0]
        done.append(step)


@given(graphs())
def test_what_has_no_order_has_cycles_that_are_cycles(graph: Graph) -> None:
    found = cycles(graph)
    for cycle in found:
        assert cycle[0] == cycle[-1]
        assert len(set(cycle)) == len(cycle) - 1
        assert all(before in graph[after] for before, after in itertools.pairwise(cycle))
    assert sum(len(cycle) - 1 for cycle in found) == len({step for one in found for step in one})
    if found:
        with pytest.raises(ValueError, match=" → "):
            order(graph)
    else:
        assert len(order(graph)) == len(graph)


@given(graphs())
def test_a_descendant_is_what_has_it_as_an_ancestor(graph: Graph) -> None:
    for step in graph:
        assert descendants(graph, step) == {
            other for other in graph if step in ancestors(graph, other)
        }
