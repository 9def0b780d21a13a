#!/usr/bin/env bash
# A SLURM on this machine alone, to try sweeps on and for the tests: no systemd, no database, no change to the system.
#
#   eval "$(slurm/local_cluster.sh up [DIR])"    start it and point this shell's sbatch, squeue, srun ... to it
#   slurm/local_cluster.sh down [DIR]            end it and every job in it, and remove DIR
#
# DIR       everything of the cluster: configuration, key, state, logs, sockets. Default: w2s-slurm-USER in $TMPDIR or /tmp.
#           It may hold blanks, but no " # % , \ and no more than 60 bytes (names of sockets are short).
# By environment, for `up`:
#   NODES=1            1 or 2. Two are two daemons on this machine, by the names (and addresses) 127.0.0.1 and 127.0.0.2.
#   CPUS=...           of each node; may be more than there are. Default: what nproc says
#   GPUS=...           of each node. Default: the /dev/nvidia0, 1 ... that are there; of more, all are made up
#   MEMORY_MIB=...     of each node. Default: what is there. Asked for, checked, but never taken away from what is left
#   PARTITIONS=main    names separated by blanks; the first is the default
#   MAX_ARRAY_SIZE=1001
#   KILL_WAIT=5        seconds from SIGTERM to SIGKILL
#   REQUEUE_WAIT=5     seconds, from 5 on, that a requeued job waits before it may start again (SLURM's own: 120)
#
# Works for root and for ordinary users (whose jobs then are the only ones). Standard output is for `eval`, all else goes
# to standard error. Exit codes: 2 where something is missing or a word is wrong, 1 where the cluster did not come up.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin # where Debian puts daemons
DEADLINE_S=30
MARK="# Written by slurm/local_cluster.sh, which removes the folder that this is in."

say() { printf '%s\n' "$*" >&2; }
refuse() { say "local_cluster.sh: $*"; exit 2; }

whole() { # NAME LEAST: the variable is a whole number
  [[ ${!1} =~ ^(0|[1-9][0-9]{0,6})$ ]] && ((${!1} >= $2)) || refuse "$1=${!1}: not a whole number from $2 on"
}

ours() { [[ $(head -n 1 -- "$CONF" 2>/dev/null) == "$MARK" ]]; } # no site's folder

# Processes of this cluster, daemons and jobs. By what they have in their environment: files with numbers of processes
# outlive a restart of the machine, and a job's processes would not be in any. The shells of people who pointed their
# SLURM_CONF here are left out: they have no SLURMD_NODENAME. Processes that only wait to be reaped have no environment.
processes() {
  local file pid
  { grep -lzxF "SLURM_CONF=$CONF" /proc/[0-9]*/environ 2>/dev/null || true; } | while IFS= read -r file; do
    pid=${file//[!0-9]/}
    case $(cat "/proc/$pid/comm" 2>/dev/null) in
      munged | slurmctld | slurmd | slurmstepd | slurmscriptd) echo "$pid" ;;
      *) if grep -qz '^SLURMD_NODENAME=' "$file" 2>/dev/null; then echo "$pid"; fi ;;
    esac
  done
}

end() {
  local pids deadline_s=$((SECONDS + DEADLINE_S))
  # SIGKILL at once: no daemon shall requeue a job, write a state or wait for anything. New processes of jobs may come
  # while we look, hence again and again.
  while pids=$(processes) && [[ -n $pids ]]; do
    ((SECONDS < deadline_s)) || { say "local_cluster.sh: these processes do not end:" $pids; exit 1; }
    kill -KILL $pids 2>/dev/null || true
    sleep 0.05
  done
  # A job that just ended may still have a file open on a shared disk; then once more.
  rm -rf -- "$DIR" 2>/dev/null || { sleep 0.5; rm -rf -- "$DIR"; }
}

