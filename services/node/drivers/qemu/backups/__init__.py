"""Backups of VMs with QEMU: taken (`taking`, `resting`), removed, verified; docs/decisions/0045-backups.md."""
