"""`asvctl vm io`: what a VM's devices are, what they do, and what that costs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from services.cli import show
from services.cli.client import Client, path
from services.cli.failure import NOT_FOUND, Failure
from services.cli.session import AsJson, client, wants_json

WINDOW_S = 1.0
"""between two looks, where nobody looked lately"""
WATCH_S = 2.0
BAR_WIDTH = 40


def io(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The VM's name.")] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Look again every 2 s, until Ctrl-C.")] = False,
    histogram: Annotated[str, typer.Option(metavar="DISK", help="How long this disk's requests took, such as disk0.")] = "",
    models: Annotated[bool, typer.Option("--models", help="Which device models there are, and when to choose each.")] = False,
    _json: AsJson = False,
) -> None:
    """What its devices are and do: rings, throughput, latency, errors, and how often the guest's accesses were intercepted."""
    if models:
        print_models()
        return
    if not name:
        raise typer.BadParameter("name a VM, or say --models")
    api = client()
    found = _look(api, name)
    while True:
        if watch and sys.stdout.isatty():
            sys.stdout.write("\x1b[H\x1b[2J")
        _print(found, histogram)
        if not watch:
            return
        sys.stdout.flush()
        try:
            time.sleep(WATCH_S)
        except KeyboardInterrupt:
            return
        found = api.get(path("vms", name, "io"))


def _look(api: Client, name: str) -> dict[str, Any]:
    """With rates: a second look where the first had nothing to compare with."""
    found: dict[str, Any] = api.get(path("vms", name, "io"))
    if not found.get("window_ms"):
        time.sleep(WINDOW_S)
        found = api.get(path("vms", name, "io"))
    return found


def _print(found: dict[str, Any], histogram: str) -> None:
    if histogram:
        _print_histogram(found, histogram)
    elif wants_json():
        show.as_json(found)
    else:
        _print_io(found)


def _print_io(found: dict[str, Any]) -> None:
    devices = found["devices"]
    window = f"{found['window_ms'] / 1000:.1f} s" if found.get("window_ms") else "none yet"
    show.facts([("vm", f"{found['vm']} on {found['node']}"), ("rates over", window), ("intercepted", found["intercepted"])])
    print()
    rows = [(d["name"], d["kind"], d["model"], _how(d), d["address"], _rings(d), d["counted_by"]) for d in devices]
    show.table(("DEVICE", "KIND", "MODEL", "HOW", "ADDRESS", "RINGS", "COUNTED BY"), rows, "no device was seen")
    disks = [d for d in devices if d["requests"]]
    if disks:
        print()
        heads = ("DISK", "READ/S", "WRITE/S", "FLUSH/S", "READ MIB/S", "WRITE MIB/S", "DEPTH", "MEAN", "P99", "ERRORS")
        show.table(heads, [_disk(d) for d in disks], "")
    nics = [d for d in devices if d["kind"] == "nic"]
    if nics:
        print()
        of_nics = ("NIC", "RX/S", "TX/S", "RX MIB/S", "TX MIB/S", "RX PACKETS", "TX PACKETS", "ERRORS", "DROPPED")
        show.table(of_nics, [_nic(d) for d in nics], "")
    if found.get("exits"):
        print()
        show.table(("EXITS", "/S", "TOTAL"), [(e["kind"], f"{e['per_s']:g}", e["total"]) for e in found["exits"]], "")
    for device in devices:
        if device.get("note"):
            show.note(f"{device['name']}: {device['note']}")
        if not device.get("ours", True):
            show.note(f"{device['name']}: not of this VM's definition: somebody plugged it by hand")


def _how(device: dict[str, Any]) -> str:
    return "paravirtual" if device["paravirtual"] else "emulated"


def _rings(device: dict[str, Any]) -> str:
    """How many of which size, and what is in flight: `3 of 256, 1 in flight`."""
    rings = device["queues"]
    if not rings:
        return ""
    sizes = sorted({ring["size"] for ring in rings})
    said = f"{len(rings)} of {'-'.join(map(str, (sizes[0], sizes[-1]) if len(sizes) > 1 else sizes))}"
    waiting = sum(ring["in_flight"] for ring in rings)
    return f"{said}, {waiting} in flight" if waiting else said


def _disk(device: dict[str, Any]) -> Sequence[object]:
    of = {r["kind"]: r for r in device["requests"]}
    timed = [r for r in of.values() if r["kind"] in ("read", "write")]
    many = sum(r["per_s"] for r in timed)
    mean_us = sum(r["mean_us"] * r["per_s"] for r in timed) / many if many else 0.0
    worst = max((r["p99_us"] if r["p99_us"] >= 0 else sys.maxsize for r in timed), default=0)
    return (
        device["name"], *(f"{of[kind]['per_s']:g}" for kind in ("read", "write", "flush")),
        *(f"{of[kind]['mibps']:.2f}" for kind in ("read", "write")), f"{device['depth']:g}", _took(mean_us),
        "> 10 s" if worst == sys.maxsize else _took(worst), sum(r["failed"] + r["invalid"] for r in of.values()),
    )  # fmt: skip


def _nic(device: dict[str, Any]) -> Sequence[object]:
    of = {p["kind"]: p for p in device["packets"]}
    if not of:
        return (device["name"], *["not counted"] * 2, *["-"] * 6)
    rx, tx = of["rx"], of["tx"]
    return (
        device["name"], f"{rx['per_s']:g}", f"{tx['per_s']:g}", f"{rx['mibps']:.2f}", f"{tx['mibps']:.2f}",
        rx["total"], tx["total"], rx["errors"] + tx["errors"], rx["dropped"] + tx["dropped"],
    )  # fmt: skip


def _took(us: float) -> str:
    if us >= 1_000_000:
        return f"{us / 1e6:g} s"
    return f"{us / 1000:.3g} ms" if us >= 1000 else f"{us:.3g} us" if us else "-"


def _print_histogram(found: dict[str, Any], name: str) -> None:
    """Raises Failure."""
    device = next((d for d in found["devices"] if d["name"] == name and d["requests"]), None)
    if device is None:
        has = ", ".join(d["name"] for d in found["devices"] if d["requests"]) or "none"
        raise Failure(NOT_FOUND, f"{found['vm']} has no disk {name}; it has {has}", "name a disk that it has")
    if wants_json():
        show.as_json({"bounds_us": found["bounds_us"], "requests": device["requests"]})
        return
    bounds = found["bounds_us"]
    labels = [*(f"<= {_took(bound)}" for bound in bounds), f"> {_took(bounds[-1])}"]
    for requests in device["requests"]:
        bins = requests["bins"]
        if not sum(bins):
            continue
        print(f"{name} {requests['kind']}: {requests['total']} since its start")
        first = next(i for i, n in enumerate(bins) if n)
        last = max(i for i, n in enumerate(bins) if n)
        for label, number in list(zip(labels, bins, strict=True))[first : last + 1]:
            bar = "#" * -(-number * BAR_WIDTH // max(bins))
            print(f"  {label:>10}  {number:>9}  {bar}".rstrip())


def print_models() -> None:
    """The one table (proto/models.py)."""
    from proto.models import MODELS

    if wants_json():
        show.as_json([{field: getattr(m, field) for field in m.__struct_fields__} for m in MODELS.values()])
        return
    for model in MODELS.values():
        show.facts(
            [
                (model.driver, f"{model.kind}, {'paravirtual' if model.paravirtual else 'emulated'}"),
                ("  emulates", model.emulates),
                ("  costs", model.costs),
                ("  choose", model.choose),
            ]
        )
