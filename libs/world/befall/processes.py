"""Power, processes that die, processes that are not scheduled, clocks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from libs.world.befall.kind import SECOND_US, Kind, Way
from libs.world.clocks import Clock
from libs.world.story import Step
from services.node.drivers.simparams import SimParams

if TYPE_CHECKING:
    from libs.world.world import World


def _node(word: str) -> Way:
    return lambda world, step: getattr(world.agents[step.who], word)()


def _watchdog(word: str) -> Way:
    return lambda world, step: getattr(world.agents[step.who].watchdog, word)()


def _service(word: str) -> Way:
    return lambda world, step: getattr(world.services[step.who], word)()


def _kill_vm(world: World, step: Step) -> None:
    for node in world.agents.values():
        vm = node.host.vms.get(step.who)
        if vm is not None and not vm.starting and node.powered:
            node.host.crash(step.who, world.net.now_us)
            node.watch()


def _dark(dark: bool) -> Way:
    """It does not reach the database, nor the bus; nodes reach it."""

    def way(world: World, step: Step) -> None:
        world.services[step.who].dark = dark

    return way


def _kills(slow: bool) -> Way:
    """A process that waits for a hung disk does not end before that answers."""

    def way(world: World, step: Step) -> None:
        host = world.agents[step.who].host
        kill_us = int(step.more.get("ms", 3_000)) * 1_000 if slow else SimParams().kill_us
        host.params = replace(host.params, kill_us=kill_us)

    return way


def _relay(word: str) -> Way:
    return lambda world, step: getattr(world.relay, word)()


def _log(there: bool) -> Way:
    def way(world: World, step: Step) -> None:
        world.log.available = there

    return way


def _control_down(world: World, step: Step) -> None:
    world.relay.crash()
    for process in world.services.values():
        process.crash()
    world.log.available = False


def _control_up(world: World, step: Step) -> None:
    world.log.available = True
    world.relay.begin()
    for process in world.services.values():
        process.begin()


# --- who is not scheduled --------------------------------------------------------------------------------------------


def _stop_node(world: World, step: Step) -> None:
    """Everything on it, guests too."""
    node = world.agents[step.who]
    node.host.freeze()
    for owner in node.owners:
        world.net.pause(owner)


def _cont_node(world: World, step: Step) -> None:
    node = world.agents[step.who]
    node.host.thaw()
    for owner in node.owners:
        world.net.resume(owner)
    node.watch()


def _suspend(world: World, step: Step) -> None:
    """A laptop's lid: nothing runs, and what is sent to it is lost."""
    world.net.cut.add(step.who)
    _stop_node(world, step)


def _wake(world: World, step: Step) -> None:
    world.net.cut.discard(step.who)
    _cont_node(world, step)


def _owner(step: Step) -> str:
    return {"agent_stop": f"agent:{step.who}", "watchdog_stop": f"watch:{step.who}"}.get(step.do, step.who)


def _pause(world: World, step: Step) -> None:
    world.net.pause(_owner(step))


def _resume(world: World, step: Step) -> None:
    world.net.resume(_owner(step))


# --- clocks ----------------------------------------------------------------------------------------------------------


def _clock(world: World, step: Step) -> Clock:
    node = world.agents.get(step.who)
    return node.clock if node is not None else world.services[step.who].clock


def _clock_step(world: World, step: Step) -> None:
    """Somebody sets the time of day, hours away."""
    _clock(world, step).off_us += round(float(step.more.get("s", 3600.0)) * SECOND_US)


def _clock_drift(world: World, step: Step) -> None:
    _clock(world, step).drift(int(step.more.get("ppm", 5_000)))


KINDS: dict[str, Kind] = {
    "power": Kind("node", "power", _node("power_off"), _node("power_on")),
    "agent_kill": Kind("node", "process", _node("crash"), _node("begin")),
    "watchdog_kill": Kind("node", "process", _watchdog("crash"), _watchdog("begin")),
    "service_kill": Kind("service", "process", _service("crash"), _service("begin")),
    "service_dark": Kind("service", "network", _dark(dark=True), _dark(dark=False)),
    "relay_kill": Kind("", "process", _relay("crash"), _relay("begin")),
    "kills_slow": Kind("node", "process", _kills(slow=True), _kills(slow=False), ("ms",)),
    "vm_kill": Kind("vm", "process", _kill_vm),
    "control_down": Kind("", "process", _control_down, _control_up),
    "log_away": Kind("", "process", _log(there=False), _log(there=True)),
    "node_stop": Kind("node", "pause", _stop_node, _cont_node),
    "suspend": Kind("node", "pause", _suspend, _wake),
    "agent_stop": Kind("node", "pause", _pause, _resume),
    "watchdog_stop": Kind("node", "pause", _pause, _resume),
    "service_stop": Kind("service", "pause", _pause, _resume),
    "clock_step": Kind("process", "clock", _clock_step, None, ("s",)),
    "clock_drift": Kind("process", "clock", _clock_drift, None, ("ppm",)),
}
