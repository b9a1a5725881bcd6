"""What would become of a recorded cluster: the answers, and what is no question."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from libs.past.memory import MemoryPast
from libs.world.fork.slices import CannotFork, Slice, taken
from libs.world.play import started
from libs.world.story import Story
from libs.world.whatif import acts
from libs.world.whatif.__main__ import answers
from libs.world.whatif.answer import Answer
from libs.world.whatif.say import compared, said
from libs.world.whatif.variant import parsed

_slices: dict[int, Slice] = {}


def recorded(node_mib: int = 16_384) -> Slice:
    """Three nodes with five VMs of 512 MiB."""
    if node_mib not in _slices:
        world = started(Story(seed=1, vms=5, node_mib=node_mib))
        world.run(3)
        _slices[node_mib] = asyncio.run(taken(MemoryPast(world.log)))
    return _slices[node_mib]


def ask(*variants: str, node_mib: int = 16_384, tries: int = 1) -> list[Answer]:
    found = answers(recorded(node_mib), [parsed(words) for words in variants], tries)
    assert not [one.fault for one in found if one.fault]
    return found


def lines(found: Answer) -> str:
    return "\n".join(said(found))


def test_a_node_that_is_killed() -> None:
    (found,) = ask("--kill node/n2", tries=3)
    assert [lost.node for lost in found.lost] == ["n2"] and 4 < found.lost[0].after.least_s < found.lost[0].after.most_s < 12
    assert {(start.vm, start.source) for start in found.starts} == {("vm-0", "n2"), ("vm-4", "n2")}
    assert {start.node for start in found.starts} <= {"n1", "n3"} and not found.down
    assert found.rto is not None and found.lost[0].after.least_s < found.rto.least_s <= found.rto.most_s < 15
    n2 = next(node for node in found.nodes if node.node == "n2")
    assert (n2.before["vms"], n2.after["vms"], n2.after["up"]) == (2, 0, False)
    assert all(start.candidates for start in found.starts)
    text = lines(found)
    assert "n2 is declared lost after" in text and "RTO: all that were lost run again after" in text
    assert "no guest's boot is counted" in text and "as the newest 5 of this log did" in text


def test_the_same_question_has_the_same_answer() -> None:
    one, other = (msgspec.json.encode(ask("--kill node/n1")[0]) for _ in range(2))
    assert one == other


def test_what_does_not_fit_is_said_with_why() -> None:
    (found,) = ask("--add 40xvm-0", node_mib=4096)
    assert found.starts and all(start.added and not start.source for start in found.starts)
    assert found.down and all(not one.source for one in found.down)
    assert len(found.starts) + len(found.down) == 40
    assert any("MiB" in one.sentence or "memory" in one.sentence for one in found.down)
    assert "does not run (new):" in lines(found)
    assert max(node.after["reserved_mib"] - node.after["capacity_mib"] for node in found.nodes) <= 0


def test_a_policy_changes_the_answer(tmp_path: Path) -> None:
    policy = tmp_path / "off.toml"
    policy.write_text('[guard.vm-0]\nmode = "off"\n[ha]\nreserve = "none"\n')
    without, found = ask("--kill node/n2", f"--kill node/n2 --policy {policy}")
    assert {start.vm for start in without.starts} == {"vm-0", "vm-4"} and {start.vm for start in found.starts} == {"vm-4"}
    assert [one.vm for one in found.down] == ["vm-0"] and found.down[0].sentence and found.rto is None
    told = "\n".join(compared(without, found))
    assert re.search(r"vm-0 +n\d +does not run", told) and re.search(r"RTO +\d.* +-", told)


def test_memory_that_is_removed_says_who_has_to_leave() -> None:
    (found,) = ask("--remove-memory n2=3GiB", node_mib=4096)
    assert found.leave.get("n2"), found
    moved = {move.vm for move in found.moves}
    assert moved == set(found.leave["n2"]) and all(move.source == "n2" for move in found.moves)
    assert "would have to leave n2" in lines(found)


def test_vms_of_nodes_that_nobody_may_declare_lost_do_not_run() -> None:
    """With no node left that could prove it."""
    (found,) = ask("--kill node/n1 --kill node/n2 --kill node/n3")
    assert {one.vm for one in found.down} == {f"vm-{n}" for n in range(5)} and not found.lost and found.rto is None
    assert all("was not declared lost: nobody may start it elsewhere" in one.sentence for one in found.down)
    assert "vm-0 does not run (was on n2)" in lines(found) and "nothing else happens" not in lines(found)


def test_more_may_be_done_at_once() -> None:
    plain, found = ask("--kill node/n2", "--kill node/n2 --kill node/n2 --kill vm/vm-0 --add 2xvm-1 --remove-memory n2=1GiB")
    assert {start.vm for start in found.starts} == {"vm-0", "vm-4", "vm-1-1", "vm-1-2"}
    assert found.leave == {} and [lost.node for lost in found.lost] == [lost.node for lost in plain.lost]
    told = "\n".join(compared(plain, found))
    assert re.search(r"vm-1-1 +as before +n\d", told) and re.search(r"started +2 +4", told)


def test_nothing_done_is_nothing() -> None:
    (found,) = ask("")
    assert not (found.starts or found.down or found.moves or found.lost or found.refused)
    assert all(node.before == node.after for node in found.nodes)
    assert "nothing else happens" in lines(found)


def test_a_vm_that_is_killed_is_started_where_it_was() -> None:
    (found,) = ask("--kill vm/vm-0")
    assert [(start.vm, start.source, start.node) for start in found.starts] == [("vm-0", "n2", "n2")] and not found.lost


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["--kill node/n9"], "there is no node n9 by then: there are n1, n2, n3"),
        (["--kill vm/web"], "no VM web runs by then: there run vm-0"),
        (["--kill n2"], "`n2` is nothing that can be killed: write node/NAME or vm/NAME"),
        (["--add 3xweb"], "there is no VM web by then that others could be like"),
        (["--add web"], "`web` says not what is added: write NUMBERxVM"),
        (["--add 0xvm-0"], "with 1 to 500"),
        (["--remove-memory n1"], "write NODE=SIZE, as n1=64GiB"),
        (["--remove-memory n1=1TiB"], "n1 has 16384 MiB: 1048576 MiB cannot be taken out of it"),
        (["--remove-memory n1=9GiB --remove-memory n1=9GiB"], "n1 has 16384 MiB: 18432 MiB cannot be taken out of it"),
        (["--remove-memory n9=1GiB"], "there is no node n9"),
        *((["--remove-memory " + word], "says not what memory goes") for word in ("n1=", "n1=0", "n1=-1GiB", "n1=1QiB", "=1GiB")),
        (["--add 501xvm-0"], "`501xvm-0` says not what is added"),
        (["--add 2x"], "`2x` says not what is added"),
        (["--move vm/vm-0"], "unrecognized arguments: --move vm/vm-0: write --kill"),
        (["--policy nowhere.toml"], "the policy nowhere.toml cannot be read"),
        (["--kill 'node/n2"], "cannot be read: No closing quotation"),
    ],
)
def test_what_is_no_question_is_said_to_be(words: Sequence[str], wrong: str) -> None:
    with pytest.raises(CannotFork) as refused:
        answers(recorded(), [parsed(one) for one in words], 1)
    assert wrong in str(refused.value)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[ha]\nlost = 1\n", "ha has no `lost`: there are tolerant, isolated"),
        ("[ha]\nnodes = 3\n", "ha has no `nodes`"),
        ("[ha]\nlost_max = 'many'\n", "Expected `int"),
        ("[net]\nmtu = 1\n", "there is no policy `net`: there are the tables ha, placement"),
        ("[guard]\nmode = 'off'\n", "write [guard.NAME]"),
        ("[guard.web]\nmode = 'off'\n", "there is no VM web by then"),
        ("[memory-on.n9]\nratio_pct = 120\n", "there is no node n9 by then"),
        ("ha = 1\n", "there is no policy `ha`"),
        ("", "sets nothing"),
        ("[ha", "Expected ']'"),
    ],
)
def test_a_policy_that_is_none_is_said_to_be(text: str, wrong: str, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(text)
    with pytest.raises(CannotFork) as refused:
        answers(recorded(), [parsed(f"--policy {policy}")], 1)
    assert wrong in str(refused.value)


def test_an_invariant_that_does_not_hold_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the world's checker raises it."""
    def befall(world: object, step: object) -> None:
        raise AssertionError("seed 20, step 1: S1: two processes of ['vm-0']")

    monkeypatch.setattr(acts, "befall", befall)
    (found,) = answers(recorded(), [parsed("--kill node/n2")], 1)
    assert "S1" in found.fault and "NO ANSWER" in lines(found)
