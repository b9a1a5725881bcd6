"""What befalls by chance: draws for the trees of schedules (tree.py). A draw knows how far the story has come, so that much happens
around a failover: in the beginning a plot that takes a node away, and the rest while that node is suspected and declared, and its
VMs start elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from random import Random

from libs.world.story import Sky, Step, Story
from libs.world.tree import Shape


@dataclass(frozen=True, slots=True)
class Odds:
    """One kind of step: how often it is drawn, of how many seconds it lasts at least and at most; ring3: only where the storage
    locks, as nothing else keeps a second writer away when a watchdog is not scheduled, or a fence device lies; fences: only where
    nodes have such devices; vitals: only where guests' signs of life are looked at; backups: only where VMs are backed up."""

    do: str
    weight: int
    least_s: float = 0.0
    most_s: float = 0.0
    ring3: bool = False
    fences: bool = False
    vitals: bool = False
    backups: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """Kinds that befall one node at once, for as long, so that its lease ends or its VMs are asked for."""

    weight: int
    does: tuple[str, ...]
    ring3: bool = False
    fences: bool = False


PLOTS = (
    Plot(6, ("power",)),
    Plot(4, ("cut", "storage_away")),
    Plot(3, ("cut",)),
    Plot(2, ("cut_from", "storage_away")),
    Plot(1, ("cut_to", "storage_away")),
    Plot(2, ("agent_kill", "storage_away")),
    Plot(2, ("node_stop",), ring3=True),
    Plot(1, ("suspend",), ring3=True),
    Plot(2, ("watchdog_stop", "cut"), ring3=True),
    Plot(1, ("watchdog_kill", "agent_stop"), ring3=True),
    Plot(4, ("fence_lies", "cut", "storage_away"), ring3=True, fences=True),
    Plot(3, ("fence_early", "cut", "storage_away"), ring3=True, fences=True),
    Plot(3, ("fence_lies", "watchdog_stop", "cut"), ring3=True, fences=True),
    Plot(2, ("fence_away", "cut", "storage_away"), fences=True),
    Plot(2, ("fence_mute", "cut_from", "storage_away"), fences=True),
)
FAULTS = (
    Odds("power", 2, 0.2, 12),
    Odds("agent_kill", 4, 0.2, 6),
    Odds("agent_stop", 3, 0.5, 8),
    Odds("watchdog_kill", 3, 0.1, 6, ring3=True),
    Odds("watchdog_stop", 3, 0.2, 9, ring3=True),
    Odds("service_kill", 6, 0.2, 5),
    Odds("service_stop", 4, 0.5, 8),
    Odds("relay_kill", 2, 0.2, 4),
    Odds("log_away", 2, 0.2, 5),
    Odds("control_down", 1, 1, 8),
    Odds("service_dark", 2, 0.5, 9),
    Odds("lock_forgotten", 2),
    Odds("vm_kill", 2),
    Odds("kills_slow", 2, 2, 20, ring3=True),
    Odds("cut", 3, 0.5, 9),
    Odds("cut_from", 2, 0.5, 9),
    Odds("cut_to", 2, 0.5, 9),
    Odds("peers_cut", 1, 0.5, 9),
    Odds("bus_away", 2, 0.5, 6),
    Odds("storage_away", 3, 0.5, 9),
    Odds("storage_blind", 2, 0.5, 9),
    Odds("storage_slow", 2, 0.5, 6),
    Odds("storage_gone", 1, 0.5, 6),
    Odds("storage_full", 1, 0.5, 6),
    Odds("clock_step", 1),
    Odds("clock_drift", 1),
    Odds("node_stop", 2, 0.5, 9, ring3=True),
    Odds("stop", 1),
    Odds("start", 2),
    Odds("reset", 1),
    Odds("migrate", 4),
    Odds("pause", 1, 0.5, 5),
    Odds("confirm_off", 1),
    Odds("fence_away", 3, 1, 9, fences=True),
    Odds("fence_mute", 4, 1, 9, fences=True),
    Odds("fence_password", 2, 1, 9, fences=True),
    Odds("fence_deaf", 4, 1, 9, fences=True),
    Odds("fence_slow", 4, 1, 9, fences=True),
    Odds("fence_lies", 8, 1, 9, ring3=True, fences=True),
    Odds("fence_early", 5, 1, 9, ring3=True, fences=True),
    Odds("fence_test", 1, fences=True),
    Odds("fence_off", 4, fences=True),
    Odds("fence_on", 1, fences=True),
    Odds("guest_panic", 6, vitals=True),
    Odds("guest_hang", 3, vitals=True),
    Odds("guest_blue", 2, vitals=True),
    Odds("guest_still", 2, 1, 12, vitals=True),
    Odds("guest_silent", 2, 2, 40, vitals=True),
    Odds("guest_idle", 2, 2, 40, vitals=True),
    Odds("backup", 6, backups=True),
    Odds("backup_cancel", 1, backups=True),
    Odds("backup_delete", 6, backups=True),
    Odds("backup_verify", 3, backups=True),
    Odds("backup_rot", 2, backups=True),
    Odds("recover", 10, backups=True),
    Odds("delete", 2, backups=True),
    Odds("guest_write", 6, backups=True),
)
DEATHS = ("guest_panic", "guest_hang", "guest_hang", "guest_blue")
"""a guest that is not undone by itself: where signs of life are looked at, one or two begin the story so, as a hang is found after
20 to 36 s"""
BACKED_UP = 0.2
"""of all trees: in these VMs are backed up and recovered"""
SERVICES = ("compute", "memory", "io", "ha", "ha")
NOBODYS = frozenset(
    {"relay_kill", "log_away", "control_down", "bus_away", "storage_slow", "storage_gone", "storage_full", "lock_forgotten"}
)
OF_POOLS = frozenset({"storage_slow", "storage_gone", "storage_full"})
POOLS = ("", "sim", "sim-second")
"""of worlds with two; "": both"""
OF_VMS = frozenset({"vm_kill", "stop", "start", "reset", "migrate", "pause", "delete"})
RECOVERIES = frozenset(odds.do for odds in FAULTS if odds.backups)
FEW = 3
"""VMs that are backed up and recovered, where VMs are: so that one thing meets another"""
KILL_MS = (300, 2_000, 6_000)
"""how long processes take to end on a disk that hangs"""
SKIES = (Sky(), Sky(lost=0.05, late=0.02), Sky(lost=0.1, late=0.05, twice=0.1, commit_ms=40))


