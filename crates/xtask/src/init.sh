#!/bin/busybox sh
# The first and only program of a matrix kernel: prepares it, runs the cases, powers off.
#
# ttyS0 is the console: the kernel's messages, and what goes wrong in this script. ttyS1 carries the
# protocol (src/protocol.rs) and nothing else, so that no kernel message can fall into a line of it.

/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/null >/dev/ttyS0 2>&1
export PATH=/bin HOME=/tmp TMPDIR=/tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tracefs trace /sys/kernel/tracing
mount -t tmpfs tmp /tmp
ip link set lo up
stty raw -echo -F /dev/ttyS1
exec 3>/dev/ttyS1

for module in irqbypass kvm kvm-amd; do
    insmod /modules/$module.ko || echo "insmod $module failed"
done

milliseconds() { # of uptime
    read -r up _ </proc/uptime
    echo $((${up%.*} * 1000 + 1${up#*.} * 10 - 1000))
}

parameter() { # MODULE NAME
    cat /sys/module/$1/parameters/$2 2>/dev/null || echo absent
}

send() { # PREFIX BYTES FILE: the end of a file, each line with a prefix, the last one whole
    tail -c "$2" "$3" | sed "s/^/$1/" >&3
    [ -z "$(tail -c 1 "$3")" ] || echo >&3
}

# case_ NAME LIMIT PREPARE COMMAND...: LIMIT in seconds; PREPARE is a line for the shell.
case_() {
    name=$1 limit=$2 prepare=$3
    shift 3
    echo "@matrix begin $name" >&3
    echo "== $name: $*"
    cd /tmp
    if timeout -s KILL "$limit" sh -c "$prepare" >/tmp/.out 2>/tmp/.err; then
        start=$(milliseconds)
        time -f '%U %S' -o /tmp/.time timeout -s KILL "$limit" "$@" >/tmp/.out 2>/tmp/.err
        code=$?
        wall=$(($(milliseconds) - start))
        cpu=$(tail -n 1 /tmp/.time)
        # time gives a signal's number alone; from here on it is said as shells do.
        ! grep -q 'terminated by signal' /tmp/.time || code=$((code + 128))
    else
        code=prepare wall=0 cpu="0 0"
    fi
    send '| ' 262144 /tmp/.out
    send '! ' 65536 /tmp/.err
    echo "@matrix end $name exit=$code wall_ms=$wall user_s=${cpu% *} system_s=${cpu#* }" >&3
    dmesg -c
    rm -rf /tmp/* /tmp/.out /tmp/.err /tmp/.time
}

echo "@matrix up release=$(uname -r) npt=$(parameter kvm_amd npt) tdp_mmu=$(parameter kvm tdp_mmu) up_ms=$(milliseconds)" >&3
dmesg -c >/dev/null
. /cases
echo "@matrix done" >&3
exec 3>&-
poweroff -f
