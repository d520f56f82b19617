"""Turns of adapter sets: everybody is served, nobody is switched to needlessly."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from llamaleon_server.engine.adapters.grouping import TURN_STEPS, TakeTurns
from llamaleon_server.engine.protocol import AdapterUse, Generate
from llamaleon_server.engine.sequence import Sequence


def sequence(adapter: str) -> Sequence:
    uses = (AdapterUse(adapter),) if adapter else ()
    return Sequence(Generate(id=0, prompt=[1], adapters=uses), [1], 100)


def served(policy: TakeTurns, running: list[Sequence]) -> str:
    chosen = policy.choose(running)
    (adapters,) = {one.adapters for one in chosen}
    assert chosen == [one for one in running if one.adapters == adapters]
    return adapters[0].key if adapters else ""


def test_one_set_alone_is_never_interrupted() -> None:
    policy, running = TakeTurns(), [sequence("a"), sequence("a")]
    assert {served(policy, running) for _ in range(20)} == {"a"}
    assert policy.choose([]) == []


def test_sets_take_turns_of_several_steps() -> None:
    policy, running = TakeTurns(), [sequence("a"), sequence(""), sequence("b")]
    order = [served(policy, running) for _ in range(6 * TURN_STEPS)]
    switches = sum(one != other for one, other in pairwise(order))
    assert {order.count(key) for key in ("a", "", "b")} <= set(range(TURN_STEPS, 3 * TURN_STEPS + 1))
    assert switches <= 7


def test_a_newcomer_is_served_in_the_next_step() -> None:
    policy, running = TakeTurns(), [sequence("a")]
    served(policy, running)
    assert served(policy, [*running, sequence("b")]) == "b"


@given(st.lists(st.sampled_from(["stay", "new", "leave"]), max_size=120))
def test_nobody_starves_among_newcomers(events: list[str]) -> None:
    policy, always, others, names = TakeTurns(), sequence("always"), list[Sequence](), iter(range(999))
    waited = 0
    for event in events:
        if event == "new" and len(others) < 6:
            others.append(sequence(f"n{next(names)}"))
        elif event == "leave" and others:
            others.pop(0)
        waited = 0 if served(policy, [*others, always]) == "always" else waited + 1
        assert waited <= 2 * TURN_STEPS * 7
