"""`asvctl vm`: the life of virtual machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import show, task, units
from services.cli.client import path
from services.cli.session import SESSION, AsJson, TimeoutS, Wait, client, wants_json
from services.cli.vm_clone import clone
from services.cli.vm_create import create
from services.cli.vm_guard import guard
from services.cli.vm_history import history
from services.cli.vm_io import io
from services.cli.vm_migrate import migrate
from services.cli.vm_recover import recover
from services.cli.vm_schedule import schedule, set_
from services.cli.vm_show import print_vm

app = typer.Typer(help="Virtual machines.", no_args_is_help=True)


def _names(incomplete: str) -> list[str]:
    """For shell completion: quick, and silent when there is no cluster."""
    try:
        found = client(timeout_s=1.0).items(path("vms"))
    except Exception:  # noqa: BLE001, RUF100  (a shell waits for words, not for reasons)
        return []
    return [str(vm["name"]) for vm in found if str(vm.get("name", "")).startswith(incomplete)]


Name = Annotated[str, typer.Argument(metavar="NAME", help="The VM's name.", autocompletion=_names)]


app.command("create")(create)
app.command("clone")(clone)
app.command("guard")(guard)
app.command("history")(history)
app.command("io")(io)
app.command("migrate")(migrate)
app.command("recover")(recover)
app.command("set")(set_)
app.command("schedule")(schedule)


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
            f"{vm.get('state')}{' (owed)' if vm.get('owed') else ' (not known)' if vm.get('node_lost') else ''}",
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
    print_vm(client().get(path("vms", name)))


def _change(verb: str, name: str, body: dict[str, Any] | None, waiting: bool, timeout_s: float) -> None:
    api = client()
    task.finish(api, api.post(path("vms", name, verb), body), f"{verb} {name}", waiting, timeout_s)


@app.command("start")
def start(
    name: Name,
    node: Annotated[str, typer.Option(help="On this node or nowhere; where placement says, if it is not given.")] = "",
    waiting: Wait = False,
    timeout_s: TimeoutS = 300.0,
    _json: AsJson = False,
) -> None:
    """Start a stopped VM."""
    _change("start", name, {"node": node} if node else None, waiting, timeout_s)


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


@app.command("memory")
def memory(name: Name, _json: AsJson = False) -> None:
    """What it takes of its host's memory: resident, shared, swapped, in huge pages, per NUMA cell; its balloon."""
    from services.cli import vm_memory

    vm_memory.memory(client(), name)


@app.command("translate")
def translate(
    name: Name,
    gva: Annotated[
        str, typer.Option("--gva", metavar="ADDRESS", help="The guest-virtual address: 0xffffffff81000000.")
    ],
    pid: Annotated[int, typer.Option("--pid", metavar="N", help="Of this process in the guest.", min=0)] = 0,
    _json: AsJson = False,
) -> None:
    """Where an address of the guest lies: guest-virtual, guest-physical, host-virtual, machine."""
    from services.cli import vm_memory

    vm_memory.translate(client(), name, gva, pid)


@app.command("console")
def console(name: Name) -> None:
    """The serial console; leave it with Ctrl-]."""
    from services.cli import console as terminal

    SESSION.of_now("asvctl vm console")
    terminal.attach(client().where, name)
