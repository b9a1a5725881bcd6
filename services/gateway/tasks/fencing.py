"""Tasks about fence devices: begun by the wish, ended by what the device was found to be. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import fence as f

if TYPE_CHECKING:
    from services.gateway.tasks.stories import _Story

SET, TEST, OFF, ON = "set-fence", "test-fence", "fence", "power-on"


def fencing(s: _Story) -> bool:
    match s.event:
        case f.FenceSet(node=node):
            s.begin(SET, node, "set; it is tested now")
        case f.FenceTestRequested(node=node):
            s.begin(TEST, node, "asked for its power and its machine")
        case f.FenceTested(node=node, ok=True, power=power, identity=identity):
            for kind in (SET, TEST):
                s.done(kind, node, f"the fence device of {node} answers well: the power is {power}, the machine {identity}")
        case f.FenceTested(node=node, sentence=said):
            for kind in (SET, TEST):
                s.failed(kind, node, f"{said} (it is kept, and proves nothing until a test went well)")
        case f.FenceRequested(node=node, want=want, attempt=attempt):
            s.begin(OFF if want == f.Want.OFF else ON, node, f"its device is asked to switch it {want} (attempt {attempt})")
        case f.FenceConfirmed(node=node, sentence=said):
            s.done(OFF, node, f"{node} is off: {said}")
        case f.FencePoweredOn(node=node):
            s.done(ON, node, f"{node} is switched on")
        case f.FenceFailed(node=node, want=want, sentence=said, last=last):
            kind = OFF if want == f.Want.OFF else ON
            (s.failed if last else s.step)(kind, node, f"{node} is not known to be {want}: {said}")
        case f.FenceDropped(node=node, sentence=said):
            s.failed(OFF, node, said)
        case f.FenceRemoved(node=node):
            s.at_once("remove-fence", node, f"{node} has no fence device any more")
            for kind in (SET, TEST, OFF, ON):
                s.failed(kind, node, "its device was taken away")
        case f.FenceDoubted():
            pass
        case _:
            return False
    return True
