"""All that the API shows, at one position of the log. Pure: one event after the other changes it, and nothing else does."""

from __future__ import annotations

from dataclasses import dataclass, field

from libs.common.messages import Recorded
from libs.common.registry import Registry, UnknownType, members
from proto.backup_files import BackupFilesEvent
from proto.balance import BalanceEvent
from proto.cluster import ClusterEvent
from proto.compute import NodeEvent, VmEvent
from proto.drain import DrainEvent
from proto.fence import FenceEvent
from proto.guard import GuardEvent
from proto.io import BackupsEvent, DevicesEvent, DrillsEvent, ImageEvent, NetworkEvent, PlansEvent, RecoveryEvent
from proto.lease import HaEvent, LeaseEvent
from proto.mapping import MapEvent
from proto.memory import LedgerEvent
from proto.plan import PlanEvent
from proto.pools import PoolEvent
from proto.reserve import ReserveEvent
from proto.upcasts import UPCASTS
from proto.vitals import VerdictEvent
from proto.waves import WaveEvent
from services.gateway.scopes import Scopes
from services.gateway.tasks import Tasks
from services.gateway.tasks.stories import tell
from services.gateway.views.backup_plans import PlansView
from services.gateway.views.backups import BackupsView
from services.gateway.views.drills import DrillsView
from services.gateway.views.fences import FencesView
from services.gateway.views.guards import GuardsView
from services.gateway.views.ha import HaView
from services.gateway.views.images import ImagesView
from services.gateway.views.ledgers import LedgersView
from services.gateway.views.networks import NetworksView
from services.gateway.views.nodes import NodesView
from services.gateway.views.pools import PoolsView
from services.gateway.views.reclaims import ReclaimsView
from services.gateway.views.recoveries import RecoveriesView
from services.gateway.views.snapshots import SnapshotsView
from services.gateway.views.verdicts import VerdictsView
from services.gateway.views.vms import VmsView
from services.gateway.views.waves import WavesView

EVENTS = Registry(
    (
        c
        for union in (
            VmEvent, NodeEvent, DrainEvent, ClusterEvent, PlanEvent, BalanceEvent, LedgerEvent, MapEvent, DevicesEvent,
            ImageEvent, NetworkEvent, PoolEvent, FenceEvent, LeaseEvent, HaEvent, VerdictEvent, GuardEvent, ReserveEvent,
             BackupsEvent, RecoveryEvent, PlansEvent, DrillsEvent, BackupFilesEvent, WaveEvent,
        )
        for c in members(union)
    ),
    UPCASTS,
)


@dataclass(slots=True)
class ReadModel:
    """All views at one position. Pure: `apply` takes the events in log order, without holes."""

    position: int = 0
    scopes: Scopes = field(default_factory=Scopes)
    vms: VmsView = field(default_factory=VmsView)
    nodes: NodesView = field(default_factory=NodesView)
    ledgers: LedgersView = field(default_factory=LedgersView)
    reclaims: ReclaimsView = field(default_factory=ReclaimsView)
    images: ImagesView = field(default_factory=ImagesView)
    networks: NetworksView = field(default_factory=NetworksView)
    pools: PoolsView = field(default_factory=PoolsView)
    fences: FencesView = field(default_factory=FencesView)
    snapshots: SnapshotsView = field(default_factory=SnapshotsView)
    backups: BackupsView = field(default_factory=BackupsView)
    plans: PlansView = field(default_factory=PlansView)
    recoveries: RecoveriesView = field(default_factory=RecoveriesView)
    drills: DrillsView = field(default_factory=DrillsView)
    waves: WavesView = field(default_factory=WavesView)
    ha: HaView = field(default_factory=HaView)
    verdicts: VerdictsView = field(default_factory=VerdictsView)
    guards: GuardsView = field(default_factory=GuardsView)
    tasks: Tasks = field(default_factory=Tasks)

    def apply(self, recorded: Recorded) -> None:
        """Raises ValueError for a hole, TooNew for an event of later code; events that were applied before change nothing, unknown
        types are skipped."""
        if recorded.position <= self.position:
            return
        if recorded.position != self.position + 1:
            raise ValueError(f"position {recorded.position} cannot follow {self.position}")
        try:
            event = EVENTS.event(recorded)
        except UnknownType:
            event = None
        self.position = recorded.position
        if event is None:
            return
        self.scopes.apply(recorded, event)
        self.vms.apply(recorded, event)
        self.nodes.apply(recorded, event)
        self.ledgers.apply(recorded, event)
        self.reclaims.apply(recorded, event, self.vms.all)
        self.images.apply(recorded, event)
        self.networks.apply(recorded, event)
        self.pools.apply(recorded, event)
        self.fences.apply(recorded, event)
        self.snapshots.apply(recorded, event)
        self.backups.apply(recorded, event)
        self.plans.apply(recorded, event)
        self.recoveries.apply(recorded, event)
        self.drills.apply(recorded, event)
        self.waves.apply(recorded, event)
        self.ha.apply(recorded, event)
        self.verdicts.apply(recorded, event)
        self.guards.apply(recorded, event)
        tell(self.tasks, recorded, event, self.scopes.project_of(recorded, event))
