"""What may be promised of a node: its host's report, its areas, the failover share, the policy. Pure.

What a person decides (areas, share, policy) is refused where it would break what was promised already. What happens to a host is
a fact: then nothing is taken from anyone and nothing new is promised until it fits again.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import NodeId, VmId
from libs.memory.areas import SWAP, sized, with_swap
from libs.memory.promise import taken_mib
from proto.memory import (
    Broken,
    CapacityCause,
    CapacityExceeded,
    CapacitySet,
    KeepReserve,
    LedgerEvent,
    NoteHost,
    Refusal,
    SetAreas,
    SetFailoverShare,
)
from services.memory import areas as area_rules
from services.memory.admit import holders, over, said
from services.memory.relief import relief
from services.memory.states import Account, Ledger


def note_host(command: NoteHost, account: Account) -> Sequence[LedgerEvent]:
    before = account if isinstance(account, Ledger) else Ledger(capacity_mib=0)
    here, zram_mib = command.control_plane, command.swap_memory_mib
    set_areas = with_swap(before.areas, zram_mib)
    keeps = before.areas_set and here == before.control_plane and command.memory_mib > taken_mib(set_areas)
    areas = set_areas if keeps else sized(command.memory_mib, here, zram_mib)
    after = replace(
        before,
        physical_mib=command.memory_mib,
        swap_mib=command.swap_mib,
        balloon=command.balloon,
        memory_areas=command.memory_areas,
        control_plane=here,
        areas=areas,
        areas_set=keeps,
        capacity_mib=max(0, command.memory_mib - taken_mib(areas)),
    )
    if after == account:
        return ()
    events: list[LedgerEvent] = [set_to(command.node, after, CapacityCause.HOST)]
    promised, charged = after.reserved_mib, after.charged_mib
    short = max(promised, charged) - (after.capacity_mib - after.share_mib)
    if short > 0 and after.capacity_mib < before.capacity_mib:
        held = {vm: r.promise for vm, r in after.reserved.items()}
        going, enough = relief(held, after.policy, after.areas, after.capacity_mib - after.share_mib)
        events.append(
            CapacityExceeded(
                node=NodeId(command.node),
                before_mib=before.capacity_mib,
                capacity_mib=after.capacity_mib,
                promised_mib=promised,
                charged_mib=charged,
                short_mib=short,
                would_go=tuple(VmId(vm) for vm in going),
                enough=enough,
            )
        )
    return events


def set_areas(command: SetAreas, account: Account) -> Sequence[LedgerEvent]:
    ledger = known(command.node, account)
    zram_mib = sum(area.min_mib for area in ledger.areas if area.name == SWAP)
    area_rules.check(command.areas, ledger.physical_mib - zram_mib, ledger.control_plane)
    by_host = sized(ledger.physical_mib, ledger.control_plane)
    areas = with_swap(command.areas or by_host, zram_mib)
    capacity_mib = max(0, ledger.physical_mib - taken_mib(areas))
    after = replace(ledger, areas=areas, areas_set=bool(command.areas), capacity_mib=capacity_mib)
    return changed(command.node, ledger, after, CapacityCause.AREAS)


def set_share(command: SetFailoverShare, account: Account) -> Sequence[LedgerEvent]:
    ledger = known(command.node, account)
    after = replace(ledger, asked_mib=command.share_mib, share_mib=max(command.share_mib, ledger.reserve_mib))
    return changed(command.node, ledger, after, CapacityCause.SHARE)


def keep_reserve(command: KeepReserve, account: Account) -> Sequence[LedgerEvent]:
    """Never refused: what is promised already is not to be kept."""
    if not isinstance(account, Ledger) or account.physical_mib <= 0:
        return ()
    after = _keeping(account, command.reserve_mib)
    return () if after == account else [set_to(command.node, after, CapacityCause.RESERVE)]


def known(node: str, account: Account) -> Ledger:
    if isinstance(account, Ledger) and account.physical_mib > 0:
        return account
    raise Refused(Refusal.NO_LEDGER, f"{node} has not said what memory it has", "name a node that `node ls` shows")


def changed(node: str, before: Ledger, after: Ledger, cause: CapacityCause) -> Sequence[LedgerEvent]:
    """Raises Refused where what was promised would break a limit that becomes tighter by this. What high availability keeps by
    itself stands in no person's way: it becomes less where it has to."""
    if after == before:
        return ()
    promises = [r.promise for r in before.reserved.values()]
    room = after.capacity_mib - after.asked_mib
    if room < 0 and room < before.capacity_mib - before.asked_mib:
        said_so = f"{node} has {after.capacity_mib} MiB beside its areas, a failover share of {after.asked_mib} is more"
        raise Refused(Refusal.BREAKS_PROMISES, said_so, f"give {-room} MiB less to the areas or the share")
    broke = {b.limit: b for b in over(promises, after.policy, after.areas, room)}
    was_room = before.capacity_mib - before.asked_mib
    was = {b.limit: b for b in over(promises, before.policy, before.areas, was_room)}
    worse = [b for limit, b in broke.items() if limit not in was or _lacking(b) > _lacking(was[limit])]
    if worse:
        need = max(_lacking(b) for b in worse)
        raise Refused(
            Refusal.BREAKS_PROMISES,
            f"{said(node, worse)}; promised to {holders(before)}",
            f"move or stop VMs of {need} MiB first, or change it by {need} MiB less",
        )
    return [set_to(node, _keeping(after, after.reserve_mib), cause)]


def _keeping(ledger: Ledger, reserve_mib: int) -> Ledger:
    """With so much kept by high availability as is not promised already."""
    free_mib = max(0, ledger.capacity_mib - max(ledger.reserved_mib, ledger.charged_mib))
    kept_mib = min(reserve_mib, free_mib)
    return replace(ledger, reserve_mib=kept_mib, share_mib=max(ledger.asked_mib, kept_mib))


def _lacking(broke: Broken) -> int:
    return broke.promised_mib + broke.asked_mib - broke.limit_mib


def set_to(node: str, ledger: Ledger, cause: CapacityCause) -> CapacitySet:
    return CapacitySet(
        node=NodeId(node),
        cause=cause,
        capacity_mib=ledger.capacity_mib,
        physical_mib=ledger.physical_mib,
        swap_mib=ledger.swap_mib,
        share_mib=ledger.share_mib,
        asked_mib=ledger.asked_mib,
        reserve_mib=ledger.reserve_mib,
        areas=ledger.areas,
        areas_set=ledger.areas_set,
        policy=ledger.policy,
        balloon=ledger.balloon,
        memory_areas=ledger.memory_areas,
        control_plane=ledger.control_plane,
        promised_mib=ledger.reserved_mib,
        charged_mib=ledger.charged_mib,
    )


def apply(account: Account, event: CapacitySet) -> Ledger:
    before = account if isinstance(account, Ledger) else Ledger(capacity_mib=0)
    return replace(
        before,
        capacity_mib=event.capacity_mib,
        physical_mib=event.physical_mib,
        swap_mib=event.swap_mib,
        share_mib=event.share_mib,
        asked_mib=event.asked_for_mib,
        reserve_mib=event.reserve_mib,
        areas=event.areas,
        areas_set=event.areas_set,
        policy=event.policy,
        balloon=event.balloon,
        memory_areas=event.memory_areas,
        control_plane=event.control_plane,
        wanted=None if event.cause is CapacityCause.POLICY else before.wanted,
    )
