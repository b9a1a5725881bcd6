"""Names of files as text and back, paths taken apart, and what a reader says: hostile words included."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.backup_files import FileEntry, FileKind
from services.node.drivers.backup_files import NotRead, What
from services.node.drivers.file_names import NAMES_MAX, BadPath, apart, meant, shown
from services.node.drivers.qemu.backups import reader_words

NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: name not in (b".", b"..") and not {0, ord("/")} & set(name))


@given(NAMES)
def test_each_name_has_a_text_of_its_own_that_moves_no_cursor(name: bytes) -> None:
    text = shown(name)
    assert meant(text) == name
    assert text.isprintable() and "/" not in text


@given(st.text(max_size=300))
def test_no_text_names_anything_outside(text: str) -> None:
    try:
        name = meant(text)
    except BadPath:
        return
    assert name not in (b".", b"..") and b"/" not in name and b"\0" not in name


@pytest.mark.parametrize("text", ["..", ".", "\\x2e\\x2e", "\\x2f", "a\\x00", "\\", "\\x", "\\xg0", "x" * 256, "\udcff"])
def test_what_is_no_name_is_told_so(text: str) -> None:
    with pytest.raises(BadPath):
        meant(text)


def test_a_path_is_taken_apart() -> None:
    assert apart("/") == ("", ()) == apart("")
    assert apart("/disk0") == ("disk0", ())
    assert apart("//disk0:12//etc/a b/") == ("disk0:12", (b"etc", b"a b"))
    assert apart("/lvm:vg--0-root.lv/etc") == ("lvm:vg--0-root.lv", (b"etc",))
    for bad in ("/../x", "/disk0:", "/disk0:1:2", "/-x", "/disk0/../x", "/d/" + "a/" * (NAMES_MAX + 1)):
        with pytest.raises(BadPath):
            apart(bad)


# --- what a reader says -------------------------------------------------------------------------------------------------------


def test_names_become_words_in_which_nothing_is_special() -> None:
    assert reader_words.path_words("vda1", (b"a b", b"\n$")) == r"vda1 \0141\0040\0142 \0012\0044"
    assert reader_words.path_words("vda", ()) == "vda"


def test_disks_are_known_by_the_serial_numbers_that_they_were_given() -> None:
    said = b"vda asv-0 0 1024 - -\nvda1 asv-0 1 512 ext4 root\nvdb asv-7 0 1 ext4 -\n"
    said += b"vdc\x1b asv-1 0 1 - -\nnonsense\nvdb asv-1 0 9 x\xffy -\ndm-0 lvm vg-a 7 xfs -\n"
    found = reader_words.parts(said, {"asv-0": "one", "asv-1": "two"})
    assert [(p.name, p.block, p.bytes, p.type, p.label) for p in found] == [
        ("lvm:vg-a", "dm-0", 7, "xfs", ""), ("one", "vda", 1024, "", ""), ("one:1", "vda1", 512, "ext4", "root"),
        ("two", "vdb", 9, "x\N{REPLACEMENT CHARACTER}y", ""),
    ]  # fmt: skip


def test_a_name_that_looks_like_anothers_line_is_taken_for_what_it_is() -> None:
    names = [b"/m/vda/a\n81a4 7 0 0 0 b", b"/m/vda/gone", b"/m/vda/z"]
    lines = b"81a4 5 -1 10 20 " + names[0] + b"\n" + b"41ed 4096 3 0 0 " + names[2] + b"\n"
    found = reader_words.entries(b"\0".join(names) + b"\0\0" + lines)
    assert found == (
        FileEntry(name="a\\x0a81a4 7 0 0 0 b", kind=FileKind.FILE, bytes=5, mode=0o644, uid=10, gid=20, modified_s=-1),
        FileEntry(name="gone", kind=FileKind.OTHER),
        FileEntry(name="z", kind=FileKind.FOLDER, mode=0o755, modified_s=3),
    )
    assert reader_words.entries(b"\0") == () == reader_words.entries(b"")


@given(st.binary(max_size=400))
def test_whatever_a_reader_sends_is_entries_or_a_refusal(data: bytes) -> None:
    try:
        found = reader_words.entries(data)
    except NotRead:
        return
    assert all(one.name.isprintable() for one in found)


def test_what_is_neither_file_nor_folder_is_not_taken() -> None:
    assert reader_words.what(b"81a4 12\n") == What(FileKind.FILE, 12)
    assert reader_words.what(b"41ed 4096\n") == What(FileKind.FOLDER, 0)
    for said in (b"a1ff 3\n", b"11a4 0\n", b"", b"81a4 12", b"x\n", b"81a4 99999999999999999999\n"):
        with pytest.raises(NotRead):
            reader_words.what(said)
