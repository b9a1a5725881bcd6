"""From a device's description to a device that can be asked. Libraries are imported when the first one is."""

from __future__ import annotations

from proto.fence import Device, DeviceKind
from services.ha.fencing.device import FenceDevice
from services.ha.fencing.docker import DockerDevice
from services.ha.fencing.ipmi import IpmiDevice
from services.ha.fencing.redfish import RedfishDevice
from services.ha.fencing.simulated import Machines
from services.ha.fencing.threads import Threads


class Kinds:
    """machines: those that simulated devices stand before."""

    def __init__(self, machines: Machines | None = None) -> None:
        self.machines = machines or Machines()
        self._threads: dict[tuple[str, str, str], Threads] = {}

    def open(self, device: Device, password: str) -> FenceDevice:
        """Nothing is asked yet."""
        threads = self._threads.setdefault(device.place, Threads())
        match device.kind:
            case DeviceKind.REDFISH:
                return RedfishDevice(device, password, threads)
            case DeviceKind.IPMI:
                return IpmiDevice(device, password)
            case DeviceKind.DOCKER:
                return DockerDevice(device, threads)
            case DeviceKind.SIMULATED:
                return self.machines.open(device, password)
