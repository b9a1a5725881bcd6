"""Checkpoints as files: what is read is what was signed, by whom it should be."""

from __future__ import annotations

import msgspec
import pytest

from libs.common.bus.credentials import BadCredentials, Key, new_seed, signed_by
from libs.verify import Ends
from libs.verify.checkpoint import BadCheckpoint, read, take, write

KEY = Key(new_seed("operator"))
OTHER = Key(new_seed("operator"))
ENDS = Ends(70, 500, 2, 9, b"h" * 32, (), (), ())


def test_what_was_signed_is_read() -> None:
    taken = take(ENDS, KEY, 600)
    assert read(write(taken), KEY.public) == taken
    assert (taken.position, taken.batch, taken.hash, taken.incarnation) == (70, 9, (b"h" * 32).hex(), 2)


@pytest.mark.parametrize(
    ("field", "value"),
    [("position", 71), ("batch", 8), ("at_us", 1), ("incarnation", 1), ("hash", "00"), ("taken_us", 1), ("signer", OTHER.public)],
)
def test_what_was_changed_after_it_was_signed_proves_nothing(field: str, value: object) -> None:
    taken = msgspec.structs.replace(take(ENDS, KEY, 600), **{field: value})
    with pytest.raises(BadCheckpoint, match="changed after it was signed"):
        read(write(taken))


def test_another_cluster_s_key() -> None:
    with pytest.raises(BadCheckpoint, match="of another cluster, or forged"):
        read(write(take(ENDS, OTHER, 600)), KEY.public)


@pytest.mark.parametrize("data", [b"", b"{}", b"\x00" * 5000, write(take(ENDS, KEY, 1))[:-40], b'{"format": "asv-checkpoint-1"}'])
def test_files_that_are_none(data: bytes) -> None:
    with pytest.raises(BadCheckpoint, match="torn"):
        read(data)


def test_an_empty_log_has_nothing_to_hold_it_to() -> None:
    with pytest.raises(BadCheckpoint, match="empty"):
        take(ENDS._replace(batches=0), KEY, 1)


@pytest.mark.parametrize("public", ["", "O", "OAAA", KEY.public[:-1] + "A" if KEY.public[-1] != "A" else KEY.public[:-1] + "B"])
def test_a_word_that_is_no_key(public: str) -> None:
    with pytest.raises(BadCredentials, match="no public NATS key"):
        signed_by(public, b"x", b"y" * 64)
