"""Keys of backups by asvctl, through a gateway and an agent: two commands, and a backup is encrypted. Nowhere is the key said."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from libs.common import backup_key
from libs.common.bus.memory import MemoryBus
from services.cli.backup_key import KEEP
from services.gateway.auth import Role
from services.gateway.tokens import MemoryTokens, new_token
from tests.contract.cli_rig import Said
from tests.contract.test_cli_gateway import api as api
from tests.contract.test_cli_gateway import ctl as ctl

type Ctl = Callable[..., Awaitable[Said]]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """All that the bus was given."""
    found: list[bytes] = []
    for name in ("publish", "request"):
        was = getattr(MemoryBus, name)

        def noted(bus: MemoryBus, subject: str, data: bytes, *rest: Any, _was: Any = was, **more: Any) -> Any:
            found.append(data)
            return _was(bus, subject, data, *rest, **more)

        monkeypatch.setattr(MemoryBus, name, noted)
    return found


async def running(ctl: Ctl) -> None:
    assert (await ctl("vm", "create", "web-1", "--memory", "128MiB", "--disk", "8MiB", "--wait")).code == 0


async def test_two_commands_and_a_backup_is_encrypted(ctl: Ctl, tmp_path: Path, heard: list[bytes]) -> None:
    await running(ctl)
    said = await ctl("backup", "create", "web-1", "--pool", "default", "--encrypt")
    assert said.code == 1 and "KEY_UNKNOWN" in said.err and "asvctl backup key new main" in said.err
    file = tmp_path / "main.key"
    said = await ctl("backup", "key", "new", "main", "--file", str(file))
    assert said.code == 0 and "n1" in said.out and KEEP in said.err, said
    key = backup_key.load(file)
    assert key.id in said.out and key.secret not in said.out + said.err
    said = await ctl("backup", "create", "web-1", "--pool", "default", "--encrypt", "--wait")
    assert said.code == 0, said
    said = await ctl("backup", "create", "web-1", "--pool", "default", "--key", "main", "--wait")
    assert said.code == 0, said
    found = (await ctl("backup", "ls", "web-1", "--json")).json["items"]
    assert [(one["backup"]["key"], one["backup"]["kind"]) for one in found] == [(key.id, "full"), (key.id, "incremental")]
    assert f"encrypted by {key.id}" in (await ctl("backup", "ls", "web-1")).out
    assert key.id in (await ctl("backup", "show", "web-1", found[0]["backup"]["id"])).out
    (shown,) = (await ctl("backup", "key", "ls", "--json")).json["items"]
    assert shown == {"id": key.id, "nodes": ["n1"], "backups": 2}
    assert (await ctl("backup", "create", "web-1", "--pool", "default", "--encrypt", "--compress")).code == 1
    plain = await ctl("backup", "create", "web-1", "--pool", "default", "--wait")
    last = (await ctl("backup", "ls", "web-1", "--json")).json["items"][-1]["backup"]
    assert plain.code == 0 and last["kind"] == "full" and f"is encrypted by the key {key.id}, and it by none" in last["note"]
    assert any(key.id.encode() in data for data in heard), "else this says nothing"
    assert not any(key.secret.encode() in data or bytes.fromhex(key.secret) in data for data in heard)


async def test_a_key_is_let_go_only_by_its_name_where_backups_need_it(ctl: Ctl, tmp_path: Path) -> None:
    await running(ctl)
    file = tmp_path / "main.key"
    assert (await ctl("backup", "key", "new", "main", "--file", str(file))).code == 0
    key = backup_key.load(file)
    assert (await ctl("backup", "create", "web-1", "--pool", "default", "--encrypt", "--wait")).code == 0
    said = await ctl("backup", "key", "drop", key.id)
    assert said.code == 1 and "KEY_IN_USE" in said.err and "1 backups are encrypted" in said.err, said
    said = await ctl("backup", "key", "drop", key.id, "--lose", key.id)
    assert said.code == 0 and "n1" in said.out, said
    assert (await ctl("backup", "key", "ls", "--json")).json["items"] == [{"id": key.id, "nodes": [], "backups": 1}]
    said = await ctl("vm", "recover", "web-1", "--as", "web-2")
    assert said.code == 1 and "NO_KEY" in said.err and key.id in said.err and "n1" in said.err, said
    said = await ctl("recovery", "drill", "web-1", "--no-agent")
    assert said.code == 1 and "NO_KEY" in said.err, said
    assert (await ctl("backup", "key", "give", str(file))).code == 0
    assert (await ctl("vm", "recover", "web-1", "--as", "web-2", "--wait")).code == 0


async def test_a_schedule_is_encrypted_too(ctl: Ctl, tmp_path: Path) -> None:
    await running(ctl)
    words = ("backup", "schedule", "web-1", "--cron", "0 2 * * *", "--pool", "default", "--encrypt")
    said = await ctl(*words)
    assert said.code == 1 and "KEY_UNKNOWN" in said.err
    assert (await ctl("backup", "key", "new", "main", "--file", str(tmp_path / "k"))).code == 0
    assert (await ctl(*words)).code == 0
    assert "encrypted" in (await ctl("backup", "schedule", "web-1")).out
    assert (await ctl("backup", "schedule", "web-1", "--key", "main")).code == 0
    assert "encrypted by main" in (await ctl("backup", "schedule", "web-1")).out
    assert (await ctl("backup", "schedule", "web-1", "--no-encrypt")).code == 0
    assert "encrypted" not in (await ctl("backup", "schedule", "web-1")).out


async def test_what_goes_wrong_is_said_and_no_key_is_lost(ctl: Ctl, tmp_path: Path, api: tuple[str, MemoryTokens]) -> None:
    file = tmp_path / "main.key"
    assert (await ctl("backup", "key", "new", "Main", "--file", str(file))).code == 2
    assert (await ctl("backup", "key", "new", "main", "--file", str(tmp_path / "none" / "k"))).code == 1
    said = await ctl("backup", "key", "new", "main", "--file", str(file), "--node", "n9")
    assert said.code == 1 and "there is no node n9" in said.err and file.exists(), "it is kept, to be given later"
    assert (await ctl("backup", "key", "ls", "--json")).json["items"] == []
    assert (await ctl("backup", "key", "give", str(file), "--node", "n1")).code == 0
    said = await ctl("backup", "key", "new", "main", "--file", str(tmp_path / "again"))
    assert said.code == 1 and "there is a key main already" in said.err and not (tmp_path / "again").exists()
    file.write_text(file.read_text().replace("main", "mine"))
    said = await ctl("backup", "key", "give", str(file))
    assert said.code == 2 and "was changed" in said.err
    assert (await ctl("backup", "key", "drop", "none-0123456789abcdef")).code == 3
    row, token = new_token("some", Role.OPERATOR, ("*",), 0)
    await api[1].add(row)
    said = await ctl("--token", token, "backup", "key", "new", "other", "--file", str(tmp_path / "other"))
    assert said.code == 5 and "admin" in said.err, said
