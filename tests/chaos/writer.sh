#!/bin/sh
# writer VM GENERATION DISK BLOCKS PAUSE: numbered, checksummed records on a disk, past all caches (tests/chaos/records.py
# says the format). Each boot begins a lane of its own behind what it finds, and looks before each record whether the head
# is still what it wrote itself: another writer is noted on the disk, and in /run/writer/intruder.
#
#   block 0                the head: a copy of the newest record
#   128 + (l-1) * BLOCKS   lane l, of BLOCKS records (a multiple of 128: it is read in pieces of 64 KiB)
#
# A record counts (/run/writer/acknowledged) once it is flushed. WRITER_RUN and WRITER_BOOT stand for what a guest has, outside one.
vm=$1 generation=$2 disk=$3 blocks=$4 pause=$5
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
run=${WRITER_RUN:-/run/writer}
mkdir "$run" 2>/dev/null || exit 0
read -r boot </proc/sys/kernel/random/boot_id
boot=${WRITER_BOOT:-$boot}

put() { # BLOCK TEXT: flushed when it returns
    printf '%-511s\n' "$2" | dd of="$disk" bs=512 seek="$1" oflag=direct conv=notrunc,fsync status=none
}

get() { # BLOCK
    dd if="$disk" bs=512 skip="$1" count=1 iflag=direct status=none | tr -d '\000'
}

record() { # WORD: the next record's text
    text="$1 $vm $boot $generation $lane $count $before_lane $before_count"
    sum=$(printf %s "$text" | md5sum)
    text="$text ${sum%% *}"
}

fail() {
    echo "$1" >"$run/failed"
    exit 1
}

# the last lane, and how many records it has
lane=0 count=0
while set -- $(get $((128 + lane * blocks))) && [ "$1" = asv-record ]; do
    lane=$((lane + 1))
done
if [ $lane -gt 0 ]; then
    from=$((1 + (lane - 1) * blocks / 128))
    count=$(dd if="$disk" bs=65536 skip=$from count=$((blocks / 128)) iflag=direct status=none | tr -d '\000' |
        grep -c '^asv-record ')
fi
before_lane=$lane before_count=$count
lane=$((lane + 1)) count=1

while :; do
    record asv-record
    put $((128 + (lane - 1) * blocks + count - 1)) "$text" || fail "record $lane.$count was not written"
    put 0 "$text" || fail "head $lane.$count was not written"
    echo "$boot $lane $count" >"$run/new" && mv "$run/new" "$run/acknowledged"
    sleep "$pause"
    head=$(get 0) || fail "the head was not read"
    if [ "$(echo $head)" != "$text" ]; then
        echo "$head" >"$run/intruder"
        before_lane=$lane before_count=$count count=$((count + 1))
        record asv-intruder
        put $((128 + (lane - 1) * blocks + count - 1)) "$text"
        fail "somebody else wrote: $head"
    fi
    before_lane=$lane before_count=$count count=$((count + 1))
    if [ $count -gt "$blocks" ]; then
        lane=$((lane + 1)) count=1
    fi
done
