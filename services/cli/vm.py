"""`asvctl vm`: the life of virtual machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import show, task, units
from services.cli.client import path
from services.cli.session import AsJson, TimeoutS, Wait, client, wants_json

app = typer.Typer(help="Virtual machines.", no_args_is_help=True)


def _names(incomplete: str) -> list[str]:
    """For shell completion: quick, and silent when there is no cluster."""
    try:
        found = client(timeout_s=1.0).items(path("vms"))
    except Exception:  # noqa: BLE001, RUF100  (a shell waits for words, not for reasons)
        return []
    return [str(vm["name"]) for vm in found if str(vm.get("name", "")).startswith(incomplete)]


Name = Annotated[str, typer.Argument(metavar="NAME", help="The VM's name.", autocompletion=_names)]
NewName = Annotated[str, typer.Argument(metavar="NAME", help="A DNS label: lower-case letters, digits, hyphens.")]
Size = Annotated[int, typer.Option(parser=units.mib, metavar="SIZE", help="256MiB, 1GiB; a bare number is MiB.")]


@app.command("ls")
def ls(_json: AsJson = False) -> None:
    """List VMs."""
    found = client().items(path("vms"))
    if wants_json():
        show.as_json(found)
        return
    rows = [
        (
            vm.get("name"),
            vm.get("state"),
            vm.get("node"),
            vm.get("vcpus"),
            units.size(vm.get("memory_mib")),
            ", ".join(vm.get("addresses") or ()),
            vm.get("priority"),
        )
        for vm in found
    ]
    show.table(
        ("NAME", "STATE", "NODE", "VCPUS", "MEMORY", "ADDRESSES", "PRIORITY"),
        rows,
        "no VMs yet: `asvctl vm create --help`",
    )


@app.command("show")
def show_(name: Name, _json: AsJson = False) -> None:
    """Show one VM: where it runs, what it has, and why."""
    _print(client().get(path("vms", name)))


def _print(vm: dict[str, Any]) -> None:
    if wants_json():
        show.as_json(vm)
        return
    show.facts(
        [
            ("name", vm.get("name")),
            ("state", vm.get("state")),
            ("node", vm.get("node")),
            ("pcpus", ", ".join(map(str, vm.get("pcpus") or ()))),
            ("addresses", ", ".join(vm.get("addresses") or ())),
            ("vcpus", f"{vm.get('vcpus')} (at most {vm.get('vcpus_max') or vm.get('vcpus')})"),
            (
                "memory",
                f"{units.size(vm.get('memory_mib'))} (at most {units.size(vm.get('memory_max_mib') or vm.get('memory_mib'))})",
            ),
            ("priority", vm.get("priority")),
            ("machine", " ".join(str(vm[k]) for k in ("machine", "cpu_model", "firmware") if vm.get(k))),
            ("generation", vm.get("generation")),
            ("boot id", vm.get("boot_id")),
            ("project", vm.get("project")),
            ("changed", show.when(vm.get("changed_us")) if vm.get("changed_us") else ""),
        ]
    )
    for disk in vm.get("disks") or vm.get("disk_wishes") or ():
        made = [
            disk.get("name"),
            units.size(disk.get("size_mib")),
            disk.get("format"),
            disk.get("image") and f"on {disk['image']}",
        ]
        print("disk  " + "  ".join(show.clean(part) for part in made if part))
    for nic in vm.get("nics") or vm.get("nic_wishes") or ():
        made = [nic.get("name"), nic.get("kind", "user"), nic.get("bridge"), nic.get("mac")]
        print("nic   " + "  ".join(show.clean(part) for part in made if part))
    for reason in vm.get("reasons") or ():
        told = isinstance(reason, dict)
        print(
            f"{show.when(reason.get('at_us') if told else None)}  {show.clean(reason.get('text') if told else reason)}"
        )


@app.command("create")
def create(
    name: NewName,
    vcpus: Annotated[int, typer.Option(help="Virtual CPUs at start.", min=1, max=512)] = 1,
    memory: Size = "256MiB",  # type: ignore[assignment]  # defaults go through the parser like what people type
    image: Annotated[str, typer.Option(help="Image of the first disk, for example tiny.")] = "",
    disk: Annotated[
        list[int] | None, typer.Option(parser=units.mib, metavar="SIZE", help="A blank disk; may be repeated.")
    ] = None,
    nic: Annotated[
        list[str] | None,
        typer.Option(metavar="user|bridge:NAME", help="A network card; may be repeated. Default: user."),
    ] = None,
    no_nic: Annotated[bool, typer.Option("--no-nic", help="No network card at all.")] = False,
    priority: Annotated[str, typer.Option(help="critical, important, normal or best-effort.")] = "normal",
    vcpus_max: Annotated[
        int, typer.Option(help="CPUs that can be plugged in later, these included.", min=0, max=512)
    ] = 0,
    memory_max: Annotated[
        int | None, typer.Option(parser=units.mib, metavar="SIZE", help="Memory it can grow to.")
    ] = None,
    project: Annotated[str, typer.Option(help="The project it belongs to.")] = "",
    no_start: Annotated[bool, typer.Option("--no-start", help="Only define it.")] = False,
    waiting: Wait = False,
    timeout_s: TimeoutS = 300.0,
    _json: AsJson = False,
) -> None:
    """Create a VM and start it."""
    if nic and no_nic:
        raise typer.BadParameter("--nic and --no-nic exclude each other")
    body: dict[str, Any] = {
        "name": name,
        "vcpus": vcpus,
        "memory_mib": memory,
        "image": image,
        "disks": [{"size_mib": size} for size in disk or ()],
        "nics": [] if no_nic else [units.nic(text) for text in nic or ["user"]],
        "priority": priority,
        "start": not no_start,
    }
    optional = {"vcpus_max": vcpus_max, "memory_max_mib": memory_max or 0, "project": project}
    api = client()
    accepted = api.post("/v1/vms", body | {k: v for k, v in optional.items() if v})
    what = f"create {name}"
    if not waiting:
        task.finish(api, accepted, what, False, timeout_s)
        return
    task.wait(api, str(accepted["task"]), timeout_s, what)
    _print(api.get(path("vms", name)))


def _change(verb: str, name: str, body: dict[str, Any] | None, waiting: bool, timeout_s: float) -> None:
    api = client()
    task.finish(api, api.post(path("vms", name, verb), body), f"{verb} {name}", waiting, timeout_s)


@app.command("start")
def start(name: Name, waiting: Wait = False, timeout_s: TimeoutS = 300.0, _json: AsJson = False) -> None:
    """Start a stopped VM."""
    _change("start", name, None, waiting, timeout_s)


@app.command("stop")
def stop(
    name: Name,
    deadline: Annotated[
        str, typer.Option(metavar="TIME", help="How long the guest may take to shut down: 60s, 5m.")
    ] = "60s",
    force: Annotated[bool, typer.Option("--force", help="Power off at once.")] = False,
    waiting: Wait = False,
    timeout_s: TimeoutS = 300.0,
    _json: AsJson = False,
) -> None:
    """Ask the guest to shut down; power off at the deadline."""
    _change("stop", name, {"deadline_s": 0 if force else units.seconds(deadline)}, waiting, timeout_s)


@app.command("reset")
def reset(name: Name, waiting: Wait = False, timeout_s: TimeoutS = 60.0, _json: AsJson = False) -> None:
    """Press the reset button."""
    _change("reset", name, None, waiting, timeout_s)


@app.command("pause")
def pause(name: Name, waiting: Wait = False, timeout_s: TimeoutS = 60.0, _json: AsJson = False) -> None:
    """Stop the vCPUs; memory stays."""
    _change("pause", name, None, waiting, timeout_s)


@app.command("resume")
def resume(name: Name, waiting: Wait = False, timeout_s: TimeoutS = 60.0, _json: AsJson = False) -> None:
    """Let a paused VM go on."""
    _change("resume", name, None, waiting, timeout_s)


@app.command("delete")
def delete(name: Name, waiting: Wait = False, timeout_s: TimeoutS = 120.0, _json: AsJson = False) -> None:
    """Delete a stopped VM and its disks."""
    api = client()
    task.finish(api, api.delete(path("vms", name)), f"delete {name}", waiting, timeout_s)


@app.command("exec")
def exec_(
    name: Name,
    argv: Annotated[list[str], typer.Argument(metavar="-- CMD [ARG]...", help="The program and its arguments.")],
    timeout: Annotated[str, typer.Option(metavar="TIME", help="How long the program may run: 30s, 5m.")] = "30s",
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Send this command's input to the program.")] = False,
    _json: AsJson = False,
) -> None:
    """Run a program in the guest, by its guest agent; ends with that program's exit code."""
    from services.cli import guest

    guest.run(client(), name, argv, units.seconds(timeout), stdin)


@app.command("screenshot")
def screenshot(
    name: Name,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the PNG goes.", dir_okay=False)],
    _json: AsJson = False,
) -> None:
    """What the guest's screen shows right now, as a PNG; the cluster keeps it for 7 days."""
    from services.cli import guest

    guest.screenshot(client(), name, output)


@app.command("console")
def console(name: Name) -> None:
    """The serial console; leave it with Ctrl-]."""
    from services.cli import console as terminal

    terminal.attach(client().where, name)