alive() { # do all of its daemons run?
  local pids names
  pids=$(processes)
  [[ -n $pids ]] || return 1
  names=$(for pid in $pids; do cat "/proc/$pid/comm" 2>/dev/null || true; done)
  grep -qx munged <<<"$names" && grep -qx slurmctld <<<"$names" &&
    (($(grep -cx slurmd <<<"$names") >= $(grep -c ^NodeName= "$CONF")))
}

idle_nodes() { sinfo --noheader --Node --format %T 2>/dev/null | grep -cx idle || true; }

free_ports() { # prints the first of three ports that nobody listens on, below those that the kernel gives to clients
  local first port
  while true; do
    first=$((20000 + RANDOM % 10000))
    for port in "$first" $((first + 1)) $((first + 2)); do
      if (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue 2; fi
    done
    echo "$first"
    return
  done
}

configuration() {
  local user host port number name gres= default=YES
  user=$(id -un) host=$(uname -n) port=$(free_ports)
  host=${host%%.*}
  cat <<CONF
$MARK
ClusterName=w2s
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user

AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits.
AuthInfo="socket=$DIR/munge.socket,cred_expire=$REQUEUE_WAIT"

StateSaveLocation="$DIR/state"
SlurmdSpoolDir="$DIR/%n"
SlurmctldPidFile="$DIR/slurmctld.pid"
SlurmdPidFile="$DIR/%n.pid"
SlurmctldLogFile="$DIR/slurmctld.log"
SlurmdLogFile="$DIR/%n.log"
JobCompType=jobcomp/filetxt
JobCompLoc="$DIR/jobs.txt"

# Nothing that needs cgroups, a database or an MPI.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none

SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
# A site spares its scheduler; here a job shall start at once.
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1

MaxArraySize=$MAX_ARRAY_SIZE
JobRequeue=1
KillWait=$KILL_WAIT
MinJobAge=300
ReturnToService=2

CONF
  if ((GPUS)); then
    echo "GresTypes=gpu"
    gres=" Gres=gpu:$GPUS"
  fi
  # Addresses as names: tasks find the first node by its name, and nobody wrote another one into /etc/hosts.
  for number in $(seq "$NODES"); do
    echo "NodeName=127.0.0.$number NodeHostname=$host Port=$((port + number))" \
      "CPUs=$CPUS RealMemory=$MEMORY_MIB$gres State=UNKNOWN"
  done
  for name in $PARTITIONS; do
    echo "PartitionName=$name Nodes=ALL Default=$default MaxTime=INFINITE State=UP"
    default=NO
  done
}

begin() {
  local number devices=(/dev/nvidia[0-9]*) # the pattern itself where there are none
  [[ -e ${devices[0]} ]] || devices=()
  : "${NODES:=1}" "${CPUS:=$(nproc)}" "${GPUS:=${#devices[@]}}" "${PARTITIONS:=main}" "${MAX_ARRAY_SIZE:=1001}"
  : "${MEMORY_MIB:=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)}" "${KILL_WAIT:=5}" "${REQUEUE_WAIT:=5}"
  whole NODES 1
  ((NODES <= 2)) || refuse "NODES=$NODES: 1 or 2"
  whole CPUS 1
  whole GPUS 0
  whole MEMORY_MIB 1
  whole MAX_ARRAY_SIZE 2
  whole KILL_WAIT 1
  whole REQUEUE_WAIT 5 # SLURM takes less as a mistake, and then 120
  [[ $PARTITIONS =~ ^[A-Za-z0-9_-]+( [A-Za-z0-9_-]+)*$ ]] || refuse "PARTITIONS='$PARTITIONS': names separated by a blank"

  local missing=()
  command -v munged >/dev/null || missing+=(munge)
  { command -v slurmctld && command -v slurmd && command -v sbatch; } >/dev/null || missing+=(slurm-wlm)
  ((${#missing[@]} == 0)) || refuse "not installed: ${missing[*]}. On Debian and Ubuntu: apt-get install ${missing[*]}"

  if ours; then
    if alive; then
      say "local_cluster.sh: already up in $DIR, as it was started; for other options: $0 down first"
      printf 'export SLURM_CONF=%q\n' "$CONF"
      return
    fi
    end # what a crash or a restart of the machine left
  fi
  ((GPUS <= ${#devices[@]})) || [[ $DIR != *[[:blank:]]* ]] ||
    refuse "DIR $DIR holds a blank; SLURM's list of GPUs, made up for GPUS=$GPUS, cannot"
  [[ ! -e $DIR ]] || rmdir -- "$DIR" 2>/dev/null || refuse "$DIR is there and holds something else; name another folder"
  mkdir -p -- "$(dirname -- "$DIR")"
  mkdir -m 755 -- "$DIR"
  mkdir -m 700 -- "$DIR/state"
  configuration >"$CONF"
  if ((GPUS > ${#devices[@]})); then # stand-ins: what counts for SLURM is a file that ends in a number
    devices=()
    for number in $(seq 0 $((GPUS - 1))); do
      devices+=("$DIR/gpu$number")
      : >"$DIR/gpu$number"
    done
  fi
  if ((GPUS)); then printf 'Name=gpu File="%s"\n' "${devices[@]:0:GPUS}" >"$DIR/gres.conf"; fi
  (umask 377 && head -c 128 /dev/urandom >"$DIR/munge.key")

  local ok=true
  # --force: it may be in a folder that nobody else may enter. Who else uses this cluster needs one that all may enter.
  start munged munged --force --key-file "$DIR/munge.key" --socket "$DIR/munge.socket" --pid-file "$DIR/munge.pid" \
    --seed-file "$DIR/munge.seed" --log-file "$DIR/munged.log" || ok=false
  $ok && start slurmctld slurmctld || ok=false
  for number in $(seq "$NODES"); do $ok && start "slurmd-$number" slurmd -N "127.0.0.$number" || ok=false; done
  local deadline_s=$((SECONDS + DEADLINE_S)) missed=0
  # First whether they live: sinfo waits long for a controller that is not there. Not judged by one look, which does not
  # see a daemon that just forks into the background.
  while $ok; do
    if alive; then missed=0; else missed=$((missed + 1)); fi
    if ((missed >= 10 || SECONDS >= deadline_s)); then ok=false; fi
    if ((missed == 0)) && (($(idle_nodes) == NODES)); then break; fi
    sleep 0.1
  done
  if ! $ok; then
    say "local_cluster.sh: the cluster did not come up; the ends of its logs:"
    tail -n 15 -- "$DIR"/*.out "$DIR"/*.log >&2 || true
    end
    exit 1
  fi
  printf 'export SLURM_CONF=%q\n' "$CONF"
}

start() { # FILE COMMAND: a daemon without a tie to this script's output, on whose end `eval` waits
  local out=$DIR/$1.out
  shift
  "$@" </dev/null >"$out" 2>&1
}

[[ $# -ge 1 && $# -le 2 && ($1 == up || $1 == down) ]] || {
  sed -n '2,/^set/ { /^#/ s/^# \{0,1\}//p }' "$0" >&2
  refuse "the words were '$*', not: up [DIR] or down [DIR]"
}
DIR=${2:-${TMPDIR:-/tmp}/w2s-slurm-$(id -un)}
[[ $DIR == /* ]] || DIR=$PWD/$DIR
[[ $DIR != *[\"#%,\\[:cntrl:]]* ]] || refuse "DIR $DIR holds a character that SLURM's configuration cannot: one of \" # % , \\"
(($(LC_ALL=C; echo ${#DIR}) <= 60)) || refuse "DIR $DIR is longer than 60 bytes; the names of sockets in it would be cut"
CONF=$DIR/slurm.conf
export SLURM_CONF=$CONF
if [[ $1 == up ]]; then
  begin
elif ours; then
  end
  say "local_cluster.sh: ended; $DIR is gone"
else
  say "local_cluster.sh: no cluster in $DIR"
fi
