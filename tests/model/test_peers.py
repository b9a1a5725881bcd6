"""Where a node's watchdog answers probes: the same place before and after it was started anew."""

from __future__ import annotations

import selectors
from pathlib import Path

import pytest

from services.watchdog.peers import PORT_FILE, Echo, probe

HOST = "127.0.0.1"


def served(folder: Path, port: int = 0) -> tuple[Echo, selectors.BaseSelector]:
    selector = selectors.DefaultSelector()
    return Echo((HOST, port), "", selector, str(folder)), selector


def ended(echo: Echo, selector: selectors.BaseSelector) -> None:
    selector.close()
    echo._sock.close()


def test_a_chosen_port_is_had_again(tmp_path: Path) -> None:
    echo, selector = served(tmp_path)
    ended(echo, selector)
    again, other = served(tmp_path)
    assert again.at == echo.at
    ended(again, other)


def test_where_it_is_taken_another_is_chosen_and_kept(tmp_path: Path) -> None:
    echo, selector = served(tmp_path)
    other, others = served(tmp_path)
    assert other.at != echo.at and (tmp_path / PORT_FILE).read_text() == other.at.rpartition(":")[2]
    ended(echo, selector)
    ended(other, others)


@pytest.mark.parametrize("said", ["", "a port", "-1", "99999999"])
def test_what_is_no_port_is_not_taken_for_one(tmp_path: Path, said: str) -> None:
    (tmp_path / PORT_FILE).write_text(said)
    ended(*served(tmp_path))


def test_a_folder_that_is_not_there_costs_nothing_but_the_port(tmp_path: Path) -> None:
    ended(*served(tmp_path / "none"))


def test_it_answers(tmp_path: Path) -> None:
    import threading

    echo, selector = served(tmp_path)

    def serve() -> None:
        for key, mask in selector.select(5):
            key.data(mask)

    threading.Thread(target=serve, daemon=True).start()
    assert probe({"n1": echo.at})["n1"] >= 0
    ended(echo, selector)
