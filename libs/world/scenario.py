"""Scenarios: folders with a story, what is told of it, and what it is about. Played by the tests; an operator may play his own.

    NAME/README.md       what happens and why it is safe
    NAME/story.toml      the story (story.py)
    NAME/expected.log    what was told when it was written: `python -m libs.world.scenario write FOLDER…`

A run is compared with what is expected by subject: of each node and VM the same things in the same order. Times and details may
differ, and so may the order between two subjects, as both change with anything that takes a message more.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from libs.world.play import Outcome, name_of, play
from libs.world.story import Story, read

FIRM = frozenset(
    {
        *("NodeLost", "NodeReturned", "VmOwed", "VmStopped", "VmStarted", "VmRecovered", "GuardEnded"),
        *("VmMigrated", "VmMigrationEnded", "HaDisarmed", "HaArmed", "IncarnationBegan"),
        *("DisksRecovered", "DisksHome", "RecoveryEnded", "BackupDeleted", "BackupDamaged"),
        *("FenceConfirmed", "FenceDoubted", "VerdictReached"),
    }
)
"""what is compared: conclusions. Suspicions and attempts come and go"""
LOG = "expected.log"


def wrong(folder: Path) -> list[str]:
    """Plays the scenario; sentences about what is otherwise than expected. Raises BadStory, OSError."""
    story = read(folder)
    outcome = play(story)
    said = [outcome.fault] if outcome.fault else []
    expected = (folder / LOG).read_text().splitlines()
    return [*said, *_differences(expected, outcome.lines), *unmet(story, outcome)]


def unmet(story: Story, outcome: Outcome) -> list[str]:
    """What its `expect` asks for and the run does not show."""
    found: list[str] = []
    lines = [(line.us / 1e6, line.text) for line in outcome.told]
    after: dict[str, int] = defaultdict(int)
    for word in story.expect.told:
        wanted = re.sub(r"@[\w.]+", lambda found: name_of(outcome.world, found[0]), word)
        subject = _subject(wanted)
        place = next((n for n, (_, text) in enumerate(lines) if n >= after[subject] and text.startswith(wanted)), None)
        if place is None:
            found.append(f"not told: {wanted!r}")
            continue
        after[subject] = place + 1
        if story.expect.within_s and lines[place][0] > story.expect.within_s:
            found.append(f"{wanted!r} came after {lines[place][0]:.1f} s, and is to come within {story.expect.within_s:g} s")
    found += [f"told, and never to be: {text!r}" for _, text in lines for word in story.expect.never if text.startswith(word)]
    return found


def _differences(expected: Iterable[str], told: Iterable[str]) -> list[str]:
    wanted, seen = _by_subject(expected), _by_subject(told)
    return [
        f"{subject}: expected {_listed(wanted, subject)}; told {_listed(seen, subject)}"
        for subject in sorted({*wanted, *seen})
        if wanted.get(subject) != seen.get(subject)
    ]


def _listed(by_subject: dict[str, list[str]], subject: str) -> str:
    return ", ".join(by_subject.get(subject, ())) or "nothing"


def _by_subject(lines: Iterable[str]) -> dict[str, list[str]]:
    """Subject -> what is told of it, in order."""
    out: defaultdict[str, list[str]] = defaultdict(list)
    for line in lines:
        text = line.strip().partition(" ")[2]
        word = text.partition(" ")[0]
        if word in FIRM:
            out[_subject(text)].append(word)
    return dict(out)


def _subject(text: str) -> str:
    words = text.split()
    return words[1].rstrip(":") if len(words) > 1 else ""


def main(words: list[str]) -> int:
    """`play FOLDER…`: what is told. `write FOLDER…`: writes expected.log."""
    match words:
        case [("play" | "write") as what, *folders] if folders:
            pass
        case _:
            print("python -m libs.world.scenario play|write FOLDER…", file=sys.stderr)
            return 2
    code = 0
    for folder in map(Path, folders):
        outcome = play(read(folder))
        if what == "write":
            (folder / LOG).write_text("\n".join(outcome.lines) + "\n")
        else:
            print("\n".join(outcome.lines))
        said = [outcome.fault] if outcome.fault else []
        for sentence in [*said, *unmet(outcome.story, outcome)]:
            print(f"{folder}: {sentence}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
