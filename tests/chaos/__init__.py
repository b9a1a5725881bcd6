"""Faults on real processes, by a seed.

hardware    `make chaos`: random changes of one guest's hardware, agents killed meanwhile
ha          `make chaos-ha`: nodes killed, held, cut off and slowed while guests write; then disks and processes are audited

    writer.sh   runs in a guest: numbered, checksummed records, each naming the one before it, past all caches
    records     what such a disk holds, and whether one history explains it (pure)
    sampler     which QEMU processes ran which VM at the same time, looked at from outside many times a second
    rig         an embedded cluster, its processes and what they do
    faults      what is done to it
"""
