"""`asvctl vm create`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.cli import allotment, guest_options, machine, show, task, units
from services.cli.client import path
from services.cli.session import AsJson, TimeoutS, Wait, client
from services.cli.vm_show import print_vm

NewName = Annotated[str, typer.Argument(metavar="NAME", help="A DNS label: lower-case letters, digits, hyphens.")]


def create(
    name: NewName,
    vcpus: machine.Vcpus = 1,
    memory: machine.Memory = "256MiB",  # type: ignore[assignment]  # defaults go through the parser like what people type
    image: machine.Image = "",
    disk: machine.Disks = None,
    nic: machine.Nics = None,
    no_nic: machine.NoNic = False,
    priority: machine.Priority = "normal",
    vcpus_max: machine.VcpusMax = 0,
    memory_max: machine.MemoryMax = None,
    memory_by: machine.MemoryBy = None,
    cpu_weight: allotment.CpuWeight = 0,
    cpu_cap: allotment.CpuCap = 0,
    cpu_reserved: allotment.CpuReserved = 0,
    memory_reserved: allotment.MemoryReserved = None,
    pin: allotment.Pins = None,
    together: allotment.Together = "",
    apart: allotment.Apart = "",
    one_cell: allotment.OneCell = False,
    firmware: guest_options.Firmware = "",
    system: guest_options.System = None,
    pci: guest_options.Pci = None,
    security_group: guest_options.SecurityGroups = None,
    cd: guest_options.Cds = None,
    boot_cd: guest_options.BootCd = False,
    user_data: guest_options.UserData = None,
    ssh_key: guest_options.SshKeys = None,
    hostname: guest_options.Hostname = "",
    network_config: guest_options.NetworkConfig = None,
    project: Annotated[str, typer.Option(help="The project it belongs to.")] = "",
    no_start: Annotated[bool, typer.Option("--no-start", help="Only define it.")] = False,
    waiting: Wait = False,
    timeout_s: TimeoutS = 300.0,
    _json: AsJson = False,
) -> None:
    """Create a VM and start it."""
    if nic and no_nic:
        raise typer.BadParameter("--nic and --no-nic exclude each other")
    body: dict[str, Any] = {"name": name, "vcpus": vcpus, "memory_mib": memory, "image": image, "priority": priority}
    body |= {
        "disks": [*(machine.disk(text) for text in disk or ()), *guest_options.drives(cd, boot_cd, system)],
        "nics": [] if no_nic else [units.nic(text) for text in nic or ["user"]],
        "start": not no_start,
    }
    share = allotment.body(cpu_weight, cpu_cap, cpu_reserved, memory_reserved, pin, together, apart, one_cell)
    optional = {"allotment": share, "vcpus_max": vcpus_max, "memory_max_mib": memory_max or 0, "project": project}
    optional |= {"memory_by": memory_by, "firmware": firmware, "pci": pci, "security_groups": security_group}
    optional |= {"system": system, "seed": guest_options.seed(user_data, ssh_key, hostname, network_config)}
    api = client()
    accepted = api.post("/v1/vms", body | {k: v for k, v in optional.items() if v})
    if not (image or disk or cd):
        show.note(f"{name} has no disk to start from; --image NAME gives it one (`asvctl image ls`)")
    if not waiting:
        task.finish(api, accepted, f"create {name}", False, timeout_s)
        return
    task.wait(api, str(accepted["task"]), timeout_s, f"create {name}")
    print_vm(api.get(path("vms", name)))
