"""Keys of backups, as a driver keeps them: given, let go, missed. One suite for both drivers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from libs.common import backup_key
from libs.common.backup_key import BackupKey
from proto.backups import BackupDone, BackupKind
from proto.node import OrderBackup
from services.node.drivers import CannotStart, Driver, DriverError, NotBackedUp
from services.node.drivers.qemu.backups import cipher
from services.node.drivers.qemu.driver import QemuDriver
from tests.contract.backup_rig import Saved
from tests.contract.driver_rigs import QemuRig, Rig, SimRig, rig_of
from tests.contract.test_driver_snapshots import mounted

KEY, OTHER = backup_key.make("main"), backup_key.make("other")


@pytest.fixture(params=["simulated", "qemu"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    yield from rig_of(request.param, tmp_path)


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file that is made beforehand takes QEMU 2 s of a CPU."""
    monkeypatch.setattr(cipher, "BLANKS_MAX", 1)


def second_disk(order: OrderBackup) -> OrderBackup:
    return replace(order, disks=order.disks[1:])


async def given(driver: Driver, node: str, key: BackupKey = KEY) -> None:
    can = await driver.capabilities()
    assert await driver.take_key(backup_key.seal(key, node, can.move_key)) == key.id
    assert key.id in (await driver.capabilities()).backup_keys


async def test_a_key_is_kept_only_by_whom_it_was_sealed_for(rig: Rig) -> None:
    driver = rig.driver()
    await driver.open()
    node = driver.host.node if isinstance(rig, SimRig) else "n1"  # type: ignore[attr-defined]
    mine = (await driver.capabilities()).move_key
    for sealed in (backup_key.seal(KEY, "n9", mine), b"nothing", backup_key.seal(KEY, node, mine)[:-1] + b"x"):
        with pytest.raises(DriverError, match=f"{node} does not keep the key"):
            await driver.take_key(sealed)
    assert (await driver.capabilities()).backup_keys == ()
    await given(driver, node)
    await given(driver, node)
    assert (await driver.capabilities()).backup_keys == (KEY.id,)
    if isinstance(rig, QemuRig):
        (path,) = (rig.top / "n1" / "backup-keys").iterdir()
        assert path.stat().st_mode & 0o777 == 0o600 and backup_key.load(path) == KEY
        path.write_text(OTHER.text)
        assert (await driver.capabilities()).backup_keys == (), "what is another than its name says is of no use"
        await given(driver, node)
        await driver.close()
        driver = rig.driver()
        await driver.open()
        assert (await driver.capabilities()).backup_keys == (KEY.id,), "the next agent has it"
    await driver.drop_key(KEY.id)
    await driver.drop_key(KEY.id)
    assert (await driver.capabilities()).backup_keys == ()
    await driver.close()


async def take(saved: Saved, parent: str = "", **more: Any) -> BackupDone:
    """Of its second disk only."""
    return await saved.taken(second_disk(saved.order(parent, **more)))


async def test_who_does_not_have_the_key_writes_none_and_merges_none(rig: Rig) -> None:
    async with mounted(rig) as vm:
        saved, driver = Saved(vm), vm.driver
        node = "n1" if isinstance(driver, QemuDriver) else driver.host.node  # type: ignore[attr-defined]
        with pytest.raises(NotBackedUp, match=f"the key {KEY.id}, which {node} does not have"):
            await take(saved, key=KEY.id)
        await given(driver, node)
        with pytest.raises(NotBackedUp, match="compressed cannot be encrypted"):
            await take(saved, key=KEY.id, compress=True)
        assert saved.names() == []
        full = await take(saved, key=KEY.id, why_full="it is full: so it was said")
        assert (full.kind, full.key, full.sentence) == (BackupKind.FULL, KEY.id, "it is full: so it was said")
        await vm.write("two")
        second = await take(saved, "b1-3", key=KEY.id)
        assert (second.kind, second.key, second.sentence) == (BackupKind.INCREMENTAL, KEY.id, "")
        await given(driver, node, OTHER)
        other = await take(saved, "b1-4", key=OTHER.id)
        assert other.kind is BackupKind.FULL and f"b1-4 is encrypted by the key {KEY.id}" in other.sentence
        await driver.drop_key(KEY.id)
        assert await saved.damaged("b1-4") == {}, "whether a file is what was written is seen without its key"
        removal = replace(saved.removal("b1-3"), key=KEY.id)
        with pytest.raises(NotBackedUp, match=f"the key {KEY.id}, which {node} does not have"):
            await driver.remove_backup(removal)
        if isinstance(rig, SimRig):  # the real one: test_backup_files_kept.py
            with pytest.raises(DriverError, match=f"the key {KEY.id}, which {node} does not have"):
                await driver.open_backup(saved.pool, "web-1", "b1-4")
        await driver.kill("web-1")
        with pytest.raises(CannotStart, match=f"the key {KEY.id}, which {node} does not have"):
            await driver.start(saved.recovered("b1-4", "b1-3", key=KEY.id))
        await given(driver, node)
        saved.removed(removal, await driver.remove_backup(removal))
        await driver.drop_key(KEY.id)
        assert await saved.damaged("b1-4") == {} and saved.names() == ["b1-4", "b1-5"]
        await driver.remove_backup(replace(saved.removal("b1-4"), key=KEY.id))
