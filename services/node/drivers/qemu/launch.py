"""The birth of a QEMU process: lease, disks, sockets, command line, exec. Blocking; call from a thread.

Order matters: the lease is written and the locks are held before a single file of the VM is touched, and all that could be
refused is refused before the process exists.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path

import msgspec

from proto.machine import Disk, MachineSpec, NicKind
from proto.plan import CLASS_WEIGHT
from services.node.drivers import AT_HAND, CannotStart, Locked, Move
from services.node.drivers.qemu import argv, disks, firmware, keyring, layers, lease, making, origins, seed
from services.node.drivers.qemu.argv import Backing, Place
from services.node.drivers.qemu.folder import Folder, Record
from services.node.drivers.qemu.keyring import Keyring
from services.node.drivers.qemu.node_networks import NodeNetworks
from services.node.drivers.qemu.process import enterable, host_boot_id, spawn, start_ticks, uid_for
from services.node.drivers.qemu.stores import Store
from services.node.drivers.qemu.stores.choosing import store_of
from services.node.drivers.qemu.stores.folder import Maker as Maker
from services.node.drivers.qemu.stores.settings import Remote
from services.node.host import cgroup_memory
from services.node.host.areas import area_of, make_expendable
from services.node.host.cgroup import Groups
from services.node.host.cgroup_tree import Limits
from services.node.host.ovmf import Ovmf

IMAGE_POOL = "default"
CHANNELS = ("monitor", "agent", "serial", "guard")
NOWHERE = "nowhere yet"
"""where a process waits for its guest before it listens"""
OVERHEAD_MIB = 512
"""QEMU's own: about 100 MiB of code, boot files and buffers, and up to argv.TB_MIB of translated code (measured with TCG)."""
THREADS_MAX = 256
"""I/O workers and the like, beside one thread for each vCPU."""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What of this node a birth needs. direct: pools that take O_DIRECT; networks: what NICs may be put into. moves_at: the address
    (of this node) where processes wait for guests, encrypted; none: unix sockets, so that guests come from nodes on this very host
    only. control_plane: its group on this host, whose limits this node sets. ovmf: UEFI firmware, where there is any. appliance:
    the folder of the file reader, where there is one."""

    node: str
    qemu: str
    accelerator: str
    state: Path
    pools: Mapping[str, Path]
    direct: frozenset[str]
    networks: NodeNetworks
    maker: Maker
    groups: Groups
    moves_at: str = ""
    control_plane: Path | None = None
    ovmf: Ovmf | None = None
    remotes: Mapping[str, Remote] = {}
    appliance: Path | None = None

    @property
    def ring(self) -> Keyring:
        """The keys of backups that it has."""
        return Keyring(self.state, self.node)

    def store(self, pool: str) -> Store:
        return store_of(pool, self.pools, self.remotes, self.maker)


def launch(host: Host, spec: MachineSpec, incoming: bool = False, move: Move = AT_HAND) -> Record:
    """The process is there, and has not run an instruction of its guest. incoming: it waits for one that runs elsewhere, whose
    lease, lock and disks are not touched. Raises CannotStart and its children, OSError."""
    uid = uid_for(spec.vm)
    coming = {disk.name for disk in move.disks}
    pools = _pools(host, spec)
    bases = {d.image: disks.base_of(host.pools[d.pool], d.image) for d in spec.disks if d.image and d.pool not in host.remotes}
    uefi = firmware.needed(spec, host.ovmf, host.node)
    with ExitStack() as open_files:
        inherit: list[int] = []
        wanted = lease.Lease(spec.vm, spec.generation, host.node, host_boot_id())
        for pool in pools.values():
            if incoming:
                lease.check(pool, wanted)
                continue
            lease.take(pool, wanted)
            inherit.append(_kept(open_files, lease.hold(pool, spec.vm)))
        if incoming and origins.any_of(spec.disks):
            raise CannotStart(f"{spec.vm} still stands on a backup: it moves once its disks are its own")
        if incoming:
            open_files.push(lambda kind, *_: _drop(host, spec, coming) if kind else None)
        _disks(host, spec, bases, uid, move, incoming=incoming)
        _seeds(host, spec, uid, incoming=incoming)
        if uefi is not None:
            _variables(host, *uefi, uid, incoming=incoming, comes=uefi[1].name in coming)
        taps = _taps(host, spec, inherit, open_files)
        beneath = {d.name: layers.beneath(host.pools, d, bases.get(d.image), host.remotes) for d in spec.disks if d.layers}
        handed = origins.hand(host.pools, beneath, spec.disks, open_files)
        keys = keyring.handed(host.ring, origins.keys(beneath), open_files)
        inherit += [*(one.fd for one in handed), *(fd for _, fd in keys)]
        seen = {name: named(path, uid, inherit, open_files) for name, path in pools.items()}
        folder = Folder(host.state, spec.vm)
        folder.make(uid)
        try:
            sockets = [open_files.enter_context(folder.listen(name)).fileno() for name in CHANNELS]
            place = Place(
                accelerator=host.accelerator,
                pools=seen,
                remotes=host.remotes,
                direct=host.direct,
                bases=bases,
                layers=beneath,
                boot_folder=_boot_folder(host, spec, seen),
                monitor_fd=sockets[0],
                agent_fd=sockets[1],
                serial_fd=sockets[2],
                guard_fd=sockets[3],
                taps=taps,
                handed=handed,
                keys=keys,
                incoming=incoming,
                firmware_code=str(uefi[0].code) if uefi else "",
                firmware_vars=f"{seen[uefi[1].pool]}/disks/{uefi[1].vars}" if uefi else "",
                firmware_direct=uefi is not None and uefi[1].pool in host.direct,
            )
            words = argv.build(host.qemu, spec, place)
            return _born(host, spec, folder, words, uid, [*inherit, *sockets], tuple(pools) if incoming else ())
        except BaseException:
            folder.remove()
            raise


def _born(
    host: Host, spec: MachineSpec, folder: Folder, words: list[str], uid: int | None, inherit: list[int],
    waiting: tuple[str, ...],
) -> Record:  # fmt: skip
    records: list[Record] = []

    def before(pid: int) -> None:
        ticks = start_ticks(pid)
        if ticks is None:
            raise CannotStart(f"QEMU of {spec.vm} could not be started: {folder.tail()}")
        group = host.groups.join(_group(host, spec), pid, _limits(spec), area_of(spec.priority))
        cgroup_memory.set_vm(group, 0, 0)
        make_expendable(pid, spec.priority)
        record = Record(
            vm=spec.vm,
            generation=spec.generation,
            pid=pid,
            start_ticks=ticks,
            boot_id=host_boot_id(),
            cgroup=group,
            incoming=NOWHERE if waiting else "",
            pools=waiting,
            protected=spec.protected,
        )
        folder.save(record)
        records.append(record)

    kvm = Path("/dev/kvm")
    groups = [kvm.stat().st_gid] if host.accelerator == "kvm" and kvm.exists() else []
    try:
        spawn(words, folder=folder.own, log=folder.log, uid=uid, groups=groups, inherit=inherit, before=before)
    except BaseException as error:
        for record in records:
            host.groups.remove(record.cgroup)
        if isinstance(error, BrokenPipeError):
            said = folder.tail() or "its process was ended from outside"
            raise CannotStart(f"QEMU of {spec.vm} could not be started: {said}") from error
        raise
    return records[0]


def _group(host: Host, spec: MachineSpec) -> str:
    """The group's name on this host, where another cluster may have a node and a VM of the same names: its state is elsewhere."""
    return f"{spec.vm}.{hashlib.sha256(str(host.state.resolve()).encode()).hexdigest()[:8]}"


