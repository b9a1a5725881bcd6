"""What follows where an agent says that its watchdog does not answer: noted, shown, nothing is placed there, its VMs are let be."""

from __future__ import annotations

from libs.common.messages import NodeId, encode
from proto.lease import MUTE, LeaseBeat, NodePathsNoted
from services.gateway.ha_alerts import said
from services.gateway.views.ha import HaView, Standing
from services.gateway.why.sentences import sentence
from services.ha.node_views import MemberView, NodeViews
from tests.model.ha_rig import Rig, kinds
from tests.model.test_guarding import Told

N1 = NodeId("n1")
NOTED = NodePathsNoted(node=N1, at_us=5, mute=True)


def test_it_is_noted_and_is_over_with_the_next_word() -> None:
    rig = Rig()
    rig.run(10)
    rig.nodes["n1"].own = MUTE
    noted = rig.until(NodePathsNoted)
    assert (noted.node, noted.mute, noted.pools, noted.move) == ("n1", True, (), False)
    rig.nodes["n1"].own = "held"
    assert rig.until(NodePathsNoted).mute is False
    assert set(kinds(rig)) == {"TermBegan", "LeaseTaken", "NodePathsNoted"}


def test_its_agents_word_is_no_word_of_the_watchdog() -> None:
    views = NodeViews(members={"n1": MemberView()})
    views.hear("tel.n1.leases", encode(LeaseBeat("n1", "b", 1, "held", 1, 5)), 10)
    views.hear("tel.n1.leases", encode(LeaseBeat("n1", "b", 2, MUTE, 0)), 20)
    assert (views.heard["n1"].own, views.heard["n1"].beat_us) == (MUTE, 10)


def test_people_are_told() -> None:
    (alert,) = said(HaView(nodes={"n1": Standing(mute=True)}), {})
    assert alert.kind == "node-paths" and "its watchdog does not answer" in alert.sentence
    assert "its watchdog does not answer" in sentence("node_paths_noted", NOTED)
    assert "again" in sentence("node_paths_noted", NodePathsNoted(node=N1, at_us=5))


def test_nothing_is_placed_there_meanwhile() -> None:
    told = Told()
    told.tell(NOTED)
    assert told.views.nodes["n1"].no_storage == "its watchdog does not answer"
    told.tell(NodePathsNoted(node=N1, at_us=6))
    assert told.views.nodes["n1"].no_storage == ""
