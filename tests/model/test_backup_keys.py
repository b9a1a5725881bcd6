"""Keys by which backups are encrypted: their files, how they are sealed, and what io makes of which nodes have them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from libs.common import backup_key
from libs.common.backup_key import BadBackupKey
from libs.common.decider import Refused
from proto.backup_files import ReadBackupFiles
from proto.backup_plans import BackupPlan, PlanKnown, SetBackupPlan
from proto.backups import BackupFailed, BackupTaken, VerifyBackup
from proto.io import Refusal
from proto.machine import DiskFormat, Origin
from proto.nodes import Capabilities
from proto.recovery import RecoveryRequested
from services.compute.reach import Homes, keyed, reached
from services.io.backups import keys
from services.io.backups.model import BACKUPS
from services.io.backups.orders import orders
from services.io.backups.views import Saved
from services.io.views import NodeView, Views, enrich
from services.node.drivers.qemu.argv import secret_words
from services.node.drivers.qemu.devices import Backing, disk_nodes
from services.node.drivers.simkeys import _private, public
from tests.model.backup_story import (
    B1,
    B2,
    B3,
    DELETE,
    MADE,
    RECOVER,
    RESTS,
    RUNS,
    TAKE,
    after,
    asked,
    backups,
    reported,
    story,
)

KEY = backup_key.make("main")
MAIN, OTHER = KEY.id, "other-0123456789abcdef"
HAVE = {MAIN: ("n1",), OTHER: ("n1", "n2")}
ENCRYPT = replace(TAKE, key="main", known=replace(RUNS, keys=HAVE))


def encrypted(*commands: Any) -> tuple[Any, ...]:
    """As `story`, by agents that do as they are told."""
    events: tuple[Any, ...] = ()
    for command in commands:
        events += after(*events, command=command)
        report = reported(events)
        assert report.done is not None
        events += after(*events, command=replace(report, done=replace(report.done, key=events[-1].key)))
    return events


TWO = encrypted(ENCRYPT, ENCRYPT)


# --- a key -----------------------------------------------------------------------------------------------------------


def test_a_key_is_read_back_and_is_in_nothing_that_is_said_of_it(tmp_path: Path) -> None:
    backup_key.save(path := tmp_path / "k", KEY)
    assert backup_key.load(path) == KEY and path.stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(KEY.secret)) == 32 and KEY.secret not in f"{KEY!r} {KEY}" and KEY.id.startswith("main-")
    with pytest.raises(FileExistsError):
        backup_key.save(path, backup_key.make("main"))
    assert [one.name for one in tmp_path.iterdir()] == ["k"]
    path.chmod(0o640)
    with pytest.raises(BadBackupKey, match="readable by others"):
        backup_key.load(path)


@pytest.mark.parametrize("text", [
    "", KEY.text.replace("asv-backup-key 1", "asv-backup-key 2"), KEY.text.replace("main", "mine"), KEY.text + "more\n",
    KEY.text.replace(KEY.secret, KEY.secret[:-1]), KEY.text.replace(KEY.secret, backup_key.make("x").secret),
])  # fmt: skip
def test_a_file_that_was_changed_is_none(text: str) -> None:
    with pytest.raises(BadBackupKey) as said:
        backup_key.parse(text, "k")
    assert KEY.secret not in str(said.value)


@pytest.mark.parametrize("name", ["", "Main", "a/b", "-a", "x" * 32, "../a"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="no name of a key"):
        backup_key.make(name)


def test_what_is_sealed_is_for_one_node_only() -> None:
    sealed = backup_key.seal(KEY, "n1", public("n1"))
    assert KEY.secret.encode() not in sealed and KEY.id.encode() not in sealed
    assert backup_key.unseal(sealed, "n1", _private("n1")) == KEY
    for node, private, what in (("n2", "n2", sealed), ("n2", "n1", sealed), ("n1", "n1", sealed[:-1]), ("n1", "n1", b"")):
        with pytest.raises(BadBackupKey):
            backup_key.unseal(what, node, _private(private))
    for bad in ("", "no", base64.b64encode(b"short").decode()):
        with pytest.raises(BadBackupKey, match="its agent is too old"):
            backup_key.seal(KEY, "n1", bad)


def test_a_small_file_is_opened_by_its_key_and_shows_that_it_was_changed() -> None:
    shut = backup_key.shut(KEY, b"variables")
    assert backup_key.opened(KEY, shut) == b"variables" and b"variables" not in shut
    for key, what in ((backup_key.make("main"), shut), (KEY, shut[:-1] + bytes([shut[-1] ^ 1])), (KEY, b"")):
        with pytest.raises(BadBackupKey):
            backup_key.opened(key, what)


# --- which one, and who has it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "have", "found"), [
    ("", {MAIN: ("n1",)}, MAIN), ("main", HAVE, MAIN), (OTHER, HAVE, OTHER), ("other", HAVE, OTHER),
])  # fmt: skip
def test_a_key_is_called_by_its_name_or_its_id(word: str, have: Any, found: str) -> None:
    assert keys.chosen(word, have) == found


@pytest.mark.parametrize(("word", "have", "said"), [
    ("", {}, "no node has a key of backups"), ("", HAVE, "there are 2 keys: "),
    ("mine", HAVE, "no node has a key mine; there are: main"),
    ("main", {MAIN: ("n1",), "main-0000000000000000": ("n2",)}, "there are 2 keys named main"),
])  # fmt: skip
def test_one_that_is_not_there_or_not_the_only_one_is_refused(word: str, have: Any, said: str) -> None:
    with pytest.raises(Refused) as no:
        keys.chosen(word, have)
    assert no.value.reason is Refusal.KEY_UNKNOWN and said in no.value.sentence and "asvctl" not in no.value.sentence


def test_it_is_taken_by_a_node_that_has_the_key_and_its_orders_name_it() -> None:
    event = asked(command=ENCRYPT)
    assert (event.key, event.parent, event.why_full) == (MAIN, "", "")
    (order,) = orders("a", BACKUPS.fold([event]), 1)
    assert order.message.key == MAIN  # type: ignore[attr-defined]
    there = BACKUPS.fold(TWO).backups
    assert [(one.key, one.parent) for one in there] == [(MAIN, ""), (MAIN, B1)]
    node = replace(ENCRYPT, known=replace(RUNS, keys={MAIN: ("n2", "n3")}))
    outcome = backups.given().when(node)
    assert outcome.refusal is not None and outcome.refusal.reason is Refusal.NO_KEY
    assert outcome.refusal.sentence == f"n1, where a is, does not have the key {MAIN}; n2, n3 has"
    assert outcome.refusal.remedy == "give it to n1: asvctl backup key give FILE --node n1"


def test_another_key_or_none_makes_it_full_and_says_why() -> None:
    other = asked(*TWO, command=replace(ENCRYPT, key="other"))
    assert (other.parent, other.why_full) == ("", f"it is full: {B2} is encrypted by the key {MAIN}, and it by the key {OTHER}")
    none = asked(*TWO, command=TAKE)
    assert (none.parent, none.why_full) == ("", f"it is full: {B2} is encrypted by the key {MAIN}, and it by none")
    first = asked(*story(TAKE), command=ENCRYPT)
    assert (first.parent, first.why_full) == ("", f"it is full: {B1} is encrypted by none, and it by the key {MAIN}")
    assert asked(*TWO, command=replace(ENCRYPT, full=True)).why_full == ""


def test_what_is_compressed_is_not_encrypted() -> None:
    backups.given().when(replace(ENCRYPT, compress=True)).refused(Refusal.BAD_BACKUP)
    plan = SetBackupPlan(vm="a", plan=BackupPlan(cron="0 2 * * *", compress=True, encrypt=True))
    known = PlanKnown(defined=True, nodes=("n1",), keys={MAIN: ("n1",)})
    backups.given().when(replace(plan, known=known)).refused(Refusal.BAD_BACKUP)


def test_a_schedule_names_a_key_that_there_is() -> None:
    plan = SetBackupPlan(vm="a", plan=BackupPlan(cron="0 2 * * *", encrypt=True), known=PlanKnown(defined=True, nodes=("n1",)))
    backups.given().when(plan).refused(Refusal.KEY_UNKNOWN)
    after(command=replace(plan, known=replace(plan.known, keys={MAIN: ("n2",)})))


def test_an_agent_that_wrote_it_in_the_clear_has_not_taken_it() -> None:
    begun = after(command=ENCRYPT)
    (event,) = after(*begun, command=reported(begun))
    assert isinstance(event, BackupFailed) and event.left
    assert event.sentence == f"it is encrypted by none, and was to be by the key {MAIN}"
    assert isinstance(TWO[-1], BackupTaken)


def test_deleting_needs_the_key_where_others_are_written_anew() -> None:
    lacking = replace(DELETE, keyless=("n2", "n3"))
    outcome = backups.given(*TWO).when(lacking)
    assert outcome.refusal is not None and outcome.refusal.reason is Refusal.NO_KEY
    said = outcome.refusal.sentence
    assert B1 in said and B2 in said and MAIN in said and said.endswith("which none of the nodes that reach it has: n2, n3")
    events = TWO + after(*TWO, command=DELETE)
    (order,) = orders("a", BACKUPS.fold(events), 9)
    assert order.message.key == MAIN  # type: ignore[attr-defined]
    after(*TWO, command=replace(lacking, backup=B2))


def test_a_recovery_is_where_the_key_is_and_its_layers_name_it() -> None:
    outcome = backups.given(*TWO).when(RECOVER)
    assert outcome.refusal is not None and outcome.refusal.reason is Refusal.NO_KEY
    assert outcome.refusal.sentence == (
        f"the backup {B2} is encrypted by the key {MAIN}, which none of the nodes that reach it has: n1, n2"
    )
    there = replace(RECOVER, known=replace(RECOVER.known, keyed={B2: ("n2",)}))
    outcome = backups.given(*TWO).when(replace(there, node="n1"))
    assert outcome.refusal is not None and "which n1 does not have" in outcome.refusal.sentence
    (event,) = after(*TWO, command=replace(there, node="n2"))
    assert isinstance(event, RecoveryRequested)
    assert {layer.origin.key for disk in event.disks for layer in disk.layers if layer.origin} == {MAIN}


def test_files_are_read_out_of_one_where_the_key_is() -> None:
    read = ReadBackupFiles(vm="a", backup=B2, node="n2", at_us=1)
    outcome = backups.given(*TWO).when(replace(read, keyless=("n1", "n2")))
    assert outcome.refusal is not None and outcome.refusal.reason is Refusal.NO_KEY
    assert outcome.refusal.sentence == (
        f"the backup {B2} is encrypted by the key {MAIN}, which none of the nodes that reach it has: n1, n2"
    )
    assert after(*TWO, command=read)
    views = Views(nodes={"n1": NodeView(pools=("safe",)), "n2": NodeView(pools=("safe",), keys=(MAIN,)), "n3": NodeView()})
    views.backups.saved["a"] = {B2: Saved("safe", "s1", key=MAIN), B3: Saved("safe", "s1")}
    told = [enrich(replace(read, backup=backup, node="n9", keyless=("x",)), views, 7) for backup in (B2, B3)]
    assert [(one.node, one.keyless, one.at_us) for one in told] == [("n2", (), 7), ("n1", (), 7)]
    del views.nodes["n2"]
    assert enrich(read, views, 7).keyless == ("n1",)
    (verified,) = [enrich(VerifyBackup(vm="a", backup=B2), views, 7)]
    assert verified.node == "n1", "whether it is what was written is seen without its key"


def test_a_vm_at_rest_is_backed_up_by_any_node_that_has_it() -> None:
    nodes = {"n1": NodeView(pools=("safe",), keys=(OTHER,)), "n2": NodeView(pools=("safe",), keys=(MAIN, OTHER)), "n3": NodeView()}
    assert keys.by_key(nodes) == {MAIN: ("n2",), OTHER: ("n1", "n2")}
    assert asked(command=replace(ENCRYPT, known=replace(RESTS, node="n1", keys=HAVE))).key == MAIN


def test_compute_places_a_vm_on_an_encrypted_backup_where_the_key_is() -> None:
    there = replace(RECOVER, known=replace(RECOVER.known, keyed={B2: ("n2",)}))
    (event,) = after(*TWO, command=there)
    homes = Homes()
    disks = tuple(replace(disk, layers=one.layers) for disk, one in zip(asked(command=ENCRYPT).disks, event.disks, strict=True))
    homes._stands("b", disks)
    can = Capabilities(
        accelerator="tcg", cpu_model="m", pcpus=1, memory_mib=1, qemu_version="0", machine="m", driver="d", pools=("safe",),
        pool_ids={"safe": "s1"},
    )  # fmt: skip
    assert homes.backups["b"] == (keyed(MAIN), "safe@s1")
    assert not set(homes.backups["b"]) <= set(reached(can))
    assert set(homes.backups["b"]) <= set(reached(replace(can, backup_keys=(MAIN,))))


# --- in QEMU's words -----------------------------------------------------------------------------------------------------


def test_a_disk_on_encrypted_layers_names_their_key_and_the_key_is_on_no_command_line() -> None:
    origin = Origin(vm="a", backup=B1, pool="safe", key=MAIN)
    beneath = (Backing("backups/a/b1-1/x.qcow2", DiskFormat.QCOW2, origin), Backing("disks/y.qcow2", DiskFormat.QCOW2))
    nodes = {node["node-name"]: node for node in disk_nodes(replace(MADE[0], slot=0), "/pool", True, beneath)}
    assert nodes["disk0-l0"]["encrypt"] == {"format": "luks", "key-secret": f"key-{MAIN}"}
    assert "encrypt" not in nodes["disk0-l1"] and "encrypt" not in nodes["disk0"]
    assert secret_words(MAIN, 9) == ("-object", f"secret,id=key-{MAIN},file=/proc/self/fd/9")
