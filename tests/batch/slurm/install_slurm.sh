#!/usr/bin/env bash
# A Slurm cluster of one node on this machine, for the tests: Debian's packages, run as root.
# usage: install_slurm.sh         installs what is missing, starts what does not run
# It replaces /etc/slurm/slurm.conf: not for a machine that belongs to a cluster.
set -eu
MARK="# one node for the tests of carl"
CONF=/etc/slurm/slurm.conf

fail() {
  echo "no Slurm: $1" >&2
  exit 1
}

[ "$(id -u)" -eq 0 ] || fail "run this as root"
if [ -e "$CONF" ] && ! grep -qxF "$MARK" "$CONF"; then
  fail "$CONF belongs to another cluster"
fi
if ! command -v slurmctld slurmd munged >/dev/null; then
  command -v apt-get >/dev/null || fail "there is no apt-get here"
  apt-get update -qq || fail "apt-get update failed"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    slurm-wlm munge >/dev/null || fail "apt-get could not install slurm-wlm and munge"
fi

# The real core count, not what this shell's affinity leaves: slurmd compares with the hardware.
cpus=$(getconf _NPROCESSORS_ONLN)
memory=$(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) / 1024 - 512))
mkdir -p /etc/slurm /var/spool/slurm/{ctld,d} /var/log/slurm /run/munge /var/log/munge
cat >"$CONF.new" <<CONFIG
$MARK
ClusterName=carltest
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
StateSaveLocation=/var/spool/slurm/ctld
SlurmdSpoolDir=/var/spool/slurm/d
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=600
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=5
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$(hostname) Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=5 State=UP
PartitionName=urgent Nodes=$(hostname) MaxTime=INFINITE PriorityTier=2 PreemptMode=OFF State=UP
CONFIG

running() { pgrep -x "$1" >/dev/null; }

if ! cmp -s "$CONF.new" "$CONF" 2>/dev/null; then
  mv "$CONF.new" "$CONF"
  for daemon in slurmd slurmctld; do
    running "$daemon" && kill "$(cat "/run/$daemon.pid")" && sleep 1
  done
fi
rm -f "$CONF.new"

chown -R munge: /run/munge /var/log/munge /etc/munge
if ! running munged; then
  [ -e /etc/munge/munge.key ] || setpriv --reuid munge --regid munge --clear-groups mungekey
  setpriv --reuid munge --regid munge --clear-groups munged
fi
running slurmctld || slurmctld
running slurmd || slurmd

for _ in $(seq 30); do
  if [ "$(sinfo -h -o %T -n "$(hostname)" -p main 2>/dev/null)" = down ]; then
    scontrol update "nodename=$(hostname)" state=resume || true
  fi
  if sinfo -h -o %T 2>/dev/null | grep -qE 'idle|mixed|allocated'; then
    sinfo
    exit 0
  fi
  sleep 1
done
fail "the node does not come up: see /var/log/slurm"
