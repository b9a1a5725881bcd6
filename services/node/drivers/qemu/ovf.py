"""The description of an appliance (OVF, an XML file) and its manifest of digests. Pure; XML by defusedxml: no entities, no DTD.

One virtual system is understood. Of its hardware some is answered as a suggestion; its disks are what is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element

import msgspec
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from proto.images import ImageFormat, Suggestion
from proto.machine import Firmware
from services.node.drivers import BadImage

OVF_BYTES_MAX = 1 << 20
MANIFEST_BYTES_MAX = 64 << 10
DISKS_MAX = 32
SYSTEM_CHARS_MAX = 80
PROCESSOR, MEMORY, NIC, DISK = "3", "4", "10", "17"
"""kinds of hardware (CIM ResourceType)"""
FORMATS = {
    "vmdk": ImageFormat.VMDK, "vdi": ImageFormat.VDI, "vhdx": ImageFormat.VHDX, "vhd": ImageFormat.VHD, "qcow": ImageFormat.QCOW2,
}  # fmt: skip
"""by a word in the URI that names the format; longer words first"""
DIGESTS = ("sha1", "sha256", "sha384", "sha512")
_LINE = re.compile(r"(\w+)\s*\(([^()\n]+(?:\([^()\n]*\)[^()\n]*)*)\)\s*=\s*([0-9a-fA-F]+)")


class ApplianceDisk(msgspec.Struct, frozen=True):
    name: str
    file: str
    format: ImageFormat


class Appliance(msgspec.Struct, frozen=True):
    """disks: in the order in which the machine has them."""

    disks: tuple[ApplianceDisk, ...]
    suggests: Suggestion


def parse(data: bytes) -> Appliance:
    """Raises BadImage with what would be right."""
    try:
        root = ElementTree.fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise BadImage(f"the OVF is no plain XML ({type(error).__name__}): it may hold no DTD and no entities") from error
    except (ElementTree.ParseError, ValueError) as error:
        raise BadImage(f"the OVF is no XML: {error}") from error
    systems = list(_all(root, "VirtualSystem"))
    if len(systems) != 1:
        raise BadImage(f"the OVA describes {len(systems)} virtual machines; one with one can be taken in")
    disks = _disks(root, systems[0])
    if not disks:
        raise BadImage("the OVF names no disk: there is nothing to make an image of")
    suggests = _suggestion(systems[0])
    return Appliance(disks, msgspec.structs.replace(suggests, disks=tuple(disk.name for disk in disks)))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _all(element: Element, tag: str) -> Iterator[Element]:
    return (one for one in element.iter() if _local(one.tag) == tag)


def _attributes(element: Element) -> dict[str, str]:
    return {_local(key): value for key, value in element.attrib.items()}


def _texts(element: Element) -> dict[str, str]:
    return {_local(child.tag): (child.text or "").strip() for child in element}


def _disks(root: Element, system: Element) -> tuple[ApplianceDisk, ...]:
    files = {at.get("id", ""): at for at in map(_attributes, _all(root, "File"))}
    found: dict[str, ApplianceDisk] = {}
    for at in map(_attributes, _all(root, "Disk")):
        if len(found) >= DISKS_MAX:
            raise BadImage(f"the OVF names more than {DISKS_MAX} disks")
        name = at.get("diskId", "")[:128]
        if not at.get("fileRef"):
            continue  # an empty one, to be made at deployment
        if at.get("parentRef"):
            raise BadImage(f"the disk {name!r} of the OVA stands on another one, which is not accepted from outside")
        file = files.get(at["fileRef"])
        if file is None:
            raise BadImage(f"the disk {name!r} of the OVA is in the file {at['fileRef'][:80]!r}, which the OVF does not list")
        if file.get("compression", "identity") != "identity" or file.get("chunkSize"):
            raise BadImage(f"the disk {name!r} of the OVA is compressed, or in pieces: export it without that")
        found[name] = ApplianceDisk(name, file.get("href", ""), _format(name, at.get("format", ""), file.get("href", "")))
    order = [_texts(item).get("HostResource", "").rpartition("/")[2] for item in _hardware(system, DISK)]
    first = [found[name] for name in dict.fromkeys(order) if name in found]
    return (*first, *(disk for disk in found.values() if disk not in first))


def _format(name: str, uri: str, file: str) -> ImageFormat:
    words = uri.lower()
    for word, format in sorted(FORMATS.items(), key=lambda pair: -len(pair[0])):
        if word in words:
            return format
    said = f"the disk {name!r} of the OVA ({file[:80]!r}) is of the format {uri[:120]!r}"
    raise BadImage(f"{said}; {', '.join(FORMATS)} are understood")


def _hardware(system: Element, kind: str) -> list[Element]:
    items = (one for one in system.iter() if _local(one.tag) in ("Item", "StorageItem", "EthernetPortItem"))
    return [item for item in items if _texts(item).get("ResourceType") == kind]


def _suggestion(system: Element) -> Suggestion:
    processors = [_count(item) for item in _hardware(system, PROCESSOR)]
    memory = [_count(item) * _mib(_texts(item).get("AllocationUnits", "")) for item in _hardware(system, MEMORY)]
    words = next(_all(system, "OperatingSystemSection"), None)
    said = "" if words is None else _texts(words).get("Description", "") or _attributes(words).get("osType", "")
    return Suggestion(
        vcpus=min(512, sum(processors)),
        memory_mib=min(16 << 20, int(sum(memory))),
        nics=min(64, len(_hardware(system, NIC))),
        firmware=_firmware(system),
        system=" ".join(said.split())[:SYSTEM_CHARS_MAX],
    )


def _count(item: Element) -> int:
    text = _texts(item).get("VirtualQuantity", "")
    return int(text) if re.fullmatch(r"\d{1,9}", text) else 0


def _mib(unit: str) -> float:
    """How many MiB one of that unit is: `byte * 2^20`, or a word."""
    power = re.fullmatch(r"bytes?\s*\*\s*2\s*\^\s*(\d{1,2})", unit.strip().lower())
    if power is not None:
        return float(2.0 ** (int(power[1]) - 20))
    return {"kilobytes": 2.0**-10, "gigabytes": 2.0**10, "byte": 2.0**-20, "bytes": 2.0**-20}.get(unit.strip().lower(), 1.0)


def _firmware(system: Element) -> Firmware | None:
    """VMware and VirtualBox say it each in words of its own; where nothing is said, none is suggested."""
    for at in map(_attributes, _all(system, "Config")):
        if at.get("key") == "firmware":
            return Firmware.UEFI if at.get("value", "").lower() in ("efi", "uefi") else Firmware.BIOS
    for at in map(_attributes, _all(system, "Firmware")):
        return Firmware.UEFI if at.get("type", "").upper().startswith("EFI") else Firmware.BIOS
    return None


def manifest(data: bytes) -> dict[str, tuple[str, str]]:
    """File -> algorithm and digest in hex. Raises BadImage."""
    found: dict[str, tuple[str, str]] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or match[1].lower() not in DIGESTS:
            raise BadImage(f"the OVA's manifest has a line that is no digest: {line.strip()[:80]!r}")
        found[match[2].strip()] = (match[1].lower(), match[3].lower())
    return found
