"""A recorded state goes on in the deterministic world: production's deciders over a copy of the log, on simulated nodes.

    slice = await taken(past, "now")          what was written until then (slices.py)
    fork = Fork(slice)                        the state folded once
    world = fork.world(seed=1, params={})     one that has not begun; another for each seed
    begin(world)                              control plane, agents and watchdogs go on where the log has them
"""
