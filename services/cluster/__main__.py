"""`python -m services.cluster up|down|status|logs|destroy|lab`; the daemon itself is `… daemon`."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
import sys
import time
from signal import SIGKILL, SIGTERM

from services.cluster import control, groups, leave, networks, processes, record, screen, vms, watchdogs
from services.cluster.layout import CHECKOUT, NODES, Layout, default_home
from services.cluster.places import NoPlace
from services.cluster.plan import log_tail
from services.cluster.processes import alive

DOWN_S_MAX = 60.0
BOUND_S_MAX = 20.0
GROUPS_S_MAX = 5.0
LOG_LINES = 15
LEAST_MIB = 1024


def say(text: str) -> None:
    print(text, flush=True)


def up(layout: Layout, options: argparse.Namespace) -> int:
    """Starts the daemon unless it runs, shows its progress, ends with the screen."""
    layout.make()
    found = record.load(layout.record)
    if not layout.record.exists():
        record.save(layout.record, found)  # by which destroy knows a cluster's folder
    if not alive(found.supervisor):
        chosen = ["--separate"] * options.separate + ["--apart"] * options.apart
        chosen += ["--driver", options.driver] if options.driver else []
        chosen += ["--memory-mib", str(options.memory_mib)] if options.memory_mib is not None else []
        if not _launch(layout, chosen):
            return 1
    began = time.monotonic()
    for said in control.ask(layout, "watch"):
        say(f"{time.monotonic() - began:6.1f} s  {said.text}")
        if said.done and said.ok:
            say(screen.welcome(layout, record.load(layout.record)))
            return 0
    return _explain(layout)


def _launch(layout: Layout, chosen: list[str]) -> bool:
    """Starts the daemon in a session of its own; returns once its control socket takes requests."""
    readable, writable = os.pipe()
    with layout.log("supervisor").open("ab") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "services.cluster", "daemon", "--bound-fd", str(writable), *chosen],
            cwd=CHECKOUT, env=os.environ | {"ASV_HOME": str(layout.home), "PYTHONPATH": str(CHECKOUT)},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(writable,), start_new_session=True,
        )  # fmt: skip
    os.close(writable)
    with os.fdopen(readable, "rb") as bound:
        if bound.read(1):
            return True
    say(f"the supervisor ended at once (exit code {daemon.wait(BOUND_S_MAX)}):\n{log_tail(layout.log('supervisor'))}")
    return False


def _explain(layout: Layout) -> int:
    found = record.load(layout.record)
    for name, child in found.children.items():
        if child.state != "ready":
            say(f"--- {name}: {child.state} {child.sentence}\n{log_tail(layout.log(name))}")
    say(f"The cluster did not become healthy. All logs: {layout.logs}")
    return 1


def down(layout: Layout) -> int:
    """Ends all processes but the VMs. The state stays."""
    stop(layout)
    watchdogs.end_idle(layout)
    if not vms.running(layout):
        networks.remove(layout.home)
    say(f"The cluster is down; its state stays in {layout.home}.")
    say(screen.still_running(layout))
    return 0


def stop(layout: Layout) -> None:
    """Ends the supervisor, which ends the rest; what a killed one left is ended too."""
    found = record.load(layout.record)
    if alive(found.supervisor):
        say("stopping ...")
        processes.send(found.supervisor, SIGTERM)
        if not processes.wait_gone(found.supervisor, DOWN_S_MAX):
            say(f"the supervisor did not end within {DOWN_S_MAX:.0f} s: killed; its processes end with it")
            processes.send(found.supervisor, SIGKILL)
            processes.wait_gone(found.supervisor, DOWN_S_MAX)
    left = [child.mark for child in found.children.values() if child.mark is not None]
    processes.end([mark for mark in left if alive(mark)], SIGTERM, DOWN_S_MAX)


def destroy(layout: Layout, sure: bool) -> int:
    """Kills the VMs and removes every folder of this cluster; only folders that a cluster made."""
    if not layout.record.exists():
        say(f"There is no cluster in {layout.home}.")
        return 0
    if not sure:
        say(f"This kills all VMs of the cluster in {layout.home} and removes their disks. Say it with --yes.")
        return 2
    try:
        outside = record.load(layout.record).outside
        stop(layout)
    except ValueError as error:
        say(str(error))
        outside = []
    killed = vms.running(layout)
    vms.kill(killed)
    watchdogs.end_idle(layout, all=True)
    if killed:
        say(f"killed {', '.join(vm.vm for vm in killed)}")
    networks.remove(layout.home)
    for said in leave.all_nodes(layout):
        say(said)
    if not groups.remove_within([*layout.nodes.glob("*/groups"), layout.groups], GROUPS_S_MAX):
        say("a control group of a node still has a process in it and stays; it goes with the next start of this machine")
    for folder in [*outside, str(layout.home)]:
        shutil.rmtree(folder, ignore_errors=True)
        say(f"removed {folder}")
    return 0


def status(layout: Layout) -> int:
    page, well = screen.status(layout, record.load(layout.record))
    say(page)
    return 0 if well else 1


def logs(layout: Layout, names: list[str]) -> int:
    files = sorted(layout.logs.glob("*.log")) if not names else [layout.log(name) for name in names]
    for file in files:
        say(f"--- {file}\n{log_tail(file, LOG_LINES if not names else 1000)}")
    return 0


def lab(layout: Layout, verb: str, node: str, more: list[str]) -> int:
    for said in control.ask(layout, "lab", verb, node, *more):
        say(said.text)
        return 0 if said.ok else 1
    return 1


def daemon(layout: Layout, options: argparse.Namespace) -> int:
    """In its own process: serves until told to end."""
    from services.cluster import supervisor

    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
    chosen = record.load(layout.record)
    chosen.separate, chosen.driver = options.separate, options.driver or chosen.driver
    chosen.apart = options.apart
    chosen.memory_mib = chosen.memory_mib if options.memory_mib is None else options.memory_mib
    try:
        supervisor.serve(layout, os.environ, chosen, lambda: _tell(options.bound_fd))
    except supervisor.AlreadyRuns:
        _tell(options.bound_fd)  # it was started at the same time: then that one is watched
    return 0


def _tell(descriptor: int) -> None:
    if descriptor >= 0:
        os.write(descriptor, b"1")
        os.close(descriptor)


def _mib(text: str) -> int:
    if not text.isdigit() or 0 < int(text) < LEAST_MIB:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or at least {LEAST_MIB} MiB: its areas alone take as much")
    return int(text)


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.cluster", description="The embedded cluster.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("up", "daemon"):
        one = verbs.add_parser(verb)
        one.add_argument("--separate", action="store_true", help="one process per service")
        one.add_argument("--apart", action="store_true", help="each node in a network of its own, by a cable that can be cut")
        one.add_argument("--driver", choices=("qemu", "simulated"), default="", help="of the agents; kept")
        words_said = "what each node may use of this host's memory; kept; 0: its share"
        one.add_argument("--memory-mib", type=_mib, default=None, metavar="MIB", help=words_said)
    verbs.choices["daemon"].add_argument("--bound-fd", type=int, default=-1)
    verbs.add_parser("down")
    verbs.add_parser("status")
    verbs.add_parser("logs").add_argument("names", nargs="*", metavar="PROCESS")
    verbs.add_parser("destroy").add_argument("--yes", action="store_true")
    fault = verbs.add_parser("lab", help="play a fault on a node, or heal it")
    fault.add_argument("fault", choices=("kill", "freeze", "stall", "cut", "heal"))
    fault.add_argument("node", choices=NODES)
    fault.add_argument("--all", action="store_true", help="freeze: the watchdog and the VMs, too")
    fault.add_argument("--for", dest="for_s", type=float, default=8.0, metavar="SECONDS", help="stall: how long")
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    options = parse(words)
    layout = Layout(default_home(os.environ))
    try:
        match options.verb:
            case "up":
                return up(layout, options)
            case "down":
                return down(layout)
            case "status":
                return status(layout)
            case "logs":
                return logs(layout, options.names)
            case "destroy":
                return destroy(layout, options.yes)
            case "lab":
                more = [f"{options.for_s:g}"] if options.fault == "stall" else ["all"] * options.all
                return lab(layout, options.fault, options.node, more)
            case _:
                return daemon(layout, options)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read has gone, as `| head` does
    except (FileNotFoundError, ConnectionRefusedError):
        say(f"No cluster runs in {layout.home}: `make up` starts one.")
    except (OSError, ValueError, NoPlace) as error:
        say(f"{type(error).__name__}: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
