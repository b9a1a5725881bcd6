"""`asvctl pool`: where disks and images are."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.cli import show, task, units
from services.cli.client import path
from services.cli.session import AsJson, TimeoutS, Wait, client, wants_json

app = typer.Typer(help="Storage pools.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The pool's name (or, to show it, its id).")]


@app.command("ls")
def ls(_json: AsJson = False) -> None:
    """List storage pools, with their room and how far they are over-provisioned."""
    found = client().items(path("pools"))
    if wants_json():
        show.as_json(found)
        return
    rows = [
        (
            p.get("name"), p.get("id"), p.get("kind"), ", ".join(p.get("nodes") or ()), size(p, "size_mib"), size(p, "free_mib"),
            size(p, "provisioned_mib"), f"{p['ratio']:.2f}" if p.get("ratio") else "-", p.get("error"),
        )
        for p in found
    ]  # fmt: skip
    heads = ("NAME", "ID", "KIND", "NODES", "SIZE", "FREE", "PROVISIONED", "RATIO", "WHY")
    show.table(heads, rows, "no node has told of a pool yet")


@app.command("show")
def show_(name: Name, _json: AsJson = False) -> None:
    """Show the pools of a name: rules, room, images, and what each disk takes of what it was promised."""
    found = client().items(path("pools", name))
    if wants_json():
        show.as_json(found)
        return
    for pool in found:
        show.facts(facts(pool))
        rows = [(d["vm"], d["disk"], units.size(d["size_mib"]), size(d, "used_mib"), d["file"]) for d in pool.get("disks") or ()]
        show.table(("VM", "DISK", "SIZE", "TAKES", "FILE"), rows, "no disks that you may see")


def facts(pool: dict[str, Any]) -> list[tuple[str, object]]:
    rules = pool.get("rules") or {}
    over, keep, at_once = rules.get("over") or 0, rules.get("keep_free_pct", 1), rules.get("backups_at_once", 4)
    return [
        ("name", pool.get("name")),
        ("id", pool.get("id")),
        ("kind", pool.get("kind")),
        ("nodes", ", ".join(pool.get("nodes") or ())),
        ("size", size(pool, "size_mib")),
        ("free", size(pool, "free_mib")),
        ("provisioned", f"{size(pool, 'provisioned_mib')} ({pool.get('ratio') or 0:.2f} times its size)"),
        ("disks take", size(pool, "disks_mib")),
        ("images take", size(pool, "images_mib")),
        ("over", f"at most {over:g} times its size" if over else "no limit"),
        ("keeps free", f"{keep} %"),
        ("backups", f"schedules begin at most {at_once} at once into it" if at_once else "no limit to how many at once"),
        ("images", ", ".join(pool.get("images") or ())),
        ("not shown", f"{pool['others']} disks of other projects" if pool.get("others") else ""),
        ("error", pool.get("error")),
    ]


def size(of: dict[str, Any], key: str) -> str:
    """`?` where nobody says."""
    mib = of.get(key, -1)
    return "?" if mib < 0 else units.size(mib) if mib else "0 MiB"


@app.command("set")
def set_(
    name: Name,
    over: Annotated[
        float | None, typer.Option(metavar="N", min=0, max=1000, help="Disks of at most N times its size; 0: no limit.")
    ] = None,
    keep_free: Annotated[
        str, typer.Option("--keep-free", metavar="PERCENT", help="With less of it free it takes no new disk, as `5%`.")
    ] = "",
    at_once: Annotated[
        int | None,
        typer.Option("--backups-at-once", metavar="N", min=0, max=64, help="Schedules begin none more into it; 0: no limit."),
    ] = None,
    waiting: Wait = False,
    timeout_s: TimeoutS = 30.0,
    _json: AsJson = False,
) -> None:
    """Set the rules of all pools of that name."""
    if over is None and not keep_free and at_once is None:
        raise typer.BadParameter("say --over, --keep-free, --backups-at-once or some of them")
    body: dict[str, Any] = {} if over is None else {"over": over}
    if at_once is not None:
        body["backups_at_once"] = at_once
    if keep_free:
        body["keep_free_pct"] = percent(keep_free)
    api = client()
    task.finish(api, api.post(path("pools", name), body), f"pool {name}", waiting, timeout_s)


def percent(text: str) -> int:
    digits = text.strip().removesuffix("%").strip()
    if not digits.isdigit() or int(digits) > 90:
        raise typer.BadParameter(f"`{text}` is not a whole percentage from 0 to 90, as `5%`")
    return int(digits)
