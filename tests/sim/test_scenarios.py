"""Each folder of tests/scenarios: what is told of its story is what is expected (libs/world/scenario.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from libs.world import scenario
from libs.world.befall import KINDS
from libs.world.play import play
from libs.world.story import BadStory, Expect, Sky, Step, Story, Turn, parsed, read, written

FOLDERS = sorted(path.parent for path in (Path(__file__).parents[1] / "scenarios").glob("*/story.toml"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_scenario(folder: Path) -> None:
    assert scenario.wrong(folder) == []


def test_there_are_forty_and_each_has_its_page() -> None:
    assert len(FOLDERS) >= 40
    for folder in FOLDERS:
        page = (folder / "README.md").read_text()
        assert page.startswith(f"# {read(folder).title}\n") and len(page) > 80, folder


def test_what_befalls_nodes_and_paths_is_all_in_some_scenario() -> None:
    shown = {step.do for folder in FOLDERS for step in read(folder).steps}
    wanted = {word for word, kind in KINDS.items() if kind.breaks != "people"}
    assert wanted - shown == set()


def test_a_story_is_read_as_it_was_written() -> None:
    steps = (Step("cut", 1.0, "n1", 2.5), Step("stop", 0.1, "vm-0", on="node_lost", on_who="n1", more={"deadline_s": 3}))
    story = Story(7, 'A "story"', steps=steps, turns=(Turn(2.0, 5),), sky=Sky(lost=0.1), expect=Expect(told=("NodeLost n1",)))
    assert parsed(written(story)) == story


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed = ", "Invalid value"),
        ("seeds = 3", "unknown field `seeds`"),
        ('pools = "many"', "it is one of"),
        ("nodes = 0", ">= 1"),
        ('[[step]]\ndo = "flood"', "there is no kind 'flood'"),
        ('[[step]]\ndo = "cut"\nwho = "n9"', "is of a node, and 'n9' is none: n1, n2, n3"),
        ('[[step]]\ndo = "vm_kill"', "is of a vm"),
        ('[[step]]\ndo = "log_away"\nwho = "n1"', "is of nobody"),
        ('[[step]]\ndo = "cut"\nwho = "n1"\nmore = { ms = 3 }', "does not know 'ms'"),
        ('[[step]]\ndo = "stop"\nwho = "@n1.9"', "@n1.9 is no VM"),
    ],
)
def test_a_bad_story_is_told_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(BadStory, match=said.replace(".", r"\.").replace("(", r"\(")):
        play(parsed(text))


def test_what_is_otherwise_than_expected_is_said(tmp_path: Path) -> None:
    story = Story(steps=(Step("power", 1.0, "n1", 20.0),), expect=Expect(told=("NodeLost n2",)))
    (tmp_path / "story.toml").write_text(written(story))
    (tmp_path / "expected.log").write_text("   9.000 NodeLost n2: lease of epoch 1\n")
    said = scenario.wrong(tmp_path)
    assert any(one.startswith("n1: expected nothing; told NodeLost") for one in said), said
    assert "not told: 'NodeLost n2'" in said
