"""The deterministic world: the production steppers, an in-memory log, a lossy network and simulated nodes, in one thread,
under one clock and one seed. Same seed, same story, to the byte.

    world = World(seed=7, nodes=("n1", "n2", "n3"))
    world.run(seconds=60)            # faults are scheduled beforehand (faults.py), invariants are checked at every step (checks.py)

Used by the simulation tests, and later by what-if and the scale benchmarks: one simulator, three uses. It is the only part of
libs that may import services.
"""
