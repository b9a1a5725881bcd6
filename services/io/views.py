"""What io knows of others when it decides: nodes with their pools, images and networks, and whose disks and NICs stand on what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from libs.common.host import hearing
from libs.common.messages import Recorded
from proto.compute import NodeJoined, NodeRemoved, NodeReported, VmDefined, VmDeleted
from proto.growth import VmReshaped
from proto.guard import GuardSet, Mode, held_fast, reaching
from proto.images import MakeImage, TemplateKnown
from proto.io import (
    AttachDisk,
    AttachNic,
    ChangeCommand,
    ChangeKind,
    CreateNetwork,
    DeleteImage,
    DeleteNetwork,
    DetachDisk,
    DetachNic,
    DeviceAttached,
    DevicesChanged,
    DevicesGranted,
    DevicesRemoved,
    DevicesReturned,
    DisksSettled,
    GrantDevices,
    ImageDeleteRequested,
    ImageImported,
    ImportImage,
    IsoAt,
    Known,
    LimitDisk,
    MediumChanged,
    NetworkChanged,
    NetworkCreated,
    NetworkDeleted,
    ReattachDisk,
    RecoverDisks,
    RemoveDevices,
    ReportImage,
    ResizeDisk,
    SetMedium,
    SetNetwork,
    SetNic,
    SnapshotCommand,
    SnapshotTaken,
    VmPhase,
)
from proto.machine import CDS, DirectBoot, Disk, DiskWish, Firmware, Nic, NicWish
from proto.networks import NAMED_MAX, USER, Network, network_of
from proto.pools import PoolRoom, PoolSet, SetPool
from proto.snapshots import DeleteSnapshot, RevertSnapshot, TakeSnapshot
from services.io import networks as own_networks
from services.io import reach, recoveries
from services.io.backups import enriching as backups
from services.io.backups import soundness, watch_views
from services.io.backups.agent_views import AgentViews
from services.io.backups.drill_views import DrillViews
from services.io.backups.plan_views import PlanViews
from services.io.backups.views import BackupViews
from services.io.phases import PHASES
from services.io.pools import PoolViews, one_for_all
from services.io.recoveries import RecoveryViews
from services.io.taken import TakenViews
from services.io.waves import knowing as waves
from services.io.waves.views import WaveViews


@dataclass(slots=True)
class NodeView:
    NOT_OF_LOG: ClassVar = frozenset({"heard_us"})

    pools: tuple[str, ...] = ()
    pool_ids: dict[str, str] = field(default_factory=dict)
    heard_us: int = 0
    keys: tuple[str, ...] = ()
    """of backups, that it has"""
    spoken: int = 1
    """the latest incarnation of the log in which it told all that it runs, or joined"""


@dataclass(slots=True)
class VmView:
    """boot, boot_image: as it was defined."""

    phase: VmPhase = VmPhase.STOPPED
    disks: tuple[DiskWish, ...] = ()
    nics: tuple[NicWish, ...] = ()
    uefi: bool = False
    vcpus_max: int = 0
    boot: DirectBoot | None = None
    boot_image: str = ""


class Held(msgspec.Struct, gc=False):
    """node: the last that had them; empty: none yet."""

    node: str
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...] = ()


@dataclass(slots=True)
class Views:
    """disks: VM -> what it has, until its disks are seen removed."""

    nodes: dict[str, NodeView] = field(default_factory=dict)
    images: dict[str, ImageImported] = field(default_factory=dict)
    disks: dict[str, Held] = field(default_factory=dict)
    vms: dict[str, VmView] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)
    pools: PoolViews = field(default_factory=PoolViews)
    snapshots: TakenViews = field(default_factory=TakenViews)
    backups: BackupViews = field(default_factory=BackupViews)
    plans: PlanViews = field(default_factory=PlanViews)
    lying: dict[str, dict[str, str]] = field(default_factory=dict)
    """VM -> CD drive -> the ISO that was to come out of it, and has not been seen out"""
    left: dict[str, dict[str, str]] = field(default_factory=dict)
    """VM -> file of a disk that was detached and left -> the image that it stands on"""
    movers: set[str] = field(default_factory=set)
    """VMs whose guard promises to start them elsewhere"""
    recoveries: RecoveryViews = field(default_factory=RecoveryViews)
    drills: DrillViews = field(default_factory=DrillViews)
    waves: WaveViews = field(default_factory=WaveViews)
    watches: watch_views.WatchViews = field(default_factory=watch_views.WatchViews)
    agents: AgentViews = field(default_factory=AgentViews)

    def apply(self, recorded: Recorded, event: Any) -> None:
        hearing.tell(self, recorded, event)

    def _rare(self, recorded: Recorded, event: Any) -> None:
        match event:
            case NodeJoined():
                self.nodes.setdefault(event.node, NodeView(spoken=event.incarnation))
            case NodeReported():
                node = self.nodes.setdefault(event.node, NodeView())
                node.pools, node.pool_ids = event.capabilities.pools, event.capabilities.pool_ids
                node.keys, node.spoken = event.capabilities.backup_keys, event.incarnation
            case NodeRemoved():
                self.nodes.pop(event.node, None)
                self.pools.seen.pop(event.node, None)
            case GuardSet():
                (self.movers.add if event.guard.mode is Mode.RESTART else self.movers.discard)(event.vm)
            case PoolSet():
                self.pools.rules[event.pool] = event.rules
            case ImageImported():
                self.images[event.image] = event
            case ImageDeleteRequested():
                self.images.pop(event.image, None)
            case MediumChanged():
                self.lying.get(event.vm, {}).pop(event.name, None)
            case DevicesReturned():
                held = self.disks.get(event.vm)
                self.disks[event.vm] = Held(event.node, event.disks, held.nics if held else ())
                self.pools.has(event.vm, event.disks)
            case NetworkCreated() | NetworkChanged():
                self.networks[event.network] = network_of(event)
            case NetworkDeleted():
                self.networks.pop(event.network, None)
            case VmReshaped() if event.vm in self.vms:
                self.vms[event.vm].vcpus_max = event.shape.vcpus_max
            case VmDeleted():
                self.vms.pop(event.vm, None)
                self.left.pop(event.vm, None)
                self.movers.discard(event.vm)
            case DevicesRemoved():
                self.disks.pop(event.vm, None)
                self.pools.has(event.vm, ())
                self.lying.pop(event.vm, None)

    def _defined(self, recorded: Recorded, event: VmDefined) -> None:
        shape = event.shape
        self.vms[event.vm] = VmView(
            disks=event.disks, nics=event.nics, uefi=shape.firmware is Firmware.UEFI, vcpus_max=shape.vcpus_max,
            boot=event.boot, boot_image=event.boot_image,
        )  # fmt: skip

    def _granted(self, recorded: Recorded, event: DevicesGranted | DevicesChanged) -> None:
        if type(event) is DevicesChanged or event.vm in self.lying:
            self._keep_lying(event)
        if type(event) is DevicesChanged or event.vm in self.left:
            self._keep_left(event)
        self.disks[event.vm] = Held(event.node, event.disks, event.nics)
        self.pools.has(event.vm, event.disks)

    def _phase(self, recorded: Recorded, event: Any) -> None:
        if (vm := self.vms.get(event.vm)) is not None:
            vm.phase = PHASES[type(event)]

    def _ran_with(self, recorded: Recorded, event: DisksSettled | SnapshotTaken | DeviceAttached) -> None:
        """A guest has run with its disks, or with that in a slot: their files are there. As the devices' own state has it."""
        kind, slot, seen = type(event), None, True
        if kind is SnapshotTaken:
            if not event.generation:
                return
            seen = not event.unseen  # type: ignore[union-attr]
        elif kind is DeviceAttached:
            if event.sentence:  # type: ignore[union-attr]
                return
            slot = event.slot  # type: ignore[union-attr]
        if (held := self.disks.get(event.vm)) is not None:
            held.disks = tuple(
                [d if d.bus in CDS or slot not in (None, d.slot) else replace(d, made=seen) for d in held.disks]
            )

    HEARS: ClassVar[hearing.Heard] = {
        **dict.fromkeys((NodeJoined, NodeReported, NodeRemoved, GuardSet, PoolSet, ImageImported, ImageDeleteRequested), _rare),
        **dict.fromkeys((MediumChanged, DevicesReturned, NetworkCreated, NetworkChanged, NetworkDeleted), _rare),
        **dict.fromkeys((VmReshaped, VmDeleted, DevicesRemoved), _rare),
        VmDefined: _defined,
        **dict.fromkeys((DevicesGranted, DevicesChanged), _granted),
        **dict.fromkeys((DisksSettled, SnapshotTaken, DeviceAttached), _ran_with),
        **dict.fromkeys(PHASES, _phase),
    }
    PARTS: ClassVar[tuple[str, ...]] = ("snapshots", "backups", "plans", "recoveries", "drills", "waves", "watches", "agents")

    def used_by(self, image: str) -> tuple[str, ...]:
        wanted = {vm for vm, d in self.disks.items() if any(disk.image == image for disk in d.disks)}
        beside = (*self.lying.items(), *self.left.items())
        wanted |= {vm for vm, images in self.recoveries.former.items() if image in images}
        return tuple(sorted(wanted.union(vm for vm, images in beside if image in images.values())))

    def unheard(self, incarnation: int) -> tuple[str, ...]:
        """Nodes that have not told what they run since the log began this incarnation, by name."""
        return tuple(sorted(name for name, node in self.nodes.items() if node.spoken < incarnation))

    def _keep_left(self, event: DevicesGranted | DevicesChanged) -> None:
        """A disk that was left still stands on its image."""
        left = self.left.setdefault(event.vm, {})
        change = event.change if isinstance(event, DevicesChanged) else None
        if change and change.kind in (ChangeKind.DETACH_DISK, ChangeKind.UNDO) and not change.delete:
            held = self.disks.get(event.vm)
            gone = next((d for d in held.disks if d.name == change.name), None) if held else None
            if gone and gone.image:
                left[gone.file] = gone.image
        for disk in event.disks:
            left.pop(disk.file, None)
        if not left:
            del self.left[event.vm]

    def _keep_lying(self, event: DevicesGranted | DevicesChanged) -> None:
        """A running guest may hold its drive: what is to come out lies in it until it was seen out."""
        if not isinstance(event, DevicesChanged) or not event.generation:
            self.lying.pop(event.vm, None)
        elif event.change.kind is ChangeKind.SET_MEDIUM and (held := self.disks.get(event.vm)):
            image = next((d.image for d in held.disks if d.name == event.change.name), "")
            if image:
                self.lying.setdefault(event.vm, {}).setdefault(event.change.name, image)

    def in_network(self, network: str) -> tuple[str, ...]:
        """VMs with a NIC in it: as they have them, or, before they have any, as they are defined."""
        found = {vm for vm, held in self.disks.items() if any(nic.network == network for nic in held.nics)}
        wish = ((vm, view.nics) for vm, view in self.vms.items() if vm not in self.disks)
        return tuple(sorted(found.union(vm for vm, nics in wish if any(nic.network == network for nic in nics))))

    def alike(self, wish: Network) -> tuple[str, ...]:
        """Other networks on the same bridge with the same VLAN."""
        all = self.networks.values()
        return tuple(sorted(n.name for n in all if n.name != wish.name and (n.bridge, n.vlan) == (wish.bridge, wish.vlan)))

    def named(self, nics: Iterable[str]) -> tuple[tuple[Network, ...], tuple[str, ...]]:
        """The networks of these names, and, where one is missing, the names of some that there are."""
        wanted = sorted(set(nics) - {USER})
        found = tuple(self.networks[name] for name in wanted if name in self.networks)
        return found, () if len(found) == len(wanted) else tuple(sorted(self.networks))[: NAMED_MAX + 1]

    def fast(self, vm: str) -> dict[str, str]:
        """As Known has it."""
        if vm not in self.movers:
            return {}
        counts = reaching(node.pool_ids for node in self.nodes.values())
        every = ((pool, word) for pool, words in counts.items() for word in ("", *words))
        said = {f"{pool}@{word}" if word else pool: held_fast(pool, word, counts) for pool, word in every}
        return {pool: why for pool, why in sorted(said.items()) if why}

    def node_with(self, pools: Mapping[str, str], now_us: int, wanted: str = "") -> str:
        """A node that reaches these pools (name -> Disk.pool_id): the wanted one while it is a member, else one that was heard
        lately, else any; by name. Empty where there is none."""
        return wanted if wanted in self.nodes else reach.chosen(reach.reaching(self.nodes, pools), self.nodes, now_us)


