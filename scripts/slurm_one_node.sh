#!/bin/bash
# A Slurm cluster of one node, this machine, for trying and testing sweeps with hydra/launcher=submitit_slurm.
#
#   apt-get install slurm-wlm munge          # Debian; once
#   bash scripts/slurm_one_node.sh start DIR [CPUS]
#   export SLURM_CONF=DIR/slurm.conf         # so that sbatch, squeue, scancel find it
#   python -m ddrank.run -m ... hydra/launcher=submitit_slurm hydra.launcher.cpus_per_task=1 hydra.launcher.mem_gb=2
#   bash scripts/slurm_one_node.sh stop DIR
#
# No systemd: the three daemons are started by hand, as root, and write nowhere but below DIR (configuration, keys, logs,
# state, process ids). They talk through 127.0.0.1 only. Accounting is off, as on many small clusters: `sacct` says nothing.
set -euo pipefail
command=${1:?start or stop} dir=$(realpath -m "${2:?a folder}") cpus=${3:-$(nproc)}
host=$(hostname -s)

stop() {
    if [ -f "$dir/slurmctld.pid" ]; then # jobs first: their processes would stay
        export SLURM_CONF="$dir/slurm.conf"
        timeout 20 scancel --user="$(id -un)" || true
        for _ in $(seq 50); do [ -z "$(timeout 20 squeue --noheader 2>/dev/null)" ] && break; sleep 0.4; done
    fi
    for daemon in slurmd slurmctld munged; do
        if [ -f "$dir/$daemon.pid" ]; then
            pid=$(cat "$dir/$daemon.pid")
            if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$daemon" ]; then # the number may be another process's by now
                kill "$pid" 2>/dev/null || true
                for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
            fi
            rm -f "$dir/$daemon.pid"
        fi
    done
}

start() {
    for program in munged slurmctld slurmd sbatch; do
        [ -x "$(PATH=$PATH:/usr/sbin command -v $program)" ] || { echo "$program is missing: apt-get install slurm-wlm munge" >&2; exit 2; }
    done
    PATH=$PATH:/usr/sbin
    mkdir -p "$dir/state" "$dir/spool"
    chmod 755 "$dir" "$dir/state"

    # munge: how Slurm's programs know who speaks. A key of this cluster's own, and a socket below DIR.
    mkdir -p -m 700 "$dir/munge"
    chmod 711 "$dir/munge"
    [ -f "$dir/munge.key" ] || (umask 077; head -c 128 /dev/urandom >"$dir/munge.key")
    munged --force --socket="$dir/munge/socket" --key-file="$dir/munge.key" --pid-file="$dir/munged.pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munge.seed" --num-threads=2

    cat >"$dir/slurm.conf" <<EOF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
# Two ports of its own, so that a cluster of the machine's stays as it is.
SlurmctldPort=${SLURM_ONE_NODE_PORT:-16817}
SlurmdPort=$((${SLURM_ONE_NODE_PORT:-16817} + 1))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
# Nothing that asks for cgroups, which a container may not have.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
# Listen at 127.0.0.1, nowhere else.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
# Jobs share the node core by core, and begin at once.
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2
ReturnToService=2
KillWait=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus Boards=1 SocketsPerBoard=1 CoresPerSocket=$cpus ThreadsPerCore=1 RealMemory=${SLURM_ONE_NODE_MEMORY:-8000} State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
EOF
    export SLURM_CONF="$dir/slurm.conf"
    slurmctld -i
    slurmd
    for _ in $(seq 150); do
        [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ] && { echo "export SLURM_CONF=$dir/slurm.conf"; return; }
        sleep 0.2
    done
    sinfo >&2 || true
    tail -n 5 "$dir/slurmctld.log" "$dir/slurmd.log" >&2
    exit 1
}

case $command in
start) stop; start ;;
stop) stop ;;
*) echo "start or stop, not $command" >&2; exit 2 ;;
esac
