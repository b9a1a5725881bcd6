"""What must hold of backups, and of what is recovered from them. The pools are looked at as they are, whatever the log says.

    B1  a recovered disk holds what its backup does, and all that its guest has written since
    B2  no backup's content ever changes, however it is written anew
    B3  no backup that is held is deleted, nor one on which a held one stands; none disappears on which a process's disk stands
    B4  what is said to be home stands on no backup
    B5  no recovery begins from what is known to be damaged, or is not there
    B6  (settled) every recovery has ended, but those of VMs that do not run: these are held, and no others; nothing is being done
        with a backup any more, and nothing is left of one that came to nothing
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from proto.backups import BackupDamaged, BackupDeleted, BackupDeleteRequested, BackupRequested, BackupTaken
from proto.devices import ChangeKind
from proto.hardware import standing
from proto.io import DevicesChanged, RecoveryEnded, RecoveryRequested
from proto.machine import Disk
from services.compute.states import Running
from services.io.backups.states import Backups
from services.io.states import Made
from services.node.drivers.simbackups import SimBackup
from services.node.drivers.simhome import BACKUP
from services.node.drivers.simpool import SimPool
from services.node.drivers.simvm import SimVm

if TYPE_CHECKING:
    from libs.world.world import World

type Where = tuple[str, str]
"""pool, and a key there: of a disk's file, or of a backup"""