def enrich(command: Any, views: Views, now_us: int) -> Any:
    """Overwrites what only io's own views may say, whoever sent the command."""
    match command:
        case GrantDevices():
            wished = {d.image for d in command.disks if d.image}
            sizes_mib = {i: views.images[i].info.size_mib for i in sorted(wished) if i in views.images}
            there = views.nodes.get(command.node)
            images = {disk.image for disk in views.disks[command.vm].disks} if command.vm in views.disks else wished
            image_ids = {i: views.images[i].pool_id for i in sorted(images) if i in views.images}
            vm, held = views.vms.get(command.vm), views.disks.get(command.vm)
            wanted = [nic.network for nic in command.nics] + [nic.network for nic in (held.nics if held else ())]
            networks, others = views.named(wanted)
            disks = held.disks if held else command.disks
            return replace(
                command, sizes_mib=sizes_mib, pool_ids=there.pool_ids if there else {}, image_ids=image_ids,
                uefi=vm is not None and vm.uefi, networks=networks, others=others,
                rooms=views.pools.rooms(command.node, (d.pool for d in disks), now_us),
                unsound=soundness.of_disks(held.disks, views.waves) if held else "",
            )  # fmt: skip
        case SetPool():
            return replace(command, known=tuple(sorted({pool for node in views.nodes.values() for pool in node.pools})))
        case ReportImage():
            there = views.nodes.get(command.node)
            return replace(command, pool_ids=there.pool_ids if there else {})
        case (
            AttachDisk() | ReattachDisk() | DetachDisk() | ResizeDisk() | LimitDisk() | SetMedium()
            | AttachNic() | DetachNic() | SetNic() | TakeSnapshot() | DeleteSnapshot() | RevertSnapshot() | RecoverDisks()
        ):  # fmt: skip
            return replace(command, known=_known(command, views, now_us))
        case CreateNetwork():
            wish = Network(name=command.network, bridge=command.bridge, vlan=command.vlan)
            return replace(command, others=views.alike(wish))
        case SetNetwork():
            network = views.networks.get(command.network)
            return replace(command, others=views.alike(own_networks.changed(network, command)) if network else ())
        case DeleteNetwork():
            return replace(command, used_by=views.in_network(command.network))
        case RemoveDevices():
            grant = views.disks.get(command.vm)
            if grant is None or not grant.disks:
                return command
            pools = {d.pool: d.pool_id for d in grant.disks if not d.bus.is_cd}
            return replace(command, node=views.node_with(pools, now_us, grant.node))
        case ImportImage(node=""):
            return replace(command, node=views.node_with({command.pool: ""}, now_us))
        case MakeImage():
            return replace(command, known=_template(command.vm, views, now_us))
        case DeleteImage():
            image = views.images.get(command.image)
            node = views.node_with({image.pool: ""}, now_us) if image else ""
            return replace(command, used_by=views.used_by(command.image), node=node)
        case _:
            return waves.enrich(backups.enrich(command, views, now_us), views, now_us)


