"""Many VMs recovered by one order (streams `wave-NAME`); why so: docs/decisions/0048-waves.md.

model       what is decided, drawn
states      a wave, and how far each step of it is
ordering    who is recovered, who is left out, and in which order, each with its reason
advancing   what begins next, what is done, what has failed
views       what io knows of it when it decides; knowing: how a command gets that
reacting    a step that has begun is a recovery; what becomes of that moves the wave on
"""
