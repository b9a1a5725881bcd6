"""When an agent tells where its VMs' memory lies."""

from __future__ import annotations

from proto.mapping import Region
from services.node.maps import LOOK_US, LOOKS_MAX, SAY_US, Maps

LOW = (Region(name="below-4g", guest_address=0, size_mib=256),)
MORE = (*LOW, Region(name="dimm0", guest_address=4 << 30, size_mib=256))


def test_a_new_vm_is_told_once_and_again_in_a_while() -> None:
    maps = Maps()
    assert maps.due({"a": 1}, 0) == [("a", 1)]
    assert maps.found("a", LOW, 0)
    maps.heard("a", LOW, 0)
    assert maps.due({"a": 1}, LOOK_US - 1) == []
    assert maps.due({"a": 1}, LOOK_US) == [("a", 1)]
    assert not maps.found("a", LOW, LOOK_US), "nothing has changed"
    assert maps.found("a", MORE, LOOK_US), "memory was plugged"
    assert maps.found("a", LOW, SAY_US), "the log may have lost it"


def test_what_nobody_heard_is_told_at_the_next_turn() -> None:
    maps = Maps()
    maps.due({"a": 1}, 0)
    assert maps.found("a", LOW, 0)
    maps.lost("a")
    assert maps.due({"a": 1}, 1) == [("a", 1)]
    assert maps.found("a", LOW, 1)


def test_another_generation_is_another_process() -> None:
    maps = Maps()
    maps.due({"a": 1}, 0)
    maps.found("a", LOW, 0)
    maps.heard("a", LOW, 0)
    assert maps.due({"a": 2}, 1) == [("a", 2)]
    assert maps.found("a", LOW, 1)
    assert maps.due({}, 2) == [] and maps.known == {}
    maps.heard("a", LOW, 3)  # an answer that came late
    assert maps.known == {}


def test_a_turn_is_bounded_and_nobody_is_forgotten() -> None:
    maps, vms = Maps(), {f"vm-{i}": 1 for i in range(LOOKS_MAX * 3)}
    seen: set[str] = set()
    for turn in range(3):
        for vm, _ in maps.due(vms, turn):
            maps.missed(vm, turn)
            seen.add(vm)
    assert seen == set(vms)
