"""An identity's keys, credentials and the server's configuration, as files and words; how subjects match."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from libs.common.bus.credentials import BadCredentials, Credentials, Key, new_seed, own_key, read_jwt
from libs.common.bus.identity import ClusterIdentity, ServerTls, server_config
from libs.common.bus.permissions import matches


def test_keys_are_private_files_and_made_once(tmp_path: Path) -> None:
    first = ClusterIdentity.create(tmp_path / "identity", 1_700_000_000_000_000)
    again = ClusterIdentity.create(tmp_path / "identity", 1_700_000_000_000_000)
    assert first.accounts == again.accounts
    for path in (tmp_path / "identity").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    own = own_key(tmp_path / "agent" / "n1.seed")
    assert own.public == own_key(tmp_path / "agent" / "n1.seed").public
    (tmp_path / "agent" / "n1.seed").chmod(0o644)
    with pytest.raises(BadCredentials, match="0600"):
        own_key(tmp_path / "agent" / "n1.seed")


def test_credentials_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    with pytest.raises(BadCredentials, match=r"n1\.jwt"):
        Credentials.load(tmp_path, "n1")
    (tmp_path / "n1.jwt").write_text("a.b.c")
    (tmp_path / "n1.seed").write_text("nonsense")
    (tmp_path / "n1.seed").chmod(0o600)
    with pytest.raises(BadCredentials, match="SO, SA or SU"):
        Credentials.load(tmp_path, "n1")
    with pytest.raises(BadCredentials):
        read_jwt("a.b.c")
    identity = ClusterIdentity.create(tmp_path / "identity", 1_700_000_000_000_000)
    with pytest.raises(ValueError, match="begin with U"):
        identity.issue_node("n1", "no key", now_us=0)


def test_no_seed_is_in_the_servers_configuration(tmp_path: Path) -> None:
    identity = ClusterIdentity.create(tmp_path / "identity", 1_700_000_000_000_000)
    tls = ServerTls(Path("/c.pem"), Path("/k.pem"), Path("/ca.pem"))
    text = server_config(identity, port=4321, store=Path("/a folder/js"), tls=tls)
    for path in (tmp_path / "identity").glob("*.seed"):
        assert path.read_text().strip() not in text
    assert 'host: "127.0.0.1"' in text
    assert 'store_dir: "/a folder/js"' in text
    assert "verify: true" in text
    assert "tls" not in server_config(identity)


def test_who_an_identity_is_can_be_read_from_its_jwt(tmp_path: Path) -> None:
    identity = ClusterIdentity.create(tmp_path / "identity", 1_700_000_000_000_000)
    public = Key(new_seed("user")).public
    jwt = identity.issue_node("n1", public, now_us=1_700_000_000_000_000, expires_s=60)
    assert (read_jwt(jwt).name, read_jwt(jwt).public_key, read_jwt(jwt).expires_s) == ("n1", public, 1_700_000_060)


@pytest.mark.parametrize(
    ("pattern", "subject", "result"),
    [
        ("a.b", "a.b", True), ("a.*", "a.b", True), ("a.*", "a.b.c", False), ("a.>", "a.b.c", True), ("a.>", "a", False),
        (">", "a.b", True), ("a.*", "a.>", False), ("a.>", "a.*", True), ("a.*", "a.*", True), ("a.b", "a.*", False),
        ("a.*.c", "a.b.c", True), ("a.*.c", "a.b.d", False), ("a.b.c", "a.b", False),
    ],
)  # fmt: skip
def test_matching(pattern: str, subject: str, result: bool) -> None:
    assert matches(pattern, subject) is result
