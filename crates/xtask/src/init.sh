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

work=/tmp/work
mkdir $work
. /cases.sh
up
dmesg -n 5 # warnings from here on: what a kernel complains about belongs to the case
. /cases
echo "@matrix done" >&3
exec 3>&- # waits until all is out
poweroff -f
