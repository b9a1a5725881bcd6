"""The agent's verbs as calls of its driver."""

from __future__ import annotations

from services.node.drivers import Driver, Machine
from services.node.effects import Act


async def carried_out(driver: Driver, act: Act) -> Machine | None:
    """The machine, for verbs that make or take one. Raises DriverError."""
    match act.verb:
        case "start":
            assert act.spec is not None
            return await driver.start(act.spec)
        case "shutdown":
            await driver.shutdown(act.vm)
        case "kill":
            await driver.kill(act.vm)
        case "pause":
            await driver.pause(act.vm)
        case "resume":
            await driver.resume(act.vm)
        case "reset":
            await driver.reset(act.vm)
        case "fit":
            assert act.spec is not None
            return await driver.fit(act.spec)
        case "look":
            return await driver.look(act.vm)
        case "receive":
            assert act.spec is not None
            return await driver.receive(act.spec, act.move)
        case "activate":
            return await driver.activate(act.vm)
        case "send":
            await driver.send(act.vm, act.address, act.move)
        case "recall":
            return await driver.recall(act.vm)
    return None
