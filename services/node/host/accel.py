"""Which accelerator QEMU can really use here: found by running code under it, never by looking at /dev/kvm.

A verdict needs the whole of the boot sector's text and its exit code within RUN_S_MAX; first with QEMU's default CPU model,
then with the model that VMs get, since QEMU may abort on a model alone. It is kept per boot, QEMU and models.

    QemuUnusable    QEMU is missing or runs code under no accelerator
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec

from services.node.host.boot_sector import EXIT_CODE, EXIT_PORT, SAY_PORT, SAYS, boot_sector
from services.node.host.identity import boot_id
from services.node.host.qemu import QemuUnusable, version

RUN_S_MAX = 1.5
"""seconds; real acceleration needs 0.1, emulation of every instruction more than 20"""
TCG_S_MAX = 30.0
"""seconds; 0.1 is usual, but this one only has to be right, on a machine however busy"""
MODELS = {"kvm": ("Nehalem", "qemu64"), "tcg": ("qemu64",)}
"""CPU models for VMs, the first usable one is taken: named ones, so that what a guest sees does not depend on the host"""
SENTENCE_CHARS_MAX = 200


class Accelerator(msgspec.Struct, frozen=True):
    """name: `kvm` or `tcg`; reason: a sentence for the operator; cpu_model: what VMs are given."""

    name: str
    reason: str
    cpu_model: str


class _Run(msgspec.Struct, frozen=True):
    """What one run came to: sentence is empty when all was right."""

    sentence: str


async def probe(qemu: str, cache: Path) -> Accelerator:
    """The verdict, from `cache` (a folder, made when missing) where this boot and QEMU were probed before.
    Raises QemuUnusable."""
    key = [boot_id(), await version(qemu), qemu, MODELS, boot_sector()]
    file = cache / f"accelerator-{hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:16]}.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=Accelerator)
    except (FileNotFoundError, msgspec.MsgspecError):
        found = await _find(qemu)
    _keep(file, found)
    return found


def _keep(file: Path, found: Accelerator) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}")
    draft.write_bytes(msgspec.json.encode(found))
    draft.replace(file)


async def _find(qemu: str) -> Accelerator:
    model, why_not = await _usable(qemu, "kvm", RUN_S_MAX)
    if model:
        return Accelerator("kvm", "KVM ran 64-bit code at full speed", model)
    model, why_no_tcg = await _usable(qemu, "tcg", TCG_S_MAX)
    if model:
        return Accelerator("tcg", f"KVM is not usable: {why_not}; instructions are emulated (TCG), slowly", model)
    raise QemuUnusable(f"{qemu} runs no code: under KVM {why_not}; under TCG {why_no_tcg}")


async def _usable(qemu: str, name: str, run_s_max: float) -> tuple[str, str]:
    """(the CPU model to use, "") or ("", why there is none)."""
    run = await _run(qemu, name, "", run_s_max)
    if run.sentence:
        return "", run.sentence
    for model in MODELS[name]:
        run = await _run(qemu, name, model, run_s_max)
        if not run.sentence:
            return model, ""
    return "", f"CPU model {MODELS[name][-1]}: {run.sentence}"


async def _run(qemu: str, name: str, model: str, run_s_max: float) -> _Run:
    """One start of the boot sector, with QEMU's own CPU model where none is named."""
    with tempfile.TemporaryDirectory(prefix="asv-accel-") as aside:
        disk, said = Path(aside) / "disk", Path(aside) / "said"
        disk.write_bytes(boot_sector())
        words = _words(qemu, name, model, disk, said)
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _bound(process.pid, run_s_max)
        try:
            _, err = await asyncio.wait_for(process.communicate(), run_s_max)
        except TimeoutError:
            err = b""
        finally:
            late = process.returncode is None
            if late:
                process.kill()
                await process.wait()
        heard = said.read_bytes() if said.exists() else b""
        return _Run("" if heard == SAYS and process.returncode == EXIT_CODE else _why(late, heard, err, run_s_max))


def _bound(pid: int, run_s_max: float) -> None:
    """CPU time, so that a test program which never ends does end when we are killed while it runs."""
    cpu_s = int(run_s_max) + 1
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_CPU, (cpu_s, cpu_s))


def _words(qemu: str, name: str, model: str, disk: Path, said: Path) -> list[str]:
    return [
        *(qemu, "-M", "pc", "-accel", name, *(("-cpu", model) if model else ()), "-m", "16"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot"),
        *("-chardev", f"file,id=said,path={_escaped(said)}"),
        *("-device", f"isa-debugcon,iobase={SAY_PORT:#x},chardev=said"),
        *("-device", f"isa-debug-exit,iobase={EXIT_PORT:#x},iosize=4"),
        *("-drive", f"file={_escaped(disk)},format=raw,if=ide,snapshot=on"),
    ]


def _escaped(path: Path) -> str:
    """A comma ends a value in QEMU's options, two are one."""
    return str(path).replace(",", ",,")


def _why(late: bool, heard: bytes, err: bytes, run_s_max: float) -> str:
    got = f"it printed {heard.decode(errors='replace') or 'nothing'}, where {SAYS.decode()} was awaited"
    if late:
        return f"the test program did not end within {run_s_max} s ({got})"
    lines = err.decode(errors="replace").strip().splitlines()
    return lines[0][:SENTENCE_CHARS_MAX] if lines else f"QEMU ended early ({got})"
