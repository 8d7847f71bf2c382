#!/usr/bin/env bash
# A Ray cluster on this machine alone, to try everything: a head without cores, and two nodes.
#
#   cluster/local.sh launch cfg.yaml --seeds 4 --address auto    # the cluster lives as long as the command
#   cluster/local.sh                                             # until Ctrl-C, for commands in other terminals
#
# CORES=2 gives each node two cores (default 1). The exit status is the command's.
set -euo pipefail

# The paths of Ray's sockets may have 107 characters.
folder=$(mktemp -d /tmp/sf-XXXXXX)
command_pid=
idle=

# Ray's processes, which all have this in their environments; the command lines of some do not name the folder.
ray_pids() { grep -lszxF "LOCAL_CLUSTER=$folder" /proc/[0-9]*/environ | cut -d/ -f3 || true; }

# End the processes of this cluster and no other; `ray stop` would end everybody's.
end() {
    trap '' INT TERM HUP
    for _ in {1..50}; do
        pids=$(ray_pids)
        [[ -n $pids ]] || break
        # There is nothing to save in them, and a node whose head is gone waits long before it ends with TERM. Some of
        # their children have written their names over their environments.
        # shellcheck disable=SC2046,SC2086
        kill -KILL $pids $(pgrep -P "${pids//$'\n'/,}") 2>/dev/null || true
        sleep 0.2
    done
    rm -rf "$folder"
}
trap end EXIT

# The command is told, and decides when it ends: a launch saves first.
stop() {
    if [[ -n $idle ]]; then
        # It has nothing to save, and a process that has only just begun may lose any other signal.
        [[ -z ${!:-} ]] || kill -KILL "$!" 2>/dev/null || true
        exit "$2"
    fi
    [[ -n $command_pid ]] || exit "$2"
    kill -"$1" "$command_pid" 2>/dev/null || true
}
trap 'stop INT 130' INT
trap 'stop TERM 143' TERM
trap 'stop TERM 129' HUP

start() {
    env LOCAL_CLUSTER="$folder" ray start "$@" --node-ip-address=127.0.0.1 --num-gpus=0 \
        --object-store-memory=100000000 >"$folder/start.log" 2>&1 || { cat "$folder/start.log" >&2; exit 1; }
}

# Free ports of the system's are above those that Ray gives to its workers.
read -r port dashboard client < <(python3 -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*[free.getsockname()[1] for free in sockets])')
# A token of its own: nobody else on this machine can use the cluster, or is in its way.
RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

echo "Starting a head and two nodes of ${CORES:-1} core(s) in $folder" >&2
start --head --port="$port" --num-cpus=0 --temp-dir="$folder/h" --ray-client-server-port="$client" \
    --include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" --disable-usage-stats
for node in a b; do
    # Nodes that shared a folder would remove each other's files.
    start --address="127.0.0.1:$port" --num-cpus="${CORES:-1}" --temp-dir="$folder/$node" --include-log-monitor=false
done
export RAY_ADDRESS=127.0.0.1:$port

if (($# == 0)); then
    cat <<EOF
export RAY_ADDRESS=$RAY_ADDRESS RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$RAY_AUTH_TOKEN
# With that in another terminal: launch cfg.yaml --seeds 4 --address auto
# Dashboard: http://127.0.0.1:$dashboard (it asks for the token). Ctrl-C ends the cluster.
EOF
    idle=yes
    set -- sleep infinity
fi
# Job control: a command in the background would otherwise ignore Ctrl-C.
set -m
"$@" &
command_pid=$!
status=0
wait "$command_pid" || status=$?
# A signal ends `wait`, not the command.
while kill -0 "$command_pid" 2>/dev/null; do
    status=0
    wait "$command_pid" || status=$?
done
exit "$status"
