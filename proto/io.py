"""io: the devices of each VM (streams `devices-VM`), the images and the networks of the cluster (images.py, networks.py)."""

from __future__ import annotations

from libs.common.messages import Command, Event, Fact, Name, NodeId, VmId
from proto.backup_files import BackupFilesCommand as BackupFilesCommand
from proto.backup_files import BackupFilesEvent as BackupFilesEvent
from proto.backup_files import BackupFilesRead as BackupFilesRead
from proto.backup_files import BackupReadEnded as BackupReadEnded
from proto.backup_plans import BackupPlan as BackupPlan
from proto.backup_plans import BackupPlanSet as BackupPlanSet
from proto.backup_plans import BackupPutOff as BackupPutOff
from proto.backup_plans import BackupUnchanged as BackupUnchanged
from proto.backup_plans import Chore as Chore
from proto.backup_plans import PlanKnown as PlanKnown
from proto.backup_plans import PlansCommand as PlansCommand
from proto.backup_plans import PlansEvent as PlansEvent
from proto.backup_plans import SetBackupPlan as SetBackupPlan
from proto.backup_plans import TendBackups as TendBackups
from proto.backup_plans import TendKnown as TendKnown
from proto.backups import BackupCancelRequested as BackupCancelRequested
from proto.backups import BackupDamaged as BackupDamaged
from proto.backups import BackupDeleted as BackupDeleted
from proto.backups import BackupDeleteFailed as BackupDeleteFailed
from proto.backups import BackupDeleteRequested as BackupDeleteRequested
from proto.backups import BackupDone as BackupDone
from proto.backups import BackupFailed as BackupFailed
from proto.backups import BackupKind as BackupKind
from proto.backups import BackupKnown as BackupKnown
from proto.backups import BackupRequested as BackupRequested
from proto.backups import BackupsCommand as BackupsCommand
from proto.backups import BackupsEvent as BackupsEvent
from proto.backups import BackupTaken as BackupTaken
from proto.backups import BackupVerified as BackupVerified
from proto.backups import BackupVerifyRequested as BackupVerifyRequested
from proto.backups import CancelBackup as CancelBackup
from proto.backups import Definition as Definition
from proto.backups import DeleteBackup as DeleteBackup
from proto.backups import EndBackup as EndBackup
from proto.backups import ReportBackup as ReportBackup
from proto.backups import ReportBackupRemoved as ReportBackupRemoved
from proto.backups import ReportBackupVerified as ReportBackupVerified
from proto.backups import SavedDisk as SavedDisk
from proto.backups import TakeBackup as TakeBackup
from proto.backups import VerifyBackup as VerifyBackup
from proto.changes import AttachDisk as AttachDisk
from proto.changes import AttachNic as AttachNic
from proto.changes import ChangeCommand as ChangeCommand
from proto.changes import DetachDisk as DetachDisk
from proto.changes import DetachNic as DetachNic
from proto.changes import LimitDisk as LimitDisk
from proto.changes import ReattachDisk as ReattachDisk
from proto.changes import ResizeDisk as ResizeDisk
from proto.changes import SetMedium as SetMedium
from proto.changes import SetNic as SetNic
from proto.devices import Change as Change
from proto.devices import ChangeKind as ChangeKind
from proto.devices import IsoAt as IsoAt
from proto.devices import Known as Known
from proto.devices import VmPhase as VmPhase
from proto.drills import DrillsCommand as DrillsCommand
from proto.drills import DrillsEvent as DrillsEvent
from proto.hardware import Hardware
from proto.images import DeleteImage as DeleteImage
from proto.images import ImageCommand as ImageCommand
from proto.images import ImageDeleted as ImageDeleted
from proto.images import ImageDeleteRequested as ImageDeleteRequested
from proto.images import ImageEvent as ImageEvent
from proto.images import ImageFormat as ImageFormat
from proto.images import ImageImported as ImageImported
from proto.images import ImageImportRequested as ImageImportRequested
from proto.images import ImageInfo as ImageInfo
from proto.images import ImageRejected as ImageRejected
from proto.images import ImportImage as ImportImage
from proto.images import MakeImage as MakeImage
from proto.images import ReportImage as ReportImage
from proto.images import ReportImageRemoved as ReportImageRemoved
from proto.images import Suggestion as Suggestion
from proto.machine import Disk, DiskWish, Nic, NicWish, Taking
from proto.networks import CreateNetwork as CreateNetwork
from proto.networks import DeleteNetwork as DeleteNetwork
from proto.networks import Network
from proto.networks import NetworkChanged as NetworkChanged
from proto.networks import NetworkCommand as NetworkCommand
from proto.networks import NetworkCreated as NetworkCreated
from proto.networks import NetworkDeleted as NetworkDeleted
from proto.networks import NetworkEvent as NetworkEvent
from proto.networks import SetNetwork as SetNetwork
from proto.networks import Wiring as Wiring
from proto.pools import PoolRoom
from proto.recovery import DisksHome as DisksHome
from proto.recovery import DisksNotRecovered as DisksNotRecovered
from proto.recovery import DisksRecovered as DisksRecovered
from proto.recovery import EndKind as EndKind
from proto.recovery import EndRecovery as EndRecovery
from proto.recovery import RecoverDisks as RecoverDisks
from proto.recovery import RecoveredDisk as RecoveredDisk
from proto.recovery import RecoveredEvent as RecoveredEvent
from proto.recovery import RecoverKnown as RecoverKnown
from proto.recovery import RecoverVm as RecoverVm
from proto.recovery import RecoveryAtRisk as RecoveryAtRisk
from proto.recovery import RecoveryCommand as RecoveryCommand
from proto.recovery import RecoveryEnded as RecoveryEnded
from proto.recovery import RecoveryEvent as RecoveryEvent
from proto.recovery import RecoveryNoted as RecoveryNoted
from proto.recovery import RecoveryRequested as RecoveryRequested
from proto.refusals import Refusal as Refusal
from proto.snapshots import SnapshotCommand as SnapshotCommand
from proto.snapshots import SnapshotDeleted as SnapshotDeleted
from proto.snapshots import SnapshotDeleteRequested as SnapshotDeleteRequested
from proto.snapshots import SnapshotEvent as SnapshotEvent
from proto.snapshots import SnapshotFailed as SnapshotFailed
from proto.snapshots import SnapshotFound as SnapshotFound
from proto.snapshots import SnapshotRequested as SnapshotRequested
from proto.snapshots import SnapshotReverted as SnapshotReverted
from proto.snapshots import SnapshotTaken as SnapshotTaken
from proto.snapshots import SnapshotWish as SnapshotWish