def _limits(spec: MachineSpec) -> Limits:
    """What the VM's processes may use: its share and cap, and no more memory than its definition can ever ask for."""
    return Limits(
        cpu_weight=spec.allotment.cpu_weight or CLASS_WEIGHT[spec.priority],
        pcpus_max=spec.allotment.cpu_cap_pct / 100,
        memory_mib_max=spec.shape.memory_max_mib + OVERHEAD_MIB,
        processes_max=spec.shape.vcpus_max + THREADS_MAX,
    )


def _pools(host: Host, spec: MachineSpec) -> dict[str, Path]:
    """The pools that the VM has to do with, by name; for one without disks, where its image lies. Raises CannotStart."""
    names = sorted({d.pool for d in spec.disks if d.image or d.file})
    missing = [name for name in names if name not in host.pools]
    if missing:
        raise CannotStart(f"{spec.vm} has disks in pool {missing[0]!r}; this node has {', '.join(sorted(host.pools))}")
    if spec.protected and (cached := [name for name in names if name not in host.direct]):
        said = f"the file system of pool {cached[0]!r} has no O_DIRECT: what a killed process wrote could land there later"
        raise CannotStart(f"{spec.vm} may start elsewhere when this node is lost, and {said}")
    if not names:
        names = [IMAGE_POOL if IMAGE_POOL in host.pools else min(host.pools)]
    return {name: host.pools[name] for name in names}