def begun(seed: int) -> Story:
    """What all schedules of that tree have in common: half of them without the storage's lock, a fifth with two grantors, a fifth
    with fence devices, a tenth with two pools, a fifth with guests whose signs of life are looked at."""
    random = Random(f"sky {seed}")
    grantors = 2 if random.random() < 0.2 else 1
    locking, sky = random.random() < 0.5, random.choice(SKIES)
    fences, pools = random.random() < 0.2, "two" if random.random() < 0.1 else "shared"
    vitals = random.random() < 0.2
    return Story(seed=seed, vms=6, locking=locking, grantors=grantors, sky=sky, fences=fences, pools=pools, vitals=vitals)


def backed_up(seed: int) -> bool:
    """Whether VMs of that tree are: a draw of its own, so that all others are what they were."""
    return Random(f"backups {seed}").random() < BACKED_UP


@dataclass(frozen=True, slots=True)
class Storm:
    """Draws for trees of that shape."""

    shape: Shape = field(default_factory=Shape)

    def __call__(self, random: Random, story: Story, phase: int) -> tuple[Step, ...]:
        starts = (self.shape.calm_s + 0.1, *self.shape.turns)[phase]
        ends = (*self.shape.turns, self.shape.seconds)[phase]
        if phase == 0:
            plot = _plot(random, story, starts) if random.random() < 0.9 else ()
            if story.vitals and random.random() < 0.6:
                plot = (*plot, *_deaths(random, story))
            if backed_up(story.seed):
                plot = (*plot, *_recoveries(random, ends))
            return (*plot, *(_step(random, story, starts, ends) for _ in range(random.choice((1, 1, 2)))))
        return tuple(_step(random, story, starts, ends) for _ in range(random.choice((1, 1, 2))))


def _plot(random: Random, story: Story, starts: float) -> tuple[Step, ...]:
    able = [plot for plot in PLOTS if (story.locking or not plot.ring3) and (story.fences or not plot.fences)]
    plot = random.choices(able, [plot.weight for plot in able])[0]
    at, for_s, who = round(starts + random.uniform(0.0, 0.7), 3), round(random.uniform(6.5, 30.0), 2), _node(random, story)
    return tuple(Step(do, at + n * 0.01, who, for_s) for n, do in enumerate(plot.does))


