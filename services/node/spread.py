"""How long requests took, as a histogram counts them: bounds in ns, and one more bin than bounds, the last without an end. Pure."""

from __future__ import annotations

import msgspec


class Spread(msgspec.Struct, frozen=True):
    bounds_ns: tuple[int, ...] = ()
    bins: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        return sum(self.bins)

    def plus(self, other: Spread) -> Spread:
        """What both counted; of other bounds: this one alone, or the other where this one is empty."""
        if not self.bins:
            return other
        if other.bounds_ns != self.bounds_ns:
            return self
        return Spread(self.bounds_ns, tuple(map(int.__add__, self.bins, other.bins)))

    def since(self, before: Spread) -> Spread:
        """What was counted since; nothing where it was counted anew, or by other bounds."""
        if before.bounds_ns != self.bounds_ns or any(now < then for now, then in zip(self.bins, before.bins, strict=True)):
            return Spread()
        return Spread(self.bounds_ns, tuple(map(int.__sub__, self.bins, before.bins)))

    def at(self, share: float) -> float:
        """ns, that this share of them took no longer than; within a bin as if they lay evenly. 0: there are none."""
        left = share * self.total
        for n, count in enumerate(self.bins):
            if count and left <= count:
                low = self.bounds_ns[n - 1] if n else 0
                high = self.bounds_ns[min(n, len(self.bounds_ns) - 1)]
                return low + (high - low) * left / count
            left -= count
        return 0.0


def tails(normal: Spread, now: Spread, slow: float, least: int) -> float:
    """How many times as long the slowest take as they did: by the bound that this share (0 to 1) of both is above, or `least` of
    them, where that is more. 0: too few to say, or counted by other bounds."""
    fewer = min(normal.total, now.total)
    if fewer < 2 * least or normal.bounds_ns != now.bounds_ns:
        return 0.0
    share = 1.0 - max(slow, least / fewer)
    usual = normal.at(share)
    return now.at(share) / usual if usual else 0.0
