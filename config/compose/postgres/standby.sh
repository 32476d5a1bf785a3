#!/bin/bash
# The standby's entry point: copies the primary when it has nothing yet, then follows it.
set -euo pipefail
if [[ $(id -u) == 0 ]]; then
  install -d -o postgres -g postgres -m 0700 "$PGDATA"
  exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
fi

primary="host=${PRIMARY:?} port=${PRIMARY_PORT:-5432} user=copies application_name=standby"
if [[ ! -s $PGDATA/PG_VERSION ]]; then
  PGPASSWORD=$(</run/secrets/replication.password)
  export PGPASSWORD
  # The slot keeps what the standby has not read yet. It is there already when an earlier copy was broken off.
  until pg_basebackup --dbname "$primary" --pgdata "$PGDATA" --write-recovery-conf --checkpoint fast \
    --wal-method stream --create-slot --slot standby ||
    pg_basebackup --dbname "$primary" --pgdata "$PGDATA" --write-recovery-conf --checkpoint fast \
      --wal-method stream --slot standby; do
    sleep 2
  done
  unset PGPASSWORD
fi
# Once promoted it has no standby of its own, and must not wait for one.
exec postgres -c synchronous_standby_names= "$@"
