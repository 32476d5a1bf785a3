"""The compose file's database: its scripts are run with this machine's PostgreSQL, as the image would run them."""

import glob
import os
import pathlib
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
import unittest

from support import CONFIG, SCRATCH, run

SCRIPTS = CONFIG / "compose/postgres"
# Longer than any step takes; a step that hangs fails.
SECONDS_MAX = 60


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Database(unittest.TestCase):
    def setUp(self):
        binaries = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))
        self.assertTrue(binaries, "apt-get install postgresql")
        self.dir = SCRATCH / "database"
        (self.dir / "secrets").mkdir(parents=True)
        for name in ("replication", "database"):
            (self.dir / f"secrets/{name}.password").write_text(f"{name}'s \"word\"")
        for script in ("primary.sh", "standby.sh"):
            text = (SCRIPTS / script).read_text().replace("/run/secrets", str(self.dir / "secrets"))
            (self.dir / script).write_text(text)
            (self.dir / script).chmod(0o755)
        # PostgreSQL refuses to run as root.
        self.user = "postgres" if os.geteuid() == 0 else None
        if self.user:
            account = pwd.getpwnam(self.user)
            SCRATCH.chmod(0o755)
            for path in [self.dir, *self.dir.rglob("*")]:
                os.chown(path, account.pw_uid, account.pw_gid)
        self.ports = {"primary": free_port(), "standby": free_port()}
        self.env = {"PATH": f"{binaries[-1]}:{os.environ['PATH']}", "LC_ALL": "C", "POSTGRES_USER": "postgres"}
        self.running = []

    def tearDown(self):
        # To PostgreSQL: end now, whoever is connected.
        for process in self.running:
            process.send_signal(signal.SIGINT)
        for process in self.running:
            process.wait(SECONDS_MAX)
        shutil.rmtree(self.dir)

    def environment(self, server, **more):
        return {**self.env, "PGDATA": str(self.dir / server), **more}

    def do(self, *command, **more):
        return run(*command, env=self.environment("primary", **more), user=self.user, group=self.user, timeout=SECONDS_MAX)

    def start(self, *command, server, as_root=False, **more):
        user = None if as_root else self.user
        with (self.dir / f"{server}.log").open("a") as log:
            process = subprocess.Popen(
                list(map(str, command)), env=self.environment(server, **more), user=user, group=user, stdout=log, stderr=log
            )
        self.running.append(process)
        return process

    def sql(self, server, text, user="postgres", database="trunkline", **more):
        password = "database's \"word\"" if user == "trunkline" else "unused"
        return self.do(*self.psql(server, user, database), "-c", text, PGPASSWORD=password, **more).strip()

    def psql(self, server, user="postgres", database="trunkline"):
        port = str(self.ports[server])
        return ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", port, "-U", user, "-d", database]

    def until(self, what, expected):
        """Tries until it is as expected, and fails with what it last was."""
        end = time.monotonic() + SECONDS_MAX
        while True:
            try:
                last = what()
            except AssertionError as error:
                last = str(error)
            if last == expected:
                return
            if time.monotonic() > end:
                logs = "".join(file.read_text()[-3000:] for file in self.dir.glob("*.log"))
                self.fail(f"expected {expected!r}, last {last!r}\n{logs}")
            time.sleep(0.1)

    def make_primary(self):
        """What the image's entry point does: a cluster whose network asks for passwords, and our script on a server
        that listens on a socket only."""
        data = self.dir / "primary"
        self.do("initdb", "--pgdata", data, "--username", "postgres", "--auth-host", "trust", "--auth-local", "trust")
        here = f"-c listen_addresses= -c unix_socket_directories={self.dir} -p {self.ports['primary']}"
        log = self.dir / "preparation.log"
        self.do("pg_ctl", "--pgdata", data, "--wait", "--options", here, "--log", log, "start")
        self.do(self.dir / "primary.sh", PGHOST=str(self.dir), PGPORT=str(self.ports["primary"]))
        self.do("pg_ctl", "--pgdata", data, "--wait", "--mode", "fast", "stop")
        # The image's own line, for whoever has a password; initdb's for this test's own questions stands before it.
        with (data / "pg_hba.conf").open("a") as file:
            file.write("host all all all scram-sha-256\n")
        rules = (data / "pg_hba.conf").read_text()
        rules = rules.replace("host    all             all             127.0.0.1/32            trust",
                              "host all postgres 127.0.0.1/32 trust").replace(
                              "host    replication     all             127.0.0.1/32            trust\n", "")
        (data / "pg_hba.conf").write_text(rules)

    def test_what_is_committed_is_on_both_and_the_standby_takes_over(self):
        self.make_primary()
        where = lambda server: ["-p", self.ports[server], "-c", f"unix_socket_directories={self.dir}"]
        primary = self.start("postgres", *where("primary"), server="primary")
        self.until(lambda: self.sql("primary", "SELECT 1", database="postgres"), "1")

        # Without its standby nothing is acknowledged.
        self.sql("primary", "SET synchronous_commit = local; CREATE TABLE alone (x int)")
        insert = lambda: self.start(*self.psql("primary"), "-c", "INSERT INTO alone VALUES (1)", server="primary")
        waits = "SELECT wait_event FROM pg_stat_activity WHERE query LIKE 'INSERT INTO alone%'"
        hanging = insert()
        self.until(lambda: self.sql("primary", waits), "SyncRep")

        # As root where there is root: the script gives it up.
        standby = self.start(
            "/bin/bash", self.dir / "standby.sh", *where("standby"), server="standby", as_root=True,
            PRIMARY="127.0.0.1", PRIMARY_PORT=str(self.ports["primary"]),
        )
        replication = "SELECT application_name, usename, sync_state, state FROM pg_stat_replication"
        self.until(lambda: self.sql("primary", replication), "standby|copies|sync|streaming")
        self.assertEqual(hanging.wait(SECONDS_MAX), 0)

        # As a gateway does: with its own password, on tables of its own.
        tables = "CREATE SCHEMA trunkline; CREATE TABLE trunkline.t (x int); INSERT INTO trunkline.t VALUES (7)"
        self.sql("primary", tables, user="trunkline")
        with self.assertRaisesRegex(AssertionError, "password authentication failed"):
            self.do(*self.psql("primary", "trunkline"), "-c", "SELECT 1", PGPASSWORD="wrong")
        self.until(lambda: self.sql("standby", "SELECT x FROM trunkline.t"), "7")
        with self.assertRaisesRegex(AssertionError, "read-only transaction"):
            self.sql("standby", "INSERT INTO trunkline.t VALUES (8)", user="trunkline")

        # A standby that restarts goes on from where it was.
        standby.send_signal(signal.SIGINT)
        standby.wait(SECONDS_MAX)
        standby = self.start(
            "/bin/bash", self.dir / "standby.sh", *where("standby"), server="standby", as_root=True,
            PRIMARY="127.0.0.1", PRIMARY_PORT=str(self.ports["primary"]),
        )
        self.until(lambda: self.sql("primary", replication), "standby|copies|sync|streaming")

        # The primary's machine is gone; the standby is promoted, and takes writes alone.
        primary.kill()
        primary.wait(SECONDS_MAX)
        self.do("pg_ctl", "promote", "--pgdata", self.dir / "standby")
        self.sql("standby", "INSERT INTO trunkline.t VALUES (9)", user="trunkline")
        self.assertEqual(self.sql("standby", "SELECT x FROM trunkline.t ORDER BY x"), "7\n9")

        # Should the old one come back, it acknowledges nothing to anybody: it has no standby.
        pathlib.Path(self.dir / "primary/postmaster.pid").unlink(missing_ok=True)
        self.start("postgres", *where("primary"), server="primary")
        self.until(lambda: self.sql("primary", "SELECT 1"), "1")
        hanging = insert()
        self.until(lambda: self.sql("primary", waits), "SyncRep")
        self.assertIsNone(hanging.poll())

        # The manual's way to go on without one.
        manual = (CONFIG.parent / "docs/OPERATIONS.md").read_text()
        [words] = re.findall(r"postgres-primary psql (--command .*)", manual)
        self.do(*self.psql("primary"), *shlex.split(words))
        self.assertEqual(hanging.wait(SECONDS_MAX), 0)


if __name__ == "__main__":
    unittest.main()
