"""What compute's views are asked: where a VM would go, and what a decision is to know of nodes and images. Only hints change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from msgspec.structs import replace

from libs.memory.promise import guaranteed_mib
from proto.cluster import NodeUse
from proto.compute import DefineVm, Filter, ImageFacts, Placement, RestartVm, VmDefined
from proto.machine import Firmware
from proto.migration import Way
from proto.networks import NAMED_MAX
from services.compute.fleet import HINT_US_MAX, Hint
from services.compute.policy import HEALTH_PCT_MIN, Wishes, vcpus_max
from services.compute.reach import needed, ways
from services.compute.rooms import new_disks
from services.compute.shares import promise_to, share_of
from services.compute.views import Views


@dataclass(frozen=True, slots=True)
class Quest:
    """How a node is looked for. node: only that one; tried: not those; source: the node that the VM is to leave; with_group: all of
    its `together` group is to follow; along: its disks may go with it to pools of the same names; failover,
    moving: as in Wishes."""

    node: str = ""
    tried: tuple[str, ...] = ()
    source: str = ""
    with_group: bool = False
    along: bool = False
    failover: bool = False
    moving: bool = False


ANY = Quest()


def wish(views: Views, vm: VmDefined, now_us: int, quest: Quest = ANY) -> Wishes:
    """What the VM needs of a node, and how long it may last there."""
    allotment = vm.allotment
    life = views.lifetimes.kind(views.owners.get(vm.vm, ""), vm.shape.vcpus, now_us)
    return Wishes(
        vcpus=vm.shape.vcpus,
        memory_mib=vm.shape.memory_mib,
        guaranteed_mib=guaranteed_mib(promise_to(vm)),
        priority=vm.priority,
        pools=_pools(views, vm, quest.along),
        networks=views.networks.needed(vm.nics),
        firmware=(vm.shape.firmware,) if vm.shape.firmware is Firmware.UEFI else (),
        node=quest.node,
        source=quest.source,
        vcpus_per_pcpu=views.rules.ratio_of(vm.priority),
        with_group=quest.with_group,
        cpu_reserved_pct=allotment.cpu_reserved_pct,
        together=allotment.together,
        apart=allotment.apart,
        one_cell=allotment.one_cell,
        lasts=views.fleet.lasts(life.kind),
        failover=quest.failover,
        moving=quest.moving,
        new_disks=new_disks(vm, views.homes.at.get(vm.vm, {}), _ids(views, quest.source) if quest.along else None),
    )


def _pools(views: Views, vm: VmDefined, along: bool) -> tuple[str, ...]:
    """Those of its disks, and of the backups that they stand on."""
    pools = needed(vm.disks, _home(views, vm, along))
    backups = views.homes.backups.get(vm.vm)
    return tuple(sorted({*pools, *backups})) if backups else pools


def _ids(views: Views, node: str) -> dict[str, str]:
    can = views.can(node)
    return can.pool_ids if can is not None else {}


def _home(views: Views, vm: VmDefined, along: bool) -> Iterator[tuple[str, str]]:
    """(pool, word) of what is where already: its disks; before it has any, the images that they are to stand on. What goes along
    stands on nothing, but for the kernel that QEMU starts."""
    if not along and (home := views.homes.at.get(vm.vm)):
        yield from home.items()
        return
    cds = {disk.image for disk in vm.disks if disk.bus.is_cd}
    for name in {vm.boot_image, *cds} if along else {disk.image for disk in vm.disks}:
        if image := views.images.get(name):
            yield image.pool, image.pool_id


def choose(views: Views, vm: str, now_us: int, quest: Quest = ANY) -> Placement | None:
    """A placement for a VM, None where it is not defined."""
    wanted = views.vms.get(vm)
    if wanted is None:
        return None
    views.fleet.renew(views.lifetimes, now_us)
    return views.fleet.place(wish(views, wanted, now_us, quest), quest.tried, views.weights(wanted.priority), now_us, vm)


HEALTHS = (100, HEALTH_PCT_MIN, 1)
"""Where a VM is started by its guard: on a healthy node, else on one that does badly; and rather on one that takes no other VM than
nowhere (0: not to be used at all)."""


def restart(views: Views, command: RestartVm, now_us: int) -> Placement | None:
    quest = Quest(node=command.node, source=command.not_node, failover=command.failover)
    return restarted(views, command.vm, now_us, quest)


def drill(views: Views, command: RestartVm, now_us: int) -> Placement | None:
    """As any first start: nothing is done without for its sake."""
    return choose(views, command.vm, now_us, Quest())


def restarted(views: Views, vm: str, now_us: int, quest: Quest) -> Placement | None:
    """As choose, for a start that its guard asked for: filters that it may do without are taken away one after another while
    nothing passes, and what was taken away is said."""
    wanted = views.vms.get(vm)
    if wanted is None:
        return None
    views.fleet.renew(views.lifetimes, now_us)
    asked = wish(views, wanted, now_us, quest)
    aparts = (asked.apart, "") if asked.apart and views.lost.relax_apart else (asked.apart,)
    choice = Placement(policy="")
    for apart, health in product(aparts, HEALTHS):
        tried = replace(asked, apart=apart, health_min=health)
        choice = views.fleet.place(tried, quest.tried, views.weights(wanted.priority), now_us, vm)
        if choice.candidates:
            gone = (Filter.APART,) * (apart != asked.apart) + (Filter.HEALTH,) * (health < HEALTH_PCT_MIN)
            return replace(choice, relaxed=gone)
    return choice


def choose_move(
    views: Views, vm: str, now_us: int, source: str, node: str = "", with_group: bool = False
) -> tuple[Placement | None, tuple[Way, ...]]:
    """As choose, for a VM that runs on `source`; and how it goes to each candidate. Only where no node that reaches its disks can
    have it do these go along; what is to be copied is then among a candidate's terms (copy_mib), which no weight counts."""
    wanted = views.vms.get(vm)
    if wanted is None:
        return None, ()
    choice = choose(views, vm, now_us, Quest(node, (), source, with_group, moving=True))
    if choice is None or choice.candidates:
        return choice, ways(wanted, source, choice, views.can)
    further = choose(views, vm, now_us, Quest(node, (), source, with_group, along=True, moving=True))
    found = ways(wanted, source, further, views.can)
    if further is None or not further.candidates:
        return further, ()
    cost = {way.node: float(way.copy_mib) for way in found}
    told = (replace(c, terms=c.terms | {"copy_mib": cost[c.node]}) if cost.get(c.node) else c for c in further.candidates)
    return replace(further, candidates=tuple(told)), found


