"""How fast placements are decided and told: the index on many nodes, through decider and log, and Ganeti's hail beside it."""

from __future__ import annotations

import heapq
import json
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from libs.common.log import Group, NewEvent, Unit
from libs.common.log.memory import MemoryLog
from libs.common.messages import Meta, VmId, encode, tag_of
from proto.balance import ClusterLoad, NodeLoad, VmLoad
from proto.compute import NodeJoined, NodeReported, StartVm, VmDefined
from proto.examples import example
from proto.machine import Allotment
from proto.memory import CapacitySet
from proto.node import Beat
from proto.nodes import Capabilities
from proto.placement import PlacementRules, WeightSet
from services.compute import model
from services.compute.enriching import enrich
from services.compute.evolving import evolve
from services.compute.hearing import hear
from services.compute.policy import PACK
from services.compute.states import Absent
from services.compute.views import Views
from tests.bench.balance_hbal import text_of
from tests.bench.placement_trace import CORES, MEMORY_MIB, Arrival, Production

HAIL = Path("/usr/lib/ganeti/iallocators/hail")
HAIL_S_MAX = 60
WINDOWS = 4
CLOSED_EVERY = 31
"""every so manieth node is cordoned, so that there is something to tell"""


def decide(trace: list[Arrival], nodes: int, warm: int, count: int) -> tuple[float, float, float, Production]:
    """(decisions per second of CPU time, p99 in ms, mean bytes of a record, the cluster at the end). Timed is all from one
    decision to the next: departures, facts renewed, the choice, its record as msgpack, the VM counted. The p99 is by the clock
    on the wall, and the best of WINDOWS, as others may share the machine."""
    cluster = Production(nodes)
    cluster.closed = frozenset(range(7, nodes, CLOSED_EVERY))
    leaving: list[tuple[int, int, int]] = []
    times: list[float] = []
    size, last, cpu_s = 0, 0, 0.0
    pack = msgspec.msgpack.Encoder().encode
    for vm, arrival in enumerate(trace[: warm + count]):
        begin = time.perf_counter()
        if vm == warm:
            cpu_s = time.process_time()
        while leaving and leaving[0][0] <= arrival.at_s:
            at_s, host, gone = heapq.heappop(leaving)
            cluster.leave(gone, host, trace[gone], at_s)
        if arrival.at_s != last:
            cluster.tick(arrival.at_s)
            last = arrival.at_s
        cluster.renew()
        wish, life = cluster.wish(arrival)
        placement = cluster.index.place(wish, (), PACK, nodes)
        record = pack(placement)
        if placement.candidates:
            host = cluster.take(vm, arrival, life, placement.candidates[0].node)
            heapq.heappush(leaving, (arrival.at_s + arrival.life_s, host, vm))
        if vm >= warm:
            times.append(time.perf_counter() - begin)
            size += len(record)
    rate = len(times) / (time.process_time() - cpu_s)
    window = len(times) // WINDOWS
    p99_s = min(sorted(times[n * window : (n + 1) * window])[int(window * 0.99)] for n in range(WINDOWS))
    return rate, p99_s * 1e3, size / len(times), cluster


