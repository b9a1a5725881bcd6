"""What each disk of a running VM stands on, as its QEMU says: the block nodes, the disk's own first.

    disk3-s1-17 ──▶ disk3 ──▶ disk3-l0 ──▶ disk3-base        each on a node NAME-file, which knows the file; of one that lies
                                                             in a window of an export, a node NAME-claim does

Nodes that a job puts in between for its time are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import msgspec

from services.node.drivers.qemu.devices import FDSET, secret_id, slot_of
from services.node.drivers.qemu.keyring import known

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

_ROOT = re.compile(r"(?:^|/)disk([0-9]+)-dev(?:/|$)")
_OWN = re.compile(r"disk([0-9]+)(-s[0-9-]+|-l[0-9]+|-base)?")


class Chain(msgspec.Struct, frozen=True):
    """nodes: of the disk's own file and those beneath, the image included; files: theirs, the image left out."""

    nodes: tuple[str, ...]
    files: tuple[str, ...]

    def node_of(self, file: str) -> str:
        return self.nodes[self.files.index(file)]


async def chains(vm: RunningVm) -> dict[int, Chain]:
    """By slot. Raises DriverError."""
    graph = await vm.do("x-debug-query-block-graph")
    named = await vm.do("query-named-block-nodes", {"flat": True})
    files = {str(n["node-name"]): PurePath(str(n["file"])).name for n in named}
    if handed := {str(n["node-name"]): str(n["file"]) for n in named if str(n["file"]).startswith(FDSET)}:
        words = await sets(vm)
        files |= {node: words.get(int(file.removeprefix(FDSET)), "") for node, file in handed.items()}
    return read(graph, files)


async def sets(vm: RunningVm) -> dict[int, str]:
    """Of each set of files that QEMU was given open, the word that came with it. Raises DriverError."""
    found = await vm.do("query-fdsets")
    return {int(each["fdset-id"]): str(fd.get("opaque", "")) for each in found for fd in each["fds"]}


def read(graph: dict[str, Any], files: dict[str, str]) -> dict[int, Chain]:
    """files: the file of each block node that has one."""
    names = {node["id"]: str(node["name"]) for node in graph["nodes"]}
    below: dict[str, dict[str, str]] = {}
    for edge in graph["edges"]:
        below.setdefault(names[edge["parent"]], {})[str(edge["name"])] = names[edge["child"]]
    found = {}
    for name in names.values():
        if (root := _ROOT.search(name)) is not None and "root" in below.get(name, {}):
            nodes = tuple(_walk(below, below[name]["root"]))
            layers = (node for node in nodes if not node.endswith("-base"))
            own = tuple(files.get(f"{node}-claim") or files.get(f"{node}-file", "") for node in layers)
            found[int(root[1])] = Chain(nodes, own)
    return found


def _walk(below: dict[str, dict[str, str]], node: str) -> Iterator[str]:
    while node:
        under = below.get(node, {})
        if _OWN.fullmatch(node):
            yield node
            node = under.get("backing", "")
        else:
            node = under.get("file") or under.get("backing", "")


async def closed(vm: RunningVm, slot: int) -> None:
    """Files of backups that no node of that slot has any more are closed. Raises DriverError."""
    named = await vm.do("query-named-block-nodes", {"flat": True})
    used = {str(node["file"]) for node in named}
    for into in await sets(vm):
        if slot_of(into) == slot and f"{FDSET}{into}" not in used:
            await vm.fitting.away("remove-fd", {"fdset-id": into})
    if not any(file.startswith(FDSET) for file in used):
        for key in await known(vm, secret_id("")):
            await vm.fitting.away("object-del", {"id": key})


async def left(vm: RunningVm, slot: int, chain: Chain | None) -> list[str]:
    """Nodes of that slot on which no disk stands, each before what it stands on itself. Raises DriverError."""
    used = set(chain.nodes) if chain is not None else set()
    there = [str(n["node-name"]) for n in await vm.do("query-named-block-nodes", {"flat": True})]
    mine = [name for name in there if (own := _OWN.fullmatch(_layer_of(name))) and int(own[1]) == slot]
    idle = [name for name in mine if _layer_of(name) not in used]
    graph = await vm.do("x-debug-query-block-graph")
    names = {node["id"]: str(node["name"]) for node in graph["nodes"]}
    above = {names[edge["child"]]: names[edge["parent"]] for edge in graph["edges"]}
    return sorted(idle, key=lambda name: _depth(above, name))


def _layer_of(name: str) -> str:
    return name.removesuffix("-file").removesuffix("-claim")


def _depth(above: dict[str, str], name: str) -> int:
    depth = 0
    while name in above and depth < 1000:
        name, depth = above[name], depth + 1
    return depth
