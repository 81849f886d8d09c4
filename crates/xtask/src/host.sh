# The same cases on this machine's own kernel: `busybox sh host.sh DIRECTORY`, the protocol on
# stdout. DIRECTORY has bin (programs, and links to busybox), cases.sh and cases.
exec 3>&1 1>&2 </dev/null
PATH=$1/bin
work=$1/work
mkdir -p "$work"
. "$1/cases.sh"
up
. "$1/cases"
echo "@matrix done" >&3
