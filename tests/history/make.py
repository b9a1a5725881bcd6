"""Plays a story in the deterministic world and keeps its log with what it folds to. See the room's docstring."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from libs.common.host.core import Host
from libs.common.messages import Recorded
from libs.past.aslog import Aslog, aslog, write
from libs.past.memory import MemoryPast
from libs.past.slices.cut import cut
from libs.past.slices.select import Wanted, select
from libs.past.source import Decided
from libs.world.play import play
from libs.world.story import read
from libs.world.world import World
from proto.balance import Mode, Rules, SetBalance
from proto.compute import DefineVm, StartVm, StopVm
from proto.networks import CreateNetwork, DeleteNetwork, SetNetwork
from proto.services import SERVICES
from proto.upcasts import UPCASTS
from services.host.known import service
from services.host.slices.app import anonymized

HERE = Path(__file__).parent


def rebalanced() -> World:
    """Six VMs started on one node of three, evened out by the rebalancer; networks made, changed and deleted; VMs stopped."""
    world = World(1)
    world.begin()
    world.run(6)
    world.ask("io", "network-blue", CreateNetwork(network="blue", bridge="br0", vlan=7, description="of the shop"))
    world.ask("io", "network-red", CreateNetwork(network="red", bridge="br0", vlan=8, mtu=1400))
    for i in range(6):
        world.ask("compute", f"vm-v{i}", DefineVm(vm=f"v{i}", vcpus=2, memory_mib=256))
    world.run(2)
    world.ask("io", "network-blue", SetNetwork(network="blue", trusted=True))
    world.ask("io", "network-red", DeleteNetwork(network="red"))
    for i in range(6):
        world.ask("compute", f"vm-v{i}", StartVm(vm=f"v{i}", node="n1"))
    world.run(30)
    world.ask("compute", "balance-cluster", SetBalance(mode=Mode.AUTO, rules=Rules(hold_s=5, batch_rest_s=5)))
    world.run(240)
    for i in range(2):
        world.ask("compute", f"vm-v{i}", StopVm(vm=f"v{i}", deadline_s=0))
    world.run(20)
    return world


def fenced() -> World:
    """A node is cut off, its fence device takes the order and falls silent; the VMs start elsewhere."""
    return play(read(HERE.parent / "scenarios/fence-mute")).world


def exported() -> Aslog:
    """As `asvctl log export --vm vm-0 --anonymize` writes it: a node dies, its VMs start elsewhere, and this is one of them."""
    past = MemoryPast(play(read(HERE.parent / "scenarios/power-loss")).world.log)

    async def made() -> Aslog:
        return await cut(past, await select(past, Wanted(vms=("vm-0",))))

    content, _ = anonymized(asyncio.run(made()), b"of the histories".ljust(32))
    return replace(content, header=replace(content.header, note=(exported.__doc__ or "").strip()))


STORIES: dict[str, Callable[[], World]] = {"rebalanced": rebalanced, "fenced": fenced}
EXPORTS: dict[str, Callable[[], Aslog]] = {"exported": exported}


def kept(world: World, note: str) -> Aslog:
    """All of the world's log."""
    events = world.log.read_all_now(0, world.log.head_now().position)
    rows = world.log.commands_now().items()
    commands = [Decided(row.answer.position, row.at_us, id, row.stream, row.payload, row.answer.outcome) for id, row in rows]
    return aslog(events, commands, world.log.head_now().incarnation, note=note)


def states(events: tuple[Recorded, ...]) -> dict[str, dict[str, Any]]:
    """By service and stream: what today's code folds the events to, as plain values."""
    out: dict[str, dict[str, Any]] = {}
    for name in SERVICES:
        host = Host(service(name), dict(UPCASTS))
        host.fold(events, 0)
        found = msgspec.json.decode(msgspec.json.encode(host.states()))
        out[name] = dict(sorted(found.items()))
    return out


def main(words: list[str]) -> int:
    if len(words) != 1 or words[0] not in STORIES | EXPORTS:
        print(f"python -m tests.history.make {'|'.join((*STORIES, *EXPORTS))}", file=sys.stderr)
        return 2
    path = HERE / f"{words[0]}.aslog"
    if path.exists():
        print(f"{path} is there: a history is never written again; give the story another name", file=sys.stderr)
        return 1
    story = STORIES.get(words[0])
    content = EXPORTS[words[0]]() if story is None else kept(story(), (story.__doc__ or "").strip())
    write(path, content)
    lines = msgspec.json.format(msgspec.json.encode(states(content.events)), indent=1)
    path.with_suffix(".states.json").write_bytes(lines + b"\n")
    print(f"{path.name}: {len(content.events)} events, {len(content.commands)} commands, {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
