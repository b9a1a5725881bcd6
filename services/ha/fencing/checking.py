"""Is a device well described? Pure; whether it answers is the test's business."""

from __future__ import annotations

import re

from proto.fence import Device, DeviceKind

HOST = re.compile(r"^(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9](?:[-A-Za-z0-9.]*[A-Za-z0-9])?)(?::([0-9]{1,5}))?$")
URL = re.compile(r"^https?://(?:\[[0-9a-fA-F:.]+\]|[-A-Za-z0-9.]+)(?::[0-9]{1,5})?/?$")
TCP = re.compile(r"^tcp://(?:\[[0-9a-fA-F:.]+\]|[-A-Za-z0-9.]+):[0-9]{1,5}$")
UNIX = re.compile(r"^unix:///[^\s]+$")


def wrong(device: Device, driver: str) -> tuple[str, str] | None:
    """(what is wrong, what would be right), or None. driver: what runs VMs on the node."""
    match device.kind:
        case DeviceKind.REDFISH:
            return _redfish(device)
        case DeviceKind.IPMI:
            return _ipmi(device)
        case DeviceKind.DOCKER:
            return _docker(device)
        case DeviceKind.SIMULATED:
            return _simulated(device, driver)


def _simulated(device: Device, driver: str) -> tuple[str, str] | None:
    """What it says proves nothing of a real machine."""
    if driver != "simulated":
        said = f"a simulated device cuts nobody's power, and the VMs of this node are run by {driver or 'nobody knows what'}"
        return said, "a device of kind redfish, ipmi or docker"
    return None if device.address else ("the device has no address", "any word, as `bmc-n1`")


def _credentials(device: Device) -> tuple[str, str] | None:
    if device.user and device.password is not None:
        return None
    lacks = "user" if not device.user else "password"
    return f"no {lacks} was given, and {device.kind} answers nobody without", "give --user and --password-file"


def _redfish(device: Device) -> tuple[str, str] | None:
    address = device.address
    if not URL.match(address):
        return (
            f"`{address}` is not the address of a Redfish service",
            "https://HOST or https://HOST:PORT, without a path",
        )
    if address.startswith("http://") and not device.insecure:
        said = f"by {address} the password would go over the network as it is"
        return said, "an address that begins with https://, or --insecure where nobody can listen"
    if device.ca and device.insecure:
        return "certificates to check by, and no check", "give one of --ca and --insecure"
    return _credentials(device)


def _ipmi(device: Device) -> tuple[str, str] | None:
    found = HOST.match(device.address)
    if found is None or (found[1] is not None and not 0 < int(found[1]) < 65536):
        return f"`{device.address}` is not the address of a BMC", "HOST or HOST:PORT (623 where none is said)"
    if device.cipher in range(1, 3) or device.cipher in range(6, 8):
        return f"suite {device.cipher} sends orders that others can read or change", "17, or 3 for old BMCs"
    if device.system or device.ca:
        return "IPMI has neither systems nor certificates", "leave --system and --ca out"
    return _credentials(device)


def _docker(device: Device) -> tuple[str, str] | None:
    if not (UNIX.match(device.address) or TCP.match(device.address)):
        return (
            f"`{device.address}` is not the address of a docker engine",
            "unix:///run/docker.sock, or tcp://HOST:PORT",
        )
    if device.address.startswith("tcp://") and not device.insecure:
        return (
            "an engine that listens on TCP obeys everybody there",
            "its socket, or --insecure where nobody else reaches it",
        )
    if not device.system:
        return "which container is the node?", "give its name or id with --system"
    if device.user or device.password is not None or device.ca:
        return (
            "an engine's socket asks for no user, password or certificate",
            "leave --user, --password-file and --ca out",
        )
    return None
