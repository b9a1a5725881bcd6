"""Neighbouring releases work together: protocol ranges, versions of events, and the step that ends a mixed cluster."""

from __future__ import annotations

import msgspec
import pytest

from libs.common.host import snapshots, status
from libs.common.host.core import Host, state_bytes
from libs.common.host.effects import Append, Effect
from libs.common.log import Group, NewEvent, Unit
from libs.common.log.memory import MemoryLog
from libs.common.messages import Command, Envelope, NodeId, encode
from libs.common.protocol import OURS, PROTOCOL, PROTOCOL_MIN, Range, compatible, parse
from libs.common.testing import Spec
from proto.cluster import ClusterFinalized, FinalizeCluster
from proto.cluster import Refusal as ClusterRefusal
from proto.compute import Capabilities, NodeJoined, Refusal, ReportNode
from services.compute.cluster import CLUSTER
from services.compute.nodes import NODE
from tests.toy import DOWNCASTS, TOY, UPCASTS, Rename

# --- ranges ----------------------------------------------------------------------------------------------------------


def test_ranges_that_meet_are_compatible() -> None:
    assert compatible(Range(1, 2), Range(2, 3)) and compatible(Range(2, 3), Range(1, 2))
    assert compatible(Range(1, 1), Range(1, 1))
    assert not compatible(Range(1, 1), Range(2, 3)) and not compatible(Range(2, 3), Range(1, 1))
    assert OURS == (PROTOCOL_MIN, PROTOCOL) and PROTOCOL - PROTOCOL_MIN <= 1


def test_a_range_on_the_wire() -> None:
    assert parse(str(Range(1, 12))) == (1, 12)
    for wrong in ("", "1", "2-1", "-1", "1-", "a-b", "1-2-3", "٣-٤", "1" * 20 + "-2"):
        with pytest.raises(ValueError, match="MIN-MAX"):
            parse(wrong)


# --- a node of another release ---------------------------------------------------------------------------------------


def report(oldest: int, newest: int, finalized: int = 1) -> ReportNode:
    can = Capabilities(
        accelerator="tcg", cpu_model="qemu64", pcpus=1, memory_mib=1024, qemu_version="7.2", machine="q35", driver="qemu",
        protocol=newest, protocol_min=oldest,
    )  # fmt: skip
    return ReportNode(node=NodeId("n1"), capabilities=can, boot_id="b", finalized=finalized)


def test_a_node_of_a_release_too_far_away_is_refused_in_words() -> None:
    joined = Spec(NODE).given(NodeJoined(node=NodeId("n1"), key="k"))
    assert joined.when(report(PROTOCOL, PROTOCOL + 1)).events
    late = joined.when(report(PROTOCOL + 1, PROTOCOL + 2)).refused(Refusal.PROTOCOL).refusal
    assert late is not None and "control plane" in late.remedy and f"{PROTOCOL + 1}-{PROTOCOL + 2}" in late.sentence
    early = joined.when(report(0, 0)).refused(Refusal.PROTOCOL).refusal
    assert early is not None and early.remedy == "upgrade the node"


# --- finalize --------------------------------------------------------------------------------------------------------


def test_finalize_waits_for_all_and_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.compute.cluster.PROTOCOL", 3)
    fresh = Spec(CLUSTER).given()
    fresh.when(FinalizeCluster(protocol=1, nodes={"n1": 1})).nothing()
    ready = {"io": 3, "memory": 3}
    fresh.when(FinalizeCluster(services=ready, nodes={"n1": 3})).then(ClusterFinalized(protocol=3)).twice()
    behind = fresh.when(FinalizeCluster(services=ready | {"relay": 0}, nodes={"n1": 2, "n2": 3}))
    said = behind.refused(ClusterRefusal.BEHIND).refusal
    assert said is not None and "n1 (2), relay (away)" in said.sentence and "n2" not in said.sentence
    fresh.when(FinalizeCluster(protocol=4)).refused(ClusterRefusal.PROTOCOL)
    Spec(CLUSTER).given(ClusterFinalized(protocol=2)).when(FinalizeCluster(protocol=1)).refused(ClusterRefusal.PROTOCOL)


# --- what is written before and after --------------------------------------------------------------------------------


class Rig:
    """The toy on a log in memory."""

    def __init__(self) -> None:
        self.log = MemoryLog(lambda: 1)
        self.host = Host(TOY, UPCASTS, DOWNCASTS)
        self._do(self.host.ready(1, 1))

    def ask(self, command: Command, id: str) -> None:
        envelope = Envelope(id=id, data=msgspec.Raw(encode(command)), actor="user:test")
        self._do(self.host.on_command(None, encode(envelope), 1))

    def finalize(self, protocol: int) -> None:
        event = NewEvent(
            "cluster_finalized", 1, encode(ClusterFinalized(protocol=protocol)), encode(["", "", "", "", 0])
        )
        self.log.append_now(Group((Unit("cluster-main", 0, (event,)),)))
        self.hear()

    def hear(self) -> None:
        self._do(self.host.on_events(self.log.read_all_now(self.host.reactions.next_position - 1), 1))

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Append):
                self._do(self.host.on_appended(effect.token, self.log.append_now(effect.group)))


def test_a_new_version_is_written_once_the_cluster_is_finalized() -> None:
    rig = Rig()
    rig.ask(Rename(counter="a", name="first", why="as it was asked"), "1")
    assert rig.host.states()["counter-a"].why == "not said", "memory holds what the log will fold to"
    rig.hear()
    rig.finalize(2)
    rig.ask(Rename(counter="a", name="second", why="as it was asked"), "2")
    rig.hear()
    assert [(r.type, r.v) for r in rig.log.read_all_now(0)] == [
        ("renamed", 1),
        ("cluster_finalized", 1),
        ("renamed", 2),
    ]
    assert (rig.host.states()["counter-a"].name, rig.host.states()["counter-a"].why) == ("second", "as it was asked")
    said = status.of(rig.host, 0, 0)
    assert (said.finalized, said.protocol, said.protocol_min) == (2, PROTOCOL, PROTOCOL_MIN)

    again = Host(TOY, UPCASTS, DOWNCASTS)
    again.fold(rig.log.read_all_now(0), rig.log.head_now().position)
    assert state_bytes(again) == state_bytes(rig.host) and again.writer.protocol == 2

    from_snapshot = Host(TOY, UPCASTS, DOWNCASTS)
    assert snapshots.restore(from_snapshot, snapshots.take(again)) == 3
    assert from_snapshot.writer.protocol == 2
