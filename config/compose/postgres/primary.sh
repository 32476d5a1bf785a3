#!/bin/bash
# Carried out once by the image's entry point, on a server that nobody else reaches yet.
set -euo pipefail
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
  --set gateway="$(</run/secrets/database.password)" --set copies="$(</run/secrets/replication.password)" <<'SQL'
CREATE ROLE trunkline LOGIN PASSWORD :'gateway';
CREATE DATABASE trunkline OWNER trunkline;
CREATE ROLE copies LOGIN REPLICATION PASSWORD :'copies';
SQL
echo 'host replication copies samenet scram-sha-256' >>"$PGDATA/pg_hba.conf"
# From the next start on, that is, from when it is reached. What a gateway acknowledged is on both servers; while the
# standby is away nothing is acknowledged. A standby that stays away must not fill the disk.
cat >>"$PGDATA/postgresql.conf" <<'CONF'
synchronous_standby_names = 'standby'
synchronous_commit = on
max_slot_wal_keep_size = '4GB'
CONF