# --- devices -----------------------------------------------------------------------------------------------------------


class GrantDevices(Command):
    """A start of this generation on this node wants the VM's devices. The first grant makes them (names, serials, MACs,
    PCI slots: derived from the VM's uuid-like `vm` name and index, never by chance); later ones return the same. running: it was
    found running under that generation after a restore, with has_disks and has_nics where these are known. copied: pools that are
    not those of the node it comes from: its disks in them go along, under new file names. sizes_mib: of images, image_ids:
    of the pools that they are in; pool_ids: of the node's pools (Disk.pool_id). uefi: the VM has such firmware. networks: those
    that its NICs name, as they are now; others: names of networks there are, where one is missing. rooms: those pools, where they
    are known. unsound: what is wrong with a backup on which one of its disks is to stand with which no guest has run."""

    vm: Name
    node: NodeId
    generation: int
    disks: tuple[DiskWish, ...] = ()
    nics: tuple[NicWish, ...] = ()
    sizes_mib: dict[str, int] = {}
    running: bool = False
    has_disks: tuple[Disk, ...] = ()
    has_nics: tuple[Nic, ...] = ()
    copied: tuple[str, ...] = ()
    pool_ids: dict[str, str] = {}
    image_ids: dict[str, str] = {}
    uefi: bool = False
    networks: tuple[Network, ...] = ()
    others: tuple[str, ...] = ()
    rooms: tuple[PoolRoom, ...] = ()
    unsound: str = ""


class RevokeDevices(Command):
    """That generation, and all before it, writes no more."""

    vm: Name
    generation: int


class ReturnDevices(Command):
    """A migration came to nothing: what was granted to `generation` is the source's again."""

    vm: Name
    generation: int
    source: NodeId
    source_generation: int


