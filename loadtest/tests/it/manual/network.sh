# The machines of the manual and the network between them, in namespaces of their own, so that defaults can be used as
# they are. Reads lines `HOST FILE TITLE` and lets each host carry out its files; ends at the first that fails.
set -euo pipefail
export SCRATCH=$1 PROGRAM=$2 MANUAL=$3
declare -A addresses=(
  [alpha]="11.0.0.1" [beta]="11.0.0.2" [relay]="11.0.0.3 203.0.113.7 10.0.0.11" [node]="10.0.0.12"
  [edge]="11.0.0.4 10.0.0.2"
)
declare -A running

mount --make-rprivate /
mount -t tmpfs tmpfs /run
echo 'nameserver 11.0.0.53' > "$SCRATCH/resolv.conf"
mount --bind "$SCRATCH/resolv.conf" /etc/resolv.conf
ip link set lo up
ip link add bridge type bridge
ip link set bridge up
ip address add 11.0.0.53/24 dev bridge
python3 "$MANUAL/dns.py" 11.0.0.53 gw.alpha.test=11.0.0.1 gw.beta.test=11.0.0.2 &

start() {
  local name=$1 address
  ip netns add "$name"
  ip link add "to-$name" type veth peer name eth0 netns "$name"
  ip link set "to-$name" master bridge up
  ip -n "$name" link set lo up
  ip -n "$name" link set eth0 up
  for address in ${addresses[$name]}; do ip -n "$name" address add "$address/24" dev eth0; done
  ip -n "$name" route add default dev eth0
  ip netns exec "$name" nft 'add table inet filter; add chain inet filter input { type filter hook input priority 0; }'
  mkdir -p "$SCRATCH/machines/$name"
  mkfifo "$SCRATCH/machines/$name/files"
  # The descriptor is open for writing, too, so that the shell waits for the next name instead of seeing an end.
  (cd "$SCRATCH" && exec ip netns exec "$name" bash "$MANUAL/host.sh" "$name" 3<> "$SCRATCH/machines/$name/files") &
  running[$name]=$!
}

while read -r host file title; do
  [[ -n ${running[$host]:-} ]] || start "$host"
  echo "== $title at $host"
  echo "$file" > "$SCRATCH/machines/$host/files"
  until [[ -e $file.done ]]; do
    kill -0 "${running[$host]}" 2>/dev/null || {
      echo "FAILED: $title at $host; what its services said:"
      tail -n 20 "$SCRATCH/machines/$host/log" 2>/dev/null || true
      exit 1
    }
    sleep 0.05
  done
done < "$SCRATCH/files"
echo "== all done"
