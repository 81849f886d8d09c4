# Runs cases and says over file descriptor 3 how they went (src/protocol.rs). Read by init.sh on the
# kernels of the matrix, and by host.sh on this machine. Wants busybox's applets in PATH, and $work:
# an empty directory in which the cases run.

milliseconds() { # of uptime
    read -r up _ </proc/uptime
    echo $((${up%.*} * 1000 + 1${up#*.} * 10 - 1000))
}

parameter() { # MODULE NAME
    cat "/sys/module/$1/parameters/$2" 2>/dev/null || echo absent
}

up() {
    echo "@matrix up release=$(uname -r) npt=$(parameter kvm_amd npt)" \
        "tdp_mmu=$(parameter kvm tdp_mmu) up_ms=$(milliseconds)" >&3
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
    cd "$work" || return
    if timeout -s KILL "$limit" sh -c "$prepare" >.out 2>.err; then
        start=$(milliseconds)
        time -f '%U %S' -o .time timeout -s KILL "$limit" "$@" >.out 2>.err
        code=$?
        wall=$(($(milliseconds) - start))
        cpu=$(tail -n 1 .time)
        # time gives a signal's number alone; from here on it is said as shells do.
        ! grep -q 'terminated by signal' .time || code=$((code + 128))
    else
        code=prepare wall=0 cpu="0 0"
    fi
    send '| ' 262144 .out
    send '! ' 65536 .err
    echo "@matrix end $name exit=$code wall_ms=$wall user_s=${cpu% *} system_s=${cpu#* }" >&3
    rm -rf "$work"/* "$work"/.out "$work"/.err "$work"/.time
}
