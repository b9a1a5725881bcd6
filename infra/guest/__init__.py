"""The recipe of the built-in `tiny` guest: a Debian kernel, a busybox userspace and the QEMU guest agent.

    python -m infra.guest.build DEST [--cache DIR] [--fresh]

`files/` holds the files of our own that lie in the guest; all else comes from the machine's package archive.
"""
