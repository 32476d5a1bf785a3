# One machine of the manual: what the operating system does there, as far as the manual needs it. Sourced by nobody,
# run as `host.sh NAME` in the machine's own network and its namespace of mounts; reads names of files with commands
# from descriptor 3 and carries them out one after the other, in one shell, as somebody who follows the manual would.
set -euo pipefail
host=$1 home=$SCRATCH/machines/$1

# Places the manual writes to, each machine its own.
for place in /var/lib /usr/local/bin /etc/systemd/system /etc/sysctl.d /media; do
  mkdir -p "$home$place" "$place"
  mount --bind "$home$place" "$place"
done
mkdir -p /media/safe

# Until what was started is ready: people type more slowly than it starts.
ready() {
  local file=$home/starting url
  [[ -s $file ]] || return 0
  url=$(<"$file")
  for _ in {1..300}; do
    if curl -fs -o /dev/null "$url"; then
      rm -f "$file"
      return
    fi
    sleep 0.05
  done
  echo "$url is not ready" >&2
  return 1
}

# Until what is started in the background has said so.
started() {
  for _ in {1..200}; do
    [[ -s $home/starting ]] && return
    sleep 0.02
  done
  return 1
}

# A call's id and a peer's pin stand in capitals in the manual.
filled_in() {
  words=()
  local word
  for word in "$@"; do
    case $word in
      CALL) words+=("$(<"$home/call")") ;;
      PIN) words+=("$("$PROGRAM" gateway -- --dir /var/lib/trunkline --json peer show beta.test | grep -oE '"pin": ?"[^"]+"' | head -1 | cut -d'"' -f4)") ;;
      *) words+=("$word") ;;
    esac
  done
}

# People at a terminal are asked, and agree.
agreeing() {
  local status=0
  "$@" 2> "$home/errors" || status=$?
  if ((status)) && grep -q 'add --yes' "$home/errors"; then
    "$@" --yes
  else
    cat "$home/errors" >&2
    return $status
  fi
}

trunkline-gateway() {
  local words
  filled_in "$@"
  case " $* " in
    *" run "*"--check"*) "$PROGRAM" gateway -- "${words[@]}" ;;
    *" run "*)
      echo "http://127.0.0.1:8441/readyz" > "$home/starting"
      "$PROGRAM" gateway -- "${words[@]}" 2>> "$home/log"
      ;;
    *" identity activate "*) announced && "$PROGRAM" gateway -- "${words[@]}" ;;
    *" events "* | *" --watch "*) ready && { timeout 2 "$PROGRAM" gateway -- "${words[@]}" || (($? == 124)); } ;;
    *) ready && agreeing "$PROGRAM" gateway -- "${words[@]}" ;;
  esac
}

# Until a peer is connected, or has stored what it was sent: seconds that people spend reading.
linked() {
  for _ in {1..100}; do
    "$PROGRAM" gateway -- --dir /var/lib/trunkline peer show "$1" | grep -qE '^link: +up' && return
    sleep 0.1
  done
  "$PROGRAM" gateway -- --dir /var/lib/trunkline peer show "$1" >&2
  return 1
}

# Until every peer has stored the next certificate.
announced() {
  for _ in {1..100}; do
    "$PROGRAM" gateway -- --dir /var/lib/trunkline identity show | grep -qE '^not ready: +-' && return
    sleep 0.1
  done
  return 1
}

trunkline-relay() {
  local words
  filled_in "$@"
  case " $* " in
    *"--check"*) "$PROGRAM" relay -- "${words[@]}" ;;
    *" node "* | *" ingress "*)
      # An ingress alone is alive, and ready only once it finds nodes.
      [[ " $* " == *" node "* ]] && echo "http://127.0.0.1:8444/readyz" > "$home/starting" ||
        echo "http://127.0.0.1:8445/healthz" > "$home/starting"
      "$PROGRAM" relay -- "${words[@]}" > /dev/null 2>> "$home/log"
      ;;
    *" call create "*)
      ready && "$PROGRAM" relay -- "${words[@]}" | tee "$home/created"
awk '$1 == "call:" { print $2 }' "$home/created" > "$home/call"
      ;;
    *) ready && "$PROGRAM" relay -- "${words[@]}" ;;
  esac
}

# What a database's administrator does: a server on this machine, with a database for the gateway's user. It refuses to
# run as root, so it runs as somebody else in a namespace of users.
database() {
  local bin data=$home/database
  bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
  as_postgres() { unshare --user --map-user=nobody --map-group="$(id -g nobody)" -- "$bin/$@"; }
  mkdir -m 0700 "$data"
  as_postgres initdb -D "$data" -U keeper -A trust -E UTF8 --locale=C --no-sync > "$home/database.log"
  as_postgres pg_ctl -D "$data" -w -l "$home/database.log" \
    -o "-c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off" start > /dev/null
  as_postgres psql -h 127.0.0.1 -U keeper -d postgres -q -c 'CREATE ROLE trunkline LOGIN'
  as_postgres psql -h 127.0.0.1 -U keeper -d postgres -q -c 'CREATE DATABASE trunkline OWNER trunkline'
}

# Services: what a unit starts runs in the background, until it is stopped.
systemctl() {
  local verb=$1 unit=${*: -1} pid
  pid=$home/$unit.pid
  case $verb in
    daemon-reload) ;;
    enable | start)
      local command program=trunkline-relay
      command=$(grep -oP '^ExecStart=\K.*' "/etc/systemd/system/$unit.service")
      read -ra command <<< "$command"
      # The unit that `init` writes names the very program that wrote it, which here is another.
      [[ $unit == trunkline-gateway ]] && program=trunkline-gateway
      [[ -x ${command[0]} ]] || { echo "there is no ${command[0]}: the manual installs it" >&2; return 1; }
      "$program" "${command[@]:1}" &
      echo $! > "$pid"
      started && ready
      ;;
    stop)
      # The service is the only child of the subshell that started it.
      pkill -TERM -P "$(<"$pid")" || true
      wait "$(<"$pid")" || true
      ;;
    restart) systemctl stop "$unit" && systemctl start "$unit" ;;
    status) kill -0 "$(<"$pid")" ;;
    reload) pkill -HUP -P "$(<"$pid")" ;;
    *) echo "systemctl $verb: not known here" >&2 && return 1 ;;
  esac
}

# There is one user here.
useradd() { :; }
runuser() { [[ $1 == -u && $3 == -- ]] && "${@:4}"; }
setpriv() {
  while [[ $1 != trunkline-* ]]; do shift; done
  "$@"
}
install() {
  local words=()
  while (($#)); do
    case $1 in
      -o | -g) shift 2 ;;
      *) words+=("$1") && shift ;;
    esac
  done
  command install "${words[@]}"
}
sysctl() { [[ $* == --system && -s /etc/sysctl.d/60-trunkline.conf ]]; }
# Builds are not for here: what is built is this very program.
cargo() { [[ $* == "install --locked --path "* || $* == demo || $* == "demo --"* || $* == loadtest* ]]; }
scripts/test() { :; }

while read -r file <&3; do
  # Whoever follows the manual sees that a program starts.
  source <(sed -E 's/ &( +#.*)?$/ \& started/' "$file") < /dev/null
  : > "$file.done"
done
