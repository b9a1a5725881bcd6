"""Why a VM is moved, in one sentence with the numbers: by the term of the score that falls most."""

from __future__ import annotations

from collections.abc import Sequence

from services.compute.balance.board import Board

MEMORY, VCPUS, CPU = range(3)


def reason(
    board: Board,
    vm: int,
    origin: int,
    target: int,
    left: Sequence[float],
    entered: Sequence[float],
    terms: dict[str, float],
) -> str:
    """After the move; left, entered: what was used of the two nodes before, terms: the score's."""
    after = board.terms()
    fell = {name: terms[name] - after[name] for name in terms}
    term = max(fell, key=lambda name: (fell[name], name))
    a, b, name = board.nodes[origin].node, board.nodes[target].node, board.vms[vm].vm
    if sum(fell.values()) <= 0:
        return f"{name} leaves {a} for {b} together with the move beside it, which gains more than this one loses"
    now_a, now_b = board.used[origin], board.used[target]
    match term:
        case "excess":
            busy = board.rules.busy_share
            wanted = f"VMs on {a} want {left[CPU]:.0%} of its CPU time and wait above {busy:.0%}"
            return f"{wanted}; without {name} it is {now_a[CPU]:.0%}"
        case "cpu":
            return (
                f"VMs want {left[CPU]:.0%} of the CPU time of {a} and {entered[CPU]:.0%} of {b}'s; "
                f"with {name} there it is {now_a[CPU]:.0%} and {now_b[CPU]:.0%}"
            )
        case "memory":
            return (
                f"{a} has promised {left[MEMORY]:.0%} of its memory, {b} {entered[MEMORY]:.0%}; "
                f"with {name} there it is {now_a[MEMORY]:.0%} and {now_b[MEMORY]:.0%}"
            )
        case _:
            return (
                f"{a} has {left[VCPUS]:.2f} vCPUs on each pCPU, {b} {entered[VCPUS]:.2f}; "
                f"with {name} there it is {now_a[VCPUS]:.2f} and {now_b[VCPUS]:.2f}"
            )