def expect(views: Views, vm: str, choice: Placement | None, now_us: int) -> None:
    """This choice is about to be decided. A VM that has a node already gets no other by it."""
    wanted = views.vms.get(vm)
    if wanted and choice and choice.candidates and vm not in views.starts:
        hint = Hint(choice.candidates[0].node, share_of(wanted), promise_to(wanted), now_us + HINT_US_MAX)
        views.fleet.hinted(vm, hint)


def vcpus_free(views: Views, vm: str, now_us: int) -> int:
    """How many more vCPUs may be promised where it runs; -1: it runs nowhere, or its node has not said what it has."""
    defined, facts = views.vms.get(vm), views.fleet.facts(views.at.get(vm, ""), now_us, vm)
    if defined is None or facts is None or not facts.pcpus:
        return -1
    return max(0, vcpus_max(facts, views.rules.ratio_of(defined.priority)) - facts.vcpus_promised)


def cells_for(views: Views, vm: str) -> tuple[tuple[int, int], ...]:
    """What each cell of its node would hold of a VM that is to lie in one; empty: nothing is to be kept to."""
    defined = views.vms.get(vm)
    if defined is None or not defined.allotment.one_cell:
        return ()
    return views.fleet.cells_for(views.at.get(vm, ""), vm)


def uses(views: Views) -> tuple[NodeUse, ...]:
    """What VMs were promised on each node that said hello."""
    return tuple(
        NodeUse(
            node=name,
            pcpus=view.reported.capabilities.pcpus / max(1, view.reported.capabilities.share),
            vcpus=sum(share.vcpus for share in view.vms.values()),
            classes=tuple(sorted({share.priority for share in view.vms.values()})),
        )
        for name, view in sorted(views.nodes.items())
        if view.reported is not None
    )


def known(views: Views, command: DefineVm) -> ImageFacts:
    """Of the images a definition names: those that are there, and how the first disk's image boots."""
    names = sorted({d.image for d in command.disks if d.image})
    first = views.images.get(command.disks[0].image) if command.disks else None
    boot = first.boot if first else None
    lacking = views.networks.missing(command.nics)
    return ImageFacts(
        missing=tuple(n for n in names if n not in views.images),
        missing_networks=lacking,
        networks=tuple(sorted(views.networks.all))[: NAMED_MAX + 1] if lacking else (),
        sizes_mib={n: views.images[n].info.size_mib for n in names if n in views.images},
        boot=boot,
        boot_image=first.image if first and boot else "",
        isos=tuple(n for n in names if n in views.images and views.images[n].info.is_iso),
        firmware=first.info.suggests.firmware if first and first.info.suggests else None,
    )
