"""Kernel modules: which are needed for the wanted ones, and the two tables that modprobe reads.

Packages ship no modules.dep (it is made at installation), so dependencies are read from the modules themselves.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from infra.guest.decompress import decompress
from infra.guest.packages import GuestError

_INFO = re.compile(rb"(?:^|\0)(depends|alias)=([^\0]*)")
_SIGNED = b"~Module signature appended~\n"
_SIGNATURE_TAIL = struct.Struct(">8xI")
"""what stands between a signature and the word that there is one: the signature's length, in bytes"""


@dataclass(frozen=True, slots=True)
class Module:
    """path: relative to the modules' folder, without a compression suffix; data: without a signature; depends, aliases: as the
    module says."""

    name: str
    path: str
    data: bytes
    depends: tuple[str, ...]
    aliases: tuple[str, ...]


def select(folder: Path, wanted: Iterable[str], required: Iterable[str]) -> list[Module]:
    """The wanted modules of lib/modules/<release> and all they depend on, sorted by name. Those built into the kernel
    or not to be had are left out; raises GuestError when that is a `required` one."""
    files = {_name(p.name): p for p in folder.glob("kernel/**/*.ko*")}
    builtin = {_name(Path(line).name) for line in (folder / "modules.builtin").read_text().splitlines()}
    chosen: dict[str, Module] = {}
    queue = [_name(w) for w in wanted]
    while queue:
        name = queue.pop()
        if name in chosen or name not in files:
            continue
        chosen[name] = module = _read(name, files[name], folder)
        queue += module.depends
    absent = sorted({_name(r) for r in required} - chosen.keys() - builtin)
    if absent:
        raise GuestError(f"the kernel {folder.name} has no module {', '.join(absent)}, which the tiny guest needs")
    return [chosen[name] for name in sorted(chosen)]


def tables(modules: list[Module]) -> dict[str, bytes]:
    """modules.dep and modules.alias for exactly these modules."""
    path = {m.name: m.path for m in modules}
    by_name = {m.name: m for m in modules}
    dep = "".join(f"{m.path}: {' '.join(path[d] for d in _closure(m, by_name))}".rstrip() + "\n" for m in modules)
    alias = "".join(f"alias {a} {m.name}\n" for m in modules for a in m.aliases)
    return {"modules.dep": dep.encode(), "modules.alias": alias.encode()}


def _closure(module: Module, by_name: dict[str, Module]) -> list[str]:
    """All that `module` needs, the nearest first: modprobe loads the list from its end."""
    order: list[str] = []
    queue = list(module.depends)
    while queue:
        name = queue.pop(0)
        if name in by_name:
            if name in order:
                order.remove(name)
            order.append(name)
            queue += by_name[name].depends
    return order


def _name(file_name: str) -> str:
    return file_name.split(".", 1)[0].replace("-", "_")


def _read(name: str, file: Path, folder: Path) -> Module:
    data = unsigned(decompress(file.read_bytes(), file.name))
    found: dict[bytes, list[str]] = {b"depends": [], b"alias": []}
    for key, value in _INFO.findall(data):
        found[key].append(value.decode(errors="replace"))
    depends = tuple(_name(d) for value in found[b"depends"] for d in value.split(",") if d)
    path = str(file.relative_to(folder).with_name(file.name.split(".ko", 1)[0] + ".ko"))
    return Module(name, path, data, depends, tuple(sorted(found[b"alias"])))


def unsigned(data: bytes) -> bytes:
    """The module without its signature: to check one costs as much as to load it, where instructions are emulated."""
    if not data.endswith(_SIGNED):
        return data
    body = data[: -len(_SIGNED)]
    (length,) = _SIGNATURE_TAIL.unpack(body[-_SIGNATURE_TAIL.size :])
    return body[: -_SIGNATURE_TAIL.size - length]
