"""From a wish to a machine: checks a definition and pins everything the guest will see."""

from __future__ import annotations

import re
from hashlib import sha256

from libs.common.decider import Refused
from libs.common.messages import DNS_LABEL, VmId
from proto.compute import DefineVm, ImageFacts, Refusal, VmDefined
from proto.machine import DISKS_MAX, NICS_MAX, Allotment, DiskFormat, DiskWish, Firmware, NicModel, NicWish, Shape
from proto.networks import USER, known_names

MACHINE = "pc-q35-7.2"
"""A versioned machine type: an unversioned one would change the guest's board with each QEMU upgrade."""

CPU_MODEL = "qemu64"
"""The baseline that every accelerator offers, TCG included: the guest's CPUID never follows the host by accident."""

VCPUS_MAX = 512
MEMORY_MIB_MIN = 64
MEMORY_MIB_MAX = 16 * 1024 * 1024
HEADROOM = 4
"""Times a VM may grow while it runs, where nothing else was said: each vCPU and DIMM slot costs a little at start."""

HEADROOM_VCPUS_MAX = 16
"""Default head-room ends here; who wants more says so."""

_GROUP = re.compile(DNS_LABEL)
_UUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


def defined(command: DefineVm, generation: int) -> VmDefined:
    """The pinned definition. Raises Refused: NO_IMAGE, BAD_SHAPE. `generation` (of an earlier VM of that name, else 0)
    enters the UUID where none was given, so that a VM made again is another machine."""
    known = command.known or _nothing(command)
    _check_images(command, known)
    _check_devices(command, known)
    _check_nics(command, known)
    check_allotment(command.allotment, command.vcpus, command.memory_mib)
    firmware = _firmware(command, known)
    boot = known.boot if firmware is Firmware.DIRECT else None
    return VmDefined(
        vm=VmId(command.vm),
        shape=_shape(command, generation, firmware),
        disks=command.disks,
        nics=command.nics,
        priority=command.priority,
        sizes_mib=known.sizes_mib,
        boot=boot,
        boot_image=known.boot_image if boot else "",
        allotment=command.allotment,
    )


def _nothing(command: DefineVm) -> ImageFacts:
    """As long as nothing is known."""
    images, networks = {d.image for d in command.disks if d.image}, {n.network for n in command.nics}
    return ImageFacts(missing=tuple(sorted(images)), missing_networks=tuple(sorted(networks - {USER})))


def _bad(sentence: str, remedy: str) -> Refused:
    return Refused(Refusal.BAD_SHAPE, sentence, remedy)


def _check_images(command: DefineVm, known: ImageFacts) -> None:
    if known.missing:
        names = ", ".join(known.missing)
        raise Refused(Refusal.NO_IMAGE, f"there is no image named {names}", "import it first, or name one that exists")


def _check_devices(command: DefineVm, known: ImageFacts) -> None:
    if len(command.disks) > DISKS_MAX:
        raise _bad(f"{len(command.disks)} disks asked for", f"at most {DISKS_MAX}")
    if len(command.nics) > NICS_MAX:
        raise _bad(f"{len(command.nics)} NICs asked for", f"at most {NICS_MAX}")
    for i, disk in enumerate(command.disks):
        image_mib = known.sizes_mib.get(disk.image, 0)
        if disk.bus.is_cd or disk.image in known.isos:
            _check_cd(i, disk, known)
            continue
        if not disk.image and not disk.size_mib:
            raise _bad(f"disk {i} has neither a size nor an image", "give it one of them")
        if disk.image and disk.format is not DiskFormat.QCOW2:
            raise _bad(f"disk {i} is {disk.format} and stands on image {disk.image}", "an overlay is qcow2")
        if disk.size_mib and disk.size_mib < image_mib:
            raise _bad(
                f"disk {i} is {disk.size_mib} MiB, its image {disk.image} {image_mib} MiB",
                f"at least {image_mib} MiB, or no size: then it is as large as the image",
            )


def _check_nics(command: DefineVm, known: ImageFacts) -> None:
    if known.missing_networks:
        said = f"there is no network named {', '.join(known.missing_networks)}; {known_names(known.networks)}"
        raise Refused(Refusal.NO_NETWORK, said, "name one that exists (asvctl network ls), or create it first")
    vcpus_max = _vcpus_max(command)
    for i, nic in enumerate(command.nics):
        _check_queues(i, nic, vcpus_max)


def _check_queues(number: int, nic: NicWish, vcpus_max: int) -> None:
    if nic.queues == 1:
        return
    if nic.model is not NicModel.VIRTIO or nic.network == USER:
        said = f"NIC {number} is to have {nic.queues} queues; it is of the model {nic.model}, in the network {nic.network}"
        raise _bad(said, f"1, or the model {NicModel.VIRTIO} in another network than {USER}")
    if nic.queues > vcpus_max:
        said = f"NIC {number} is to have {nic.queues} queues, of a VM that can have {vcpus_max} vCPUs at most"
        raise _bad(said, f"at most {vcpus_max}: each is served by a vCPU")


