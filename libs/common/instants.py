"""An instant in words, for a sentence."""

from __future__ import annotations

from datetime import UTC, datetime


def utc(at_us: int) -> str:
    """`2026-12-01 14:03:11Z`; at_us: microseconds since the epoch."""
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def month(at_us: int) -> int:
    """Months since year 0, in UTC."""
    at = datetime.fromtimestamp(at_us // 1_000_000, UTC)
    return at.year * 12 + at.month
