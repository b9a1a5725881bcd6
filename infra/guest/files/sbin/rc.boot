#!/bin/sh
# What has to be there before anything else: file systems, the drivers of the agent's channel and of disks.
PATH=/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs run /run
hostname tiny
ip link set lo up
modprobe -a virtio_pci virtio_console virtio_blk virtio_net 2>/dev/null
read -r uptime _ </proc/uptime
read -r boot_id </proc/sys/kernel/random/boot_id
read -r _ memory_kib _ </proc/meminfo
echo "tiny: ready uptime=$uptime kernel=$(uname -r) cpus=$(nproc) memory_kib=$memory_kib boot_id=$boot_id" >/dev/console
