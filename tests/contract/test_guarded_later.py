"""A real agent and a real watchdog: what was started before there was a lease is guarded once there is one. And what a log that was
restored has forgotten of a return is told again."""

from __future__ import annotations

import msgspec

from proto.node import OrderVm, Want
from tests.contract.driver_rigs import machine_spec
from tests.contract.test_leasing import LEASE_US, Node, grants, node, until

__all__ = ["node"]


async def order(node: Node, version: int, *, protected: bool) -> None:
    spec = msgspec.structs.replace(machine_spec(generation=1), protected=protected)
    await node.cluster.bus.request(
        "order.n1", msgspec.msgpack.encode(OrderVm(vm="web-1", generation=1, version=version, want=Want.RUNNING, spec=spec))
    )


def guarded(node: Node) -> int:
    assert node.runner.leasing is not None
    return int(node.runner.leasing.state["guarded"])


async def test_its_watchdog_guards_it_before_its_agent_says_so(node: Node) -> None:
    await order(node, 1, protected=False)
    await until(lambda: any(r.pid for r in node.cluster.reports), "it runs")
    assert guarded(node) == 0 and not node.cluster.reports[-1].guarded
    await order(node, 2, protected=True)
    await until(lambda: any(r.guarded and r.epoch == 1 for r in node.cluster.reports), "its agent says that it is guarded")
    await until(lambda: guarded(node) == 1, "its watchdog has it")
    node.cluster.grants = grants(refused="lost", lease_us=0)
    await until(lambda: not node.running, "it is ended with the lease")


async def test_without_a_lease_it_is_not_and_runs_on(node: Node) -> None:
    await order(node, 1, protected=False)
    await until(lambda: any(r.pid for r in node.cluster.reports), "it runs")
    node.cluster.grants = None
    node.rig.gone()
    await until(lambda: node.own == "ended", "the lease has ended")
    await order(node, 2, protected=True)
    await until(lambda: any(r.order_version == 2 for r in node.cluster.reports), "the order is heard")
    assert node.running and not any(r.guarded for r in node.cluster.reports)
    node.rig.back()


async def test_a_return_that_the_log_has_forgotten_is_told_again(node: Node) -> None:
    cluster = node.cluster
    cluster.grants = grants(refused="lost", lease_us=0)
    await until(lambda: len(cluster.returned) > 1, "it says again that it has come back")
    assert {back.epoch for back in cluster.returned} == {1}
    cluster.grants = grants(epoch=1)
    before = len(cluster.returned)
    await until(lambda: len(cluster.returned) > before, "and again, as it is granted what has ended")
    cluster.grants = grants(epoch=2)
    await until(lambda: node.own == "held", "it has the next")
    await until(lambda: (cluster.asked[-1].left_us or 0) > 0, "it says how long that lasts")
    assert (cluster.asked[-1].left_us or 0) <= LEASE_US
