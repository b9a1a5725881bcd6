"""Settings are read once, as what they are; a wrong one stops the process with a sentence."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from libs.common.config import BadConfig, load


class Config(msgspec.Struct, frozen=True, kw_only=True):
    home: Path
    nats_url: str = ""
    port: int = 0
    wait_s_max: float = 5.0
    embedded: bool = True
    services: tuple[str, ...] = ()
    password: str = ""
    node: str | None = None


def test_each_type_is_read() -> None:
    environ = {
        "ASV_HOME": "/srv/a place",
        "ASV_NATS_URL": "nats://127.0.0.1:4333",
        "ASV_PORT": "8080",
        "ASV_WAIT_S_MAX": "0.5",
        "ASV_EMBEDDED": "no",
        "ASV_SERVICES": "compute, memory,io",
        "ASV_NODE": "n1",
        "PATH": "/bin",
    }
    assert load(Config, environ) == Config(
        home=Path("/srv/a place"),
        nats_url="nats://127.0.0.1:4333",
        port=8080,
        wait_s_max=0.5,
        embedded=False,
        services=("compute", "memory", "io"),
        node="n1",
    )


def test_a_secret_may_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("s3cret\n")
    environ = {"ASV_HOME": "/x", "ASV_PASSWORD_FILE": str(tmp_path / "pw")}
    assert load(Config, environ).password == "s3cret"
    with pytest.raises(BadConfig, match=r"ASV_PASSWORD_FILE=.*cannot be read"):
        load(Config, environ | {"ASV_PASSWORD_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({}, "ASV_HOME is not set"),
        ({"ASV_HOME": "/x", "ASV_PORT": "many"}, "ASV_PORT='many': Expected `int`"),
        ({"ASV_HOME": "/x", "ASV_EMBEDDED": "perhaps"}, "ASV_EMBEDDED='perhaps'"),
        ({"ASV_HOME": "/x", "ASV_PROT": "1"}, "ASV_PROT is not a setting; did you mean ASV_PORT?"),
        ({"ASV_HOME": "/x", "ASV_ZZZZZZ": "1"}, "ASV_ZZZZZZ is not a setting"),
    ],
)
def test_what_is_wrong_is_said(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(BadConfig, match=re.escape(sentence)):
        load(Config, environ)


def test_all_mistakes_at_once_and_other_processes_keys_are_fine() -> None:
    with pytest.raises(BadConfig) as caught:
        load(Config, {"ASV_PORT": "x", "ASV_HOEM": "/x", "ASV_TOKEN": "t", "ASV_LEASE_S": "1"}, known=["ASV_LEASE_S"])
    text = str(caught.value)
    assert text.count(";") == 3
    assert "ASV_HOEM is not a setting; did you mean ASV_HOME?" in text
    assert "TOKEN" not in text
    assert "LEASE" not in text