def _check_cd(i: int, disk: DiskWish, known: ImageFacts) -> None:
    if not disk.bus.is_cd:
        raise _bad(f"disk {i} stands on {disk.image}, which is an ISO", f"put it into a CD drive: --cd {disk.image}")
    if disk.image and disk.image not in known.isos:
        raise _bad(f"{disk.image}, for a CD drive, is the image of a disk", "an image that was imported as iso")


def check_allotment(wish: Allotment, vcpus: int, memory_mib: int) -> None:
    """Whether it agrees with itself and with the VM's size. Raises Refused: BAD_SHAPE."""
    if wish.memory_reserved_mib > memory_mib:
        said = f"{wish.memory_reserved_mib} MiB are to be reserved of {memory_mib} MiB"
        raise _bad(said, f"at most {memory_mib} MiB, the VM's memory")
    if wish.cpu_reserved_pct > vcpus * 100:
        said = f"{wish.cpu_reserved_pct} % of a pCPU are to be reserved for {vcpus} vCPUs"
        raise _bad(said, f"at most {vcpus * 100} %: a vCPU uses one pCPU at most")
    if wish.cpu_cap_pct and wish.cpu_cap_pct < wish.cpu_reserved_pct:
        said = f"the cap of {wish.cpu_cap_pct} % is below the reservation of {wish.cpu_reserved_pct} %"
        raise _bad(said, f"a cap of at least {wish.cpu_reserved_pct} %, or none")
    if len(set(wish.pins)) != len(wish.pins):
        raise _bad(f"pins name a pCPU twice: {', '.join(map(str, wish.pins))}", "each pCPU once")
    for what, group in (("together", wish.together), ("apart", wish.apart)):
        if group and not _GROUP.match(group):
            raise _bad(f"{what} is {group!r}", "a group's name is a DNS label: lower-case letters, digits, hyphens")
    if wish.together and wish.together == wish.apart:
        raise _bad(f"group {wish.apart} is to be kept together and apart", "two groups, or one of them")


def _firmware(command: DefineVm, known: ImageFacts) -> Firmware:
    """What was asked for; else what suits the first image. Raises Refused: BAD_SHAPE."""
    usual = Firmware.DIRECT if known.boot is not None else known.firmware or Firmware.BIOS
    firmware = command.firmware or usual
    if firmware is Firmware.DIRECT and known.boot is None:
        raise _bad("firmware direct needs an image that brings its kernel along", "bios, or uefi")
    if firmware is Firmware.UEFI and all(disk.bus.is_cd for disk in command.disks):
        raise _bad("firmware uefi keeps its variables beside the first disk, and there is none", "give it a disk, or bios")
    return firmware


def _vcpus_max(command: DefineVm) -> int:
    return command.vcpus_max or max(command.vcpus, min(HEADROOM * command.vcpus, HEADROOM_VCPUS_MAX))


def _shape(command: DefineVm, generation: int, firmware: Firmware) -> Shape:
    vcpus_max = _vcpus_max(command)
    memory_max_mib = command.memory_max_mib or min(HEADROOM * command.memory_mib, MEMORY_MIB_MAX)
    if command.uuid and not _UUID.match(command.uuid):
        raise _bad(f"uuid is {command.uuid!r}", "32 lower-case hex digits as 8-4-4-4-12, or none")
    shape = Shape(
        vcpus=command.vcpus,
        memory_mib=command.memory_mib,
        vcpus_max=vcpus_max,
        memory_max_mib=memory_max_mib,
        machine=MACHINE,
        cpu_model=CPU_MODEL,
        firmware=firmware,
        system=command.system,
        uuid=command.uuid or uuid_of(command.vm, generation),
        memory_by=command.memory_by,
    )
    check_size(shape)
    return shape


def check_size(shape: Shape) -> None:
    """Whether its head-room holds it. Raises Refused: BAD_SHAPE."""
    if not shape.vcpus <= shape.vcpus_max <= VCPUS_MAX:
        raise _bad(f"vcpus_max is {shape.vcpus_max}", f"between vcpus ({shape.vcpus}) and {VCPUS_MAX}")
    if not MEMORY_MIB_MIN <= shape.memory_mib <= shape.memory_max_mib <= MEMORY_MIB_MAX:
        if shape.memory_mib < MEMORY_MIB_MIN:
            raise _bad(f"memory_mib is {shape.memory_mib}", f"at least {MEMORY_MIB_MIN}")
        raise _bad(
            f"memory_max_mib is {shape.memory_max_mib}", f"between memory_mib ({shape.memory_mib}) and {MEMORY_MIB_MAX}"
        )


def uuid_of(vm: str, generation: int) -> str:
    """A UUID (version 8: by our own rule) from the VM's name; the same again when the decision is made again."""
    digest = bytearray(sha256(f"vm/{vm}/{generation}".encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    h = digest.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"
