"""How long what stays in the database, and how the rest gets into archives: the work behind `asvctl log archive`.

    policy.py     which partitions are due, and what holds one up. Pure
    making.py     a partition and its batches and commands, written to a file
    proving.py    that file, read back and held against the chain
    archiver.py   the order of it all: a crash at any point loses nothing, and the next run goes on from there

    NotArchived(LogError)    nothing was taken away; the text says why
"""

from __future__ import annotations

from libs.common.log import LogError


class NotArchived(LogError):
    """A partition cannot be archived as things are."""