def _boot_folder(host: Host, spec: MachineSpec, seen: Mapping[str, str]) -> str:
    """Where the boot image lies, in QEMU's words. Raises CannotStart."""
    if spec.boot is None:
        return ""
    for name, text in seen.items():
        folder = host.pools[name] / "images" / spec.boot_image
        if all((folder / file).is_file() for file in (spec.boot.kernel, spec.boot.initrd)):
            return f"{text}/images/{spec.boot_image}"
    where = ", ".join(str(host.pools[name]) for name in seen)
    files = f"{spec.boot.kernel} and {spec.boot.initrd}"
    raise CannotStart(f"image {spec.boot_image!r} with {files} is not in {where}; import it first")


def _taps(host: Host, spec: MachineSpec, inherit: list[int], open_files: ExitStack) -> dict[str, tuple[int, ...]]:
    """The queues of each NIC that is in a bridge. Raises CannotStart."""
    bridged = (nic for nic in spec.nics if nic.kind is NicKind.BRIDGE)
    taps = {nic.name: tuple(_kept(open_files, queue) for queue in host.networks.open_tap(nic)) for nic in bridged}
    inherit += [queue for queues in taps.values() for queue in queues]
    return taps


def _find(host: Host, disk: Disk) -> None:
    """A guest brings no disk with it. Raises CannotStart."""
    if not host.store(disk.pool).exists(disk):
        where = f"pool {disk.pool!r} of {host.node}"
        raise CannotStart(f"{disk.file} is not in {where}: a guest moves only between nodes that both reach its disks")


def _disks(
    host: Host, spec: MachineSpec, bases: Mapping[str, Backing], uid: int | None, move: Move, *, incoming: bool
) -> None:
    """Raises DriverError, OSError."""
    coming = {disk.name for disk in move.disks}
    for disk in (disk for disk in spec.disks if not disk.bus.is_cd):
        if disk.name in coming:
            _come(host, disk, bases.get(disk.image), uid, move.pool_ids)
        elif incoming:
            _find(host, disk)
        else:
            (making.ready if disk.layers else making.make)(host, disk, bases.get(disk.image), uid)


def _come(host: Host, disk: Disk, base: Backing | None, uid: int | None, ids: Mapping[str, str]) -> None:
    """An empty disk, for the guest to bring what is on it. Raises CannotStart, Locked."""
    pool = host.pools[disk.pool]
    if disks.id_of(pool) == ids.get(disk.pool):
        raise CannotStart(f"pool {disk.pool!r} of {host.node} is the very one that the disk {disk.name} comes from")
    store = host.store(disk.pool)
    if store.is_open(disk):
        raise Locked(f"{store.place(disk)} is open")
    store.remove(disk)
    making.make(host, disk, base, uid)


def _seeds(host: Host, spec: MachineSpec, uid: int | None, *, incoming: bool) -> None:
    """What cloud-init begins with. Raises CannotStart."""
    for disk in (disk for disk in spec.disks if disk.seed is not None):
        if incoming:
            _find(host, disk)
        else:
            seed.make(host.pools[disk.pool], disk, spec.shape.uuid, uid)


def _variables(host: Host, ovmf: Ovmf, disk: Disk, uid: int | None, *, incoming: bool, comes: bool) -> None:
    """Of a guest that comes from elsewhere they are in its memory: where its disk comes too, any will do. Raises CannotStart."""
    pool = host.pools[disk.pool]
    if incoming and not comes:
        firmware.check(pool / "disks" / disk.vars, ovmf)
    else:
        firmware.make(pool, disk, ovmf, uid, anew=comes, like=origins.variables(host.pools, host.ring, disk))


def _drop(host: Host, spec: MachineSpec, coming: Collection[str]) -> None:
    """What was made for a guest that will not come."""
    for disk in spec.disks:
        if disk.name in coming:
            host.store(disk.pool).remove(disk)
            if disk.vars:
                (host.pools[disk.pool] / "disks" / disk.vars).unlink(missing_ok=True)


def named(path: Path, uid: int | None, inherit: list[int], open_files: ExitStack) -> str:
    """The pool as QEMU is to name it: by its path, or, where its user cannot pass the folders above (a home, a checkout), by an
    inherited handle of the folder itself."""
    if enterable(path, uid):
        return str(path)
    fd = _kept(open_files, os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    inherit.append(fd)
    return f"/proc/self/fd/{fd}"


def seen_by(pool: Path, pid: int, uid: int | None) -> str:
    """The pool as a QEMU that runs may name it: by its path, or by the handle that it inherited; "": not at all."""
    if enterable(pool, uid):
        return str(pool)
    wanted = pool.stat()
    for fd in sorted(Path(f"/proc/{pid}/fd").iterdir()):
        try:
            seen = fd.stat()
        except OSError:
            continue
        if (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino):
            return f"/proc/self/fd/{fd.name}"
    return ""


def _kept(open_files: ExitStack, fd: int) -> int:
    open_files.callback(os.close, fd)
    return fd