class SettleDisks(Command):
    """A guest of that generation runs with them, or has come with them: from now on they are its own."""

    vm: Name
    generation: int


class RemoveDevices(Command):
    """The VM was deleted: its disks are to be removed by the agent of `node`. gone: a node that is none of the cluster any more:
    what it was to remove is another's, or, where none reaches it, over."""

    vm: Name
    node: str = ""
    gone: str = ""


class ReportDisksRemoved(Fact):
    """order_incarnation: of the order that was done; one of a lost timeline counts for nothing (so in all reports here)."""

    vm: Name
    order_version: int
    order_incarnation: int = 1
    incarnation: int = 1


class NoteHardware(Command):
    """What an agent saw that a running VM has."""

    vm: Name
    generation: int
    hardware: Hardware


class DevicesChanged(Event):
    """The whole set as it is wanted from now on. generation: of the process that is to follow; 0: there is none, and the change
    is done. leaving: slots that the guest is still to let go of."""

    vm: VmId
    node: NodeId
    generation: int
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    leaving: tuple[int, ...]
    change: Change
    taking: Taking | None = None


class DeviceAttached(Event):
    """Seen in its slot; with a sentence: the VM ended before, and has it at its next start."""

    vm: VmId
    generation: int
    name: str
    slot: int
    sentence: str = ""


class DeviceDetached(Event):
    """Its slot was seen empty, or the process ended. file: where one is left, or is to be removed (delete)."""

    vm: VmId
    generation: int
    name: str
    slot: int
    file: str = ""
    delete: bool = False


class DiskResized(Event):
    vm: VmId
    generation: int
    name: str
    size_mib: int


class MediumChanged(Event):
    """Seen in the drive (image ""; it is seen empty); with a sentence: the VM ended before, and has it at its next start."""

    vm: VmId
    generation: int
    name: str
    slot: int
    image: str = ""
    sentence: str = ""


class DeviceMisfit(Event):
    """What is wanted of a device could not be had. pending: the guest was asked and may still do it."""

    vm: VmId
    generation: int
    name: str
    slot: int
    sentence: str
    pending: bool = False


class DiskFilesRemoved(Event):
    """Of detached disks; the VM has others."""

    vm: VmId
    files: tuple[str, ...]


class DevicesGranted(Event):
    """spare: how many PCI ports beside theirs a process that is started with them has."""

    vm: VmId
    node: NodeId
    generation: int
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    spare: int = 4


class DevicesDenied(Event):
    vm: VmId
    node: NodeId
    generation: int
    sentence: str


class DevicesRevoked(Event):
    vm: VmId
    generation: int


class DevicesReturned(Event):
    """node and holder: who writes again, on `disks`; generation: the one that does not."""

    vm: VmId
    node: NodeId
    generation: int
    holder: int
    disks: tuple[Disk, ...] = ()


class DisksRemovalRequested(Event):
    vm: VmId
    node: NodeId
    disks: tuple[Disk, ...]


class DisksSettled(Event):
    """No start makes them anew from now on. left: files on `source` that a guest which came from there has no use for any more; the
    agent of that node is to remove them."""

    vm: VmId
    generation: int
    source: str = ""
    left: tuple[Disk, ...] = ()


class DevicesRemoved(Event):
    vm: VmId


DevicesCommand = (
    GrantDevices
    | RevokeDevices
    | ReturnDevices
    | RemoveDevices
    | SettleDisks
    | ReportDisksRemoved
    | AttachDisk
    | ReattachDisk
    | DetachDisk
    | ResizeDisk
    | LimitDisk
    | SetMedium
    | AttachNic
    | DetachNic
    | SetNic
    | NoteHardware
    | SnapshotWish
    | RecoverDisks
)
DevicesEvent = (
    DevicesGranted
    | DevicesDenied
    | DevicesRevoked
    | DevicesReturned
    | DisksRemovalRequested
    | DevicesRemoved
    | DevicesChanged
    | DeviceAttached
    | DeviceDetached
    | DiskResized
    | DeviceMisfit
    | MediumChanged
    | DiskFilesRemoved
    | DisksSettled
    | SnapshotEvent
    | RecoveredEvent
)