class BackupChecks:
    def __init__(self, world: World) -> None:
        self.world = world
        self.seen: dict[Where, SimBackup] = {}
        """as each was when last looked at"""
        self.content: dict[Where, dict[str, str]] = {}
        """of each backup that ever was there, by file"""
        self.holds_now: dict[Where, str] = {}
        """what is to be on each recovered disk"""
        self.restored()

    def restored(self) -> None:
        """What the log says is read again."""
        self.parents: dict[str, dict[str, str]] = {}
        """VM -> backup -> what it stands on"""
        self.asked: dict[str, str] = {}
        """the last that was asked for, by VM"""
        self.damaged: dict[str, set[str]] = {}
        self.held: dict[str, dict[str, RecoveryRequested]] = {}

    def _fail(self, what: str) -> None:
        self.world.checker.fail(what)

    # --- at every step: the pools ---------------------------------------------------------------------------------------

    def look(self) -> None:
        for pool in self._pools():
            if pool.backups or self.seen:
                self._contents(pool)
                self._disks(pool)

    def _pools(self) -> Iterator[SimPool]:
        return iter({pool.id: pool for pool in self.world.pools.values()}.values())

    def _contents(self, pool: SimPool) -> None:
        for key, made in pool.backups.items():
            if self.seen.get((pool.id, key)) is made:
                continue
            self.seen[pool.id, key] = made
            holds = {disk.file: made.on[disk.disk] for disk in made.done.disks}
            if self.content.setdefault((pool.id, key), holds) != holds:
                self._fail(f"B2: the backup {key} held {self.content[pool.id, key]}, and holds {holds}")
        for key in [key for id, key in self.seen if id == pool.id and key not in pool.backups]:
            del self.seen[pool.id, key]
            _, vm, backup = key.split("/")
            if hold := self._holder(vm, backup):
                self._fail(f"B3: the backup {key} has gone, and {hold.recovery} of {hold.target} holds it")

    def _disks(self, pool: SimPool) -> None:
        for vm in self._processes(pool):
            for disk in (disk for disk in vm.spec.disks if not disk.bus.is_cd):
                key, on = pool.keys(disk)[0], pool.disks.get(f"disk {disk.pool}/{disk.file}")
                if on is None:
                    continue
                self._stands(pool, vm, disk)
                wanted = self.holds_now.get((pool.id, key))
                if wanted is not None and on != wanted:
                    self._fail(f"B1: {disk.file} of {vm.spec.vm} is to hold {wanted}, and holds {on}")
        for where in [where for where in self.holds_now if where[0] == pool.id and where[1] not in pool.disks]:
            del self.holds_now[where]

    def _processes(self, pool: SimPool) -> Iterator[SimVm]:
        """Whose guests may write."""
        for node in self.world.agents.values():
            if node.host.pool is pool:
                yield from (vm for vm in node.host.vms.values() if vm.status not in ("incoming", "sent"))

    def _stands(self, pool: SimPool, vm: SimVm, disk: Disk) -> None:
        """On what is there; and what it is to hold is known from now on."""
        keys = pool.keys(disk)
        for key in (key.removeprefix(BACKUP) for key in keys if key.startswith(BACKUP)):
            backup, _, file = key.rpartition("/")
            if (pool.id, backup) not in self.seen:
                self._fail(f"B3: {disk.file} of {vm.spec.vm} stands on the backup {backup}, which is not there")
            self.holds_now.setdefault((pool.id, keys[0]), self.content[pool.id, backup][file])

    def wrote(self, pool: SimPool, key: str, what: str) -> None:
        """A guest's write was acknowledged; what: all that is on the disk by it."""
        if (pool.id, key) in self.holds_now:
            self.holds_now[pool.id, key] += what

    # --- the log --------------------------------------------------------------------------------------------------------

    def record(self, event: Any, *, new: bool) -> None:
        """new: the pools are as they are when it is seen."""
        match event:
            case BackupRequested():
                self.asked[event.vm] = event.backup
            case BackupTaken():
                self.parents.setdefault(event.vm, {})[event.backup] = event.done.parent
            case BackupDeleteRequested(vm=vm, backup=backup):
                if hold := self._holder(vm, backup):
                    self._fail(f"B3: {backup} of {vm} is to be deleted, and {hold.recovery} of {hold.target} holds it")
            case BackupDeleted():
                self._deleted(event)
            case BackupDamaged(vm=vm, found=found):
                self.damaged.setdefault(vm, set()).update(found)
            case RecoveryRequested():
                self._begun(event)
            case RecoveryEnded():
                self.held.get(event.vm, {}).pop(event.recovery, None)
            case DevicesChanged() if new and event.change.kind is ChangeKind.HOME:
                self._home(event)

    def _deleted(self, event: BackupDeleted) -> None:
        parents = self.parents.get(event.vm, {})
        below = parents.pop(event.backup, "")
        self.damaged.get(event.vm, set()).discard(event.backup)
        for heir in [heir for heir, parent in parents.items() if parent == event.backup]:
            parents[heir] = below

    def _chain(self, vm: str, backup: str) -> Iterator[str]:
        parents = self.parents.get(vm, {})
        while backup in parents:
            yield backup
            backup = parents[backup]

    def _begun(self, event: RecoveryRequested) -> None:
        chain = tuple(self._chain(event.vm, event.backup))
        if not chain:
            self._fail(f"B5: {event.recovery} of {event.target} begins from {event.backup} of {event.vm}, which is not there")
        if bad := self.damaged.get(event.vm, set()) & set(chain):
            self._fail(f"B5: {event.recovery} of {event.target} begins from {event.backup}, and {min(bad)} is known to be damaged")
        self.held.setdefault(event.vm, {})[event.recovery] = event

    def _holder(self, vm: str, backup: str) -> RecoveryRequested | None:
        holds = self.held.get(vm, {}).values()
        return next((hold for hold in holds if backup in self._chain(vm, hold.backup)), None)

    def _home(self, event: DevicesChanged) -> None:
        for pool in self._pools():
            for disk in event.disks:
                if on := [key for key in pool.keys(disk) if key.startswith(BACKUP)]:
                    self._fail(f"B4: {disk.file} of {event.vm} is said to be home, and stands on {on[0]}")

    # --- at the end -----------------------------------------------------------------------------------------------------

    def settled(self) -> None:
        slots = self._states("io")
        backups = {name: state for name, state in slots.items() if isinstance(state, Backups)}
        if busy := {name: state.doing or state.left for name, state in backups.items() if state.doing or state.left}:
            self._fail(f"B6: it is not done with {busy}")
        devices = {name.removeprefix("devices-"): state for name, state in slots.items() if isinstance(state, Made)}
        stands = {vm for vm, made in devices.items() if any(map(standing, made.disks))}
        vms = self._states("compute")
        away = {vm for vm in stands if isinstance(now := vms.get(f"vm-{vm}"), Running) and not now.pause_wanted}
        if away:
            self._fail(f"B6: {sorted(away)} run, and are not home")
        holds = {hold.target for state in backups.values() for hold in state.holds}
        if holds - stands or (self.world.incarnation == 1 and holds != stands):
            self._fail(f"B6: backups are held for {sorted(holds)}, and {sorted(stands)} stand on some")

    def _states(self, service: str) -> dict[str, Any]:
        host = self.world.services[service].host
        assert host is not None
        return dict(host.states())