def committed_per_s(trace: list[Arrival], nodes: int, count: int) -> float:
    """Starts per second through enrich, the VM's decider, and an append to the in-memory log; views follow each event."""
    views, log, now_us = Views(rules=PlacementRules(weights=WeightSet.PACK)), MemoryLog(lambda: now), 1_000_000_000
    now = now_us
    meta = encode(Meta("c", "", "t", "user:ops", now))
    can = msgspec.structs.replace(example(Capabilities), pcpus=CORES, share=1, cells=(), pools=("default",), bridges=())

    def commit(stream: str, version: int, event: object) -> None:
        new = NewEvent(tag_of(type(event)), 1, encode(event), meta)  # type: ignore[arg-type]
        log.append_now(Group((Unit(stream, version, (new,)),)))
        views.apply(log._events[-1], event)

    for n in range(nodes):
        name = f"node-{n}"
        commit(f"node-{name}", 0, NodeJoined(node=name, key="k"))  # type: ignore[arg-type]
        commit(f"node-{name}", 1, NodeReported(node=name, capabilities=can, boot_id="b"))  # type: ignore[arg-type]
        views.apply(log._events[-1], CapacitySet(node=name, capacity_mib=MEMORY_MIB))  # type: ignore[arg-type]
        hear(f"tel.{name}.beat", msgspec.msgpack.encode(Beat(name, "b", now, 0, 0.0)), now, views)
    base: VmDefined = msgspec.structs.replace(example(VmDefined), disks=(), nics=(), allotment=Allotment())
    states = {}
    for n, arrival in enumerate(trace[:count]):
        shape = msgspec.structs.replace(base.shape, vcpus=arrival.vcpus, memory_mib=arrival.memory_mib)
        defined = msgspec.structs.replace(base, vm=VmId(f"v{n}"), shape=shape)
        commit(f"vm-v{n}", 0, defined)
        states[n] = evolve(Absent(), defined)
    begin = time.perf_counter()
    for n, state in states.items():
        events = model.decide(enrich(StartVm(vm=f"v{n}"), views, now), state)
        commit(f"vm-v{n}", 1, events[0])
    return count / (time.perf_counter() - begin)


def hail_ms(
    cluster: Production, vms: dict[int, tuple[str, Arrival]], wanted: Arrival, rounds: int
) -> tuple[float, float]:
    """(ms per placement on that cluster, ms on a cluster of two nodes: what starting the program takes). Its own capacity checks,
    minutes on such clusters, are switched off: they have no counterpart here."""
    open_hosts = [name for n, name in enumerate(cluster.names) if n not in cluster.closed]
    full = ClusterLoad(
        nodes=tuple(_node(name) for name in open_hosts),
        vms=tuple(
            VmLoad(vm=VmId(f"vm{n}"), node=node, vcpus=a.vcpus, memory_mib=a.memory_mib)  # type: ignore[arg-type]
            for n, (node, a) in vms.items()
        ),
    )
    tiny = ClusterLoad(nodes=tuple(_node(name) for name in open_hosts[:2]), vms=())
    with TemporaryDirectory(prefix="asv-hail-") as folder:
        return _hail(Path(folder), full, wanted, rounds), _hail(Path(folder), tiny, wanted, rounds)


def _node(name: str) -> NodeLoad:
    return NodeLoad(node=name, pcpus=CORES, memory_mib=MEMORY_MIB, vcpus_max=CORES)  # type: ignore[arg-type]


def _hail(folder: Path, load: ClusterLoad, wanted: Arrival, rounds: int) -> float:
    """The best of the rounds. Raises RuntimeError where it finds no node."""
    data, request = folder / "cluster.txt", folder / "request.json"
    data.write_text(text_of(load, {}))
    request.write_text(json.dumps(_request(wanted)))
    best = float("inf")
    for _ in range(rounds):
        begin = time.perf_counter()
        command = [str(HAIL), "-t", str(data), "--no-capacity-checks", str(request)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=HAIL_S_MAX, check=False)
        best = min(best, time.perf_counter() - begin)
        if '"success":true' not in done.stdout:
            raise RuntimeError(f"hail: {(done.stdout or done.stderr)[:300]}")
    return best * 1e3


def _request(wanted: Arrival) -> dict[str, object]:
    """An allocation, as Ganeti asks; the cluster itself comes by the text file."""
    return {
        "version": 2, "cluster_name": "c", "cluster_tags": [], "enabled_hypervisors": ["kvm"], "nodegroups": {}, "nodes": {},
        "instances": {},
        "request": {
            "type": "allocate", "name": "new", "memory": wanted.memory_mib, "vcpus": wanted.vcpus, "disk_space_total": 2000,
            "disks": [{"size": 2000, "spindles": 1, "mode": "w"}], "disk_template": "ext", "required_nodes": 1, "spindle_use": 1,
            "tags": [], "nics": [], "os": "debian", "hypervisor": "kvm", "group_name": None,
        },
    }  # fmt: skip
