"""The systemd units: systemd's own reading of them, with the programs where the units of a build have them."""

import re
import shutil
import subprocess
import unittest

from support import CONFIG, DOMAIN, PROGRAMS, SCRATCH, check, run, secrets

UNITS = sorted(CONFIG.glob("*.service"))


class Units(unittest.TestCase):
    def test_systemd_finds_nothing_to_complain_of(self):
        self.assertEqual(len(UNITS), 3)
        self.assertTrue(shutil.which("systemd-analyze"), "apt-get install systemd")
        for unit in UNITS:
            with self.subTest(unit.name):
                # Where the manual installs the programs there are none on the machine of a test.
                text = unit.read_text().replace("/usr/local/bin", str(PROGRAMS))
                (SCRATCH / unit.name).write_text(text)
                command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(SCRATCH / unit.name)]
                done = subprocess.run(command, capture_output=True, text=True)
                # A container's machine has no users and groups of ours, nor the targets' other units.
                self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_systemd_would_see_a_mistake(self):
        broken = SCRATCH / "broken.service"
        broken.write_text(UNITS[0].read_text().replace("Restart=", "Restrat=").replace("/usr/local/bin", str(PROGRAMS)))
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(broken)], capture_output=True, text=True)
        self.assertIn("Restrat", done.stderr)

    def test_a_replica_is_the_same_unit_with_its_own_machines_settings(self):
        """As the manual says: what `init` made is copied to each machine, and differs in [replica] alone."""
        first = SCRATCH / "replica-1"
        run(PROGRAMS / "trunkline-gateway", "init", "--dir", first, "--domain", DOMAIN, "--advertise", "gw.alpha.test:8443")
        unit = (first / "trunkline-gateway.service").read_text()
        store = 'store = "postgres://trunkline@10.0.0.31,10.0.0.32/trunkline?sslmode=require"\n'
        store += 'store_password_file = "database.password"'
        text = re.sub(r'(?m)^store = "redb"$', store, (first / "gateway.toml").read_text())
        text = re.sub(r"\n# *\[replica\][^\[]*|\n\[replica\][^\[]*", "\n", text)
        shutil.copy2(secrets() / "gateway/database.password", first)
        for number in (1, 2, 3):
            replica = SCRATCH / f"replica-{number}"
            if number > 1:
                shutil.copytree(first, replica, ignore=shutil.ignore_patterns("data"))
                (replica / "data").mkdir(mode=0o700)
            own = f'{text}\n[replica]\nlisten = "10.0.0.2{number}:8442"\nadvertise = "10.0.0.2{number}:8442"\n\n'
            (replica / "gateway.toml").write_text(own)
            check(["trunkline-gateway", "run", "--dir", replica], own)
        # The replicas' port needs nothing that the unit does not give.
        self.assertIn("RestrictAddressFamilies=AF_INET AF_INET6", unit)
        self.assertNotIn("IPAddressDeny", unit)


if __name__ == "__main__":
    unittest.main()