def _template(name: str, views: Views, now_us: int) -> TemplateKnown:
    vm, held = views.vms.get(name), views.disks.get(name)
    if vm is None:
        return TemplateKnown()
    disks = tuple(disk for disk in (held.disks if held else ()) if not disk.bus.is_cd)
    nodes = {d.name: views.node_with({d.pool: d.pool_id}, now_us, held.node if held else "") for d in disks}
    return TemplateKnown(
        defined=True, running=vm.phase is not VmPhase.STOPPED, disks=disks, nodes=nodes,
        kinds={d.name: views.pools.room(nodes[d.name], d.pool, now_us).kind for d in disks if nodes[d.name]},
        snapshots=views.snapshots.taken.get(name, {}), boot=vm.boot, boot_image=vm.boot_image,
    )  # fmt: skip


def _known(command: ChangeCommand | SnapshotCommand | RecoverDisks, views: Views, now_us: int) -> Known:
    vm = views.vms.get(command.vm)
    if vm is None:
        return Known()
    wishes = (*vm.disks, *((command.disk,) if isinstance(command, AttachDisk) else ()))
    if isinstance(command, RecoverDisks):
        wishes = command.definition.disks
    names = sorted({w.image for w in wishes}.union({command.image} if isinstance(command, SetMedium) else ()))
    images = {i: views.images[i] for i in names if i in views.images}
    sizes_mib = {i: image.info.size_mib for i, image in images.items()}
    held = views.disks.get(command.vm)
    on = views.nodes.get(held.node) if held else None
    nics = command.definition.nics if isinstance(command, RecoverDisks) else vm.nics
    asked = command.network if isinstance(command, AttachNic | SetNic) and command.network else USER
    networks, others = views.named([asked, *(nic.network for nic in nics)])
    return Known(
        phase=vm.phase, disks=vm.disks, nics=vm.nics, sizes_mib=sizes_mib, pool_ids=on.pool_ids if on else {}, uefi=vm.uefi,
        networks=networks, others=others, vcpus_max=vm.vcpus_max, rooms=_rooms(command, views, held, now_us),
        isos={i: IsoAt(pool=at.pool, pool_id=at.pool_id) for i, at in images.items() if at.info.is_iso},
        fast=views.fast(command.vm) if isinstance(command, AttachDisk | ReattachDisk) else {},
        unsound=soundness.of_recovered(command.disks, views.waves) if isinstance(command, RecoverDisks) else "",
    )  # fmt: skip


def _rooms(
    command: ChangeCommand | SnapshotCommand | RecoverDisks, views: Views, held: Held | None, now_us: int
) -> tuple[PoolRoom, ...]:
    """Of the pool that is to hold more. A VM that was on no node yet may come to any: then only one that all share is known."""
    if isinstance(command, AttachDisk):
        pool = command.disk.pool
    elif isinstance(command, ResizeDisk):
        pool = next((d.pool for d in held.disks if d.name == command.name), "") if held else ""
    elif isinstance(command, RecoverDisks):
        return recoveries.rooms(command, held.disks if held else (), views, now_us)
    elif isinstance(command, TakeSnapshot) and held and held.node:
        return views.pools.rooms(held.node, [disk.pool for disk in held.disks], now_us)
    else:
        return ()
    node = held.node if held and held.node else one_for_all({name: n.pool_ids for name, n in views.nodes.items()}, pool)
    return views.pools.rooms(node, [pool], now_us) if pool and node else ()