def _step(random: Random, story: Story, starts: float, ends: float) -> Step:
    able = _odds(story.locking, story.fences, story.vitals, backed_up(story.seed))
    one = random.choices(able, [odds.weight for odds in able])[0]
    at = round(random.uniform(starts, ends), 3)
    for_s = round(random.uniform(one.least_s, one.most_s), 2)
    who = _who(random, story, one.do)
    return Step(one.do, at, who, for_s, more=_more(random, story, one.do, who))


@cache
def _odds(ring3: bool, fences: bool, vitals: bool, backups: bool) -> tuple[Odds, ...]:
    """What may befall such a world."""
    there = ((ring3, "ring3"), (fences, "fences"), (vitals, "vitals"), (backups, "backups"))
    return tuple(one for one in FAULTS if all(has or not getattr(one, name) for has, name in there))


def _deaths(random: Random, story: Story) -> tuple[Step, ...]:
    who = random.sample(range(story.vms), random.choice((1, 1, 2)))
    return tuple(Step(random.choice(DEATHS), round(random.uniform(0.1, 2.0), 3), f"vm-{vm}") for vm in who)


def _recoveries(random: Random, ends: float) -> tuple[Step, ...]:
    """VMs are backed up, once or twice, written to, stopped and recovered before the first turn; or recovered beside themselves."""
    steps = list[Step]()
    for n in range(FEW):
        vm, at = f"vm-{n}", random.uniform(0.05, 0.5)
        for do in ("guest_write", "backup", "guest_write", *random.choice((("backup", "guest_write"), ()))):
            steps.append(Step(do, round(at, 3), vm))
            at += random.uniform(0.05, 0.3)
        if random.random() < 0.7:
            steps.append(Step("stop", round(at, 3), vm))
            at += random.uniform(0.1, 0.6)
        steps.append(Step("recover", round(random.uniform(at, ends), 3), vm, more=_more_of_recovery(random, vm)))
    return tuple(steps)


def _more_of_recovery(random: Random, vm: str) -> dict[str, int | float | str | bool]:
    more: dict[str, int | float | str | bool] = {"beside": f"{vm}-beside"} if random.random() < 0.4 else {}
    return {**more, "age": 1} if random.random() < 0.2 else more


def _node(random: Random, story: Story) -> str:
    return f"n{random.randrange(story.nodes) + 1}"


def _who(random: Random, story: Story, do: str) -> str:
    if do.startswith("service_"):
        return random.choice(SERVICES)
    if do.startswith("clock_"):
        return random.choice((_node(random, story), *SERVICES))
    if do in RECOVERIES:
        vm = f"vm-{random.randrange(FEW)}"
        return f"{vm}-beside" if do in ("guest_write", "delete", "backup") and random.random() < 0.3 else vm
    if do in OF_VMS or do.startswith("guest_"):
        return f"vm-{random.randrange(story.vms)}"
    if do in OF_POOLS and story.pools == "two":
        return random.choice(POOLS)
    return "" if do in NOBODYS else _node(random, story)


def _more(random: Random, story: Story, do: str, who: str) -> dict[str, int | float | str | bool]:
    if do == "recover":
        return _more_of_recovery(random, who)
    if do in ("backup_delete", "backup_verify", "backup_rot"):
        return {"age": random.choice((0, 0, 1, 2))}
    if do == "clock_step":
        return {"s": random.choice((-7200.0, -5.0, 3.0, 7200.0))}
    if do == "clock_drift":
        return {"ppm": random.choice((-5000, -2000, 2000, 5000))}
    if do == "kills_slow":
        return {"ms": random.choice(KILL_MS)}
    if do in ("fence_slow", "fence_early"):
        return {"s": random.choice((0.3, 1.0, 3.0))}
    if do in ("storage_away", "storage_blind") and story.pools == "two" and (pool := random.choice(POOLS)):
        return {"pool": pool}
    if do == "storage_slow":
        return {"ms": random.choice((0, 500, 2000, 6000)), "ack_ms": random.choice((0, 500, 2000, 4000))}
    return {}
