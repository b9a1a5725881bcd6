"""Files out of backups that are encrypted, and out of those in windows of an NBD export: by the real reader."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from libs.common import backup_key
from services.node.drivers import DriverError
from services.node.drivers.qemu.backups import cipher, claims
from services.node.drivers.qemu.backups.reader import Reader
from tests.contract.driver_rigs import EXPORT_MIB
from tests.contract.saved_files import FS_MIB, Node, a_disk, content, ext4, names, opened
from tests.contract.store_rigs import NbdRig

KEY = backup_key.make("main")
DATA = a_disk("data", FS_MIB, 1)
WORD = b"what nobody else may read" * 200


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file that is made beforehand takes QEMU 2 s of a CPU."""
    monkeypatch.setattr(cipher, "BLANKS_MAX", 1)


@pytest.fixture(params=[("folder", KEY.id), ("nbd", KEY.id), ("nbd", "")], ids=["folder-encrypted", "nbd-encrypted", "nbd"])
def kept(request: pytest.FixtureRequest) -> tuple[str, str]:
    """In which kind of pool, and by which key. In a folder, without one: test_backup_files_qemu.py."""
    kind, key = request.param
    return str(kind), str(key)


@pytest.fixture
def far(kept: tuple[str, str], tmp_path: Path) -> Iterator[NbdRig | None]:
    if kept[0] == "folder":
        yield None
        return
    rig = NbdRig(tmp_path, ("asv",), EXPORT_MIB, None, "asv")
    yield rig
    rig.end()


@pytest.fixture
def key(kept: tuple[str, str]) -> str:
    return kept[1]


@pytest.fixture
async def node(far: NbdRig | None, key: str, tmp_path: Path) -> AsyncIterator[Node]:
    """With b1-1, and b1-2 on it, in which a file is another."""
    made = Node(tmp_path, far=far)
    await made.driver.open()
    if key:
        await given(made)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "word").write_bytes(WORD)
    fs = ext4(tmp_path / "fs", tmp_path / "tree")
    made.put(DATA, fs)
    await made.back_up(DATA, key=key)
    made.write(DATA, fs.read_bytes().index(WORD), ord("B"), 4096)
    await made.back_up(DATA, parent="b1-1", key=key)
    yield made
    await made.close()


async def given(node: Node) -> None:
    sealed = backup_key.seal(KEY, "n1", (await node.driver.capabilities()).move_key)
    assert await node.driver.take_key(sealed) == KEY.id


def lies(node: Node) -> dict[str, str]:
    """Digests of all that the backups are."""
    if node.far is not None:
        with (node.far.files / "asv").open("rb") as export:
            found = claims.all_of(node.far.leases).values()
            return {f"{one}": _of(export.seek(one.offset) and export.read(one.size)) for one in found}
    return {str(path): _of(path.read_bytes()) for path in (node.pool / "backups").glob("**/*.qcow2")}


def _of(data: bytes | int) -> str:
    assert isinstance(data, bytes)
    return hashlib.sha256(data).hexdigest()


async def test_files_of_each_are_what_they_were_and_what_is_missing_is_named(node: Node, key: str) -> None:
    before = lies(node)
    assert len(before) == 2
    for backup, word in (("b1-1", WORD), ("b1-2", b"B" * 4096 + WORD[4096:])):
        reader = await opened(node.driver, backup, node.backups)
        assert isinstance(reader, Reader)
        command = Path(f"/proc/{reader._process.pid}/cmdline").read_bytes()
        assert (f"key-{KEY.id}".encode() in command) == bool(key) and KEY.secret.encode() not in command
        assert await names(reader, "/data") == ["lost+found", "word"]
        assert await content(reader, "/data/word") == word
        await reader.close()
    assert lies(node) == before and node.left() == [], "what its kernel wrote went elsewhere"
    await _refused(node, key)
    reader = await opened(node.driver, "b1-2", node.backups)
    assert await names(reader, "/data") == ["lost+found", "word"]
    await reader.close()
    assert node.left() == []


async def _refused(node: Node, key: str) -> None:
    if key:
        await node.driver.drop_key(KEY.id)
        with pytest.raises(DriverError, match=f"encrypted by the key {KEY.id}, which n1 does not have"):
            await opened(node.driver, "b1-2", node.backups)
        await given(node)
    if node.far is not None:
        (path,) = (node.far.leases / "backups").glob("*/b1-1/*.qcow2")
        claim = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(claim.replace(b'"size":', b'"size":1'))
        with pytest.raises(DriverError, match="were written: the backup is damaged"):
            await opened(node.driver, "b1-2", node.backups)
        path.write_bytes(claim)
        node.far.end()
        with pytest.raises(DriverError, match=r"cannot be opened .*the NBD server at"):
            await opened(node.driver, "b1-2", node.backups)
        node.far.restart()
