#!/usr/bin/env bash
# private.sh COMMAND...  Runs a command in network, mount and process namespaces of its own.
#
# As root plain namespaces will do; a user namespace gives an ordinary user the same, where the system allows it.  Bash
# stays as their process 1, to reap what a killed test leaves.  Exit status: the command's, or unshare's.
private=(unshare --net --mount --pid --fork --mount-proc --kill-child)
if ((EUID != 0)) || ! "${private[@]}" true 2>/dev/null; then
    private+=(--user --map-root-user)
fi
exec "${private[@]}" bash -c 'ip link set lo up 2>/dev/null; "$@"; exit $?' private "$@"
