"""The compose file: what it mounts is there once config/compose/prepare has run, and every program takes what it is
given. Docker's own reading of the file is asked where there is `docker compose`."""

import ipaddress
import os
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

import compose_spec
import yaml

from support import CONFIG, DOMAIN, PROGRAMS, SCRATCH, Place, check, documents, listens, run, secret_texts

INGRESSES = ["203.0.113.7", "203.0.113.8"]
SECRET_FILES = {"deployment.key", "current.key", "database.password", "relay.token", "admin.token", "tokens.secret", "ufrag.key"}


def interpolated(text, environment):
    """Compose's ${NAME} and ${NAME:?why}."""

    def value(found):
        return environment[found[1]]

    return re.sub(r"\$\{(\w+)(?::\?[^}]*)?\}", value, text)


class Compose(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.config = SCRATCH / "compose" / "config"
        shutil.copytree(CONFIG, cls.config, ignore=shutil.ignore_patterns("state", ".env", "__pycache__"))
        cls.dir = cls.config / "compose"
        environment = {**os.environ, "TRUNKLINE_BIN": str(PROGRAMS)}
        cls.prepare = [cls.dir / "prepare", DOMAIN, "gw.alpha.test", *INGRESSES]
        run(*cls.prepare, env=environment)
        cls.env = dict(line.split("=", 1) for line in (cls.dir / ".env").read_text().split())
        cls.text = (cls.dir / "compose.yaml").read_text()
        [cls.file] = documents(interpolated(cls.text, cls.env))
        cls.services = cls.file["services"]

    def programs(self):
        return {name: service for name, service in self.services.items() if "build" in service}

    def mounts(self, service):
        """(what is mounted, where, whether only to be read)."""
        for volume in service["volumes"]:
            source, target, *mode = volume.split(":")
            yield source, target, mode == ["ro"]

    def test_it_has_what_the_manual_says(self):
        expected = {"postgres-primary", "postgres-standby"} | {f"gateway-{n}" for n in (1, 2, 3)}
        expected |= {f"{part}-{n}" for part in ("relay", "ingress") for n in (1, 2)}
        self.assertEqual(set(self.services), expected)

    def test_the_compose_specification_takes_it(self):
        # Merged: the reader knows no `<<`.
        read = compose_spec.PyCompose.from_yaml(yaml.safe_dump(self.file))
        read.validate()
        self.assertEqual(set(read.to_spec().services), set(self.services))

    def test_docker_reads_it(self):
        docker = shutil.which("docker")
        if not docker or subprocess.run([docker, "compose", "version"], capture_output=True).returncode != 0:
            self.skipTest("no docker compose on this machine")
        run("docker", "compose", "--project-directory", self.dir, "config", "--quiet")

    def test_secrets_are_made_once(self):
        environment = {**os.environ, "TRUNKLINE_BIN": str(PROGRAMS)}
        done = subprocess.run(list(map(str, self.prepare)), capture_output=True, text=True, env=environment)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("is there already", done.stderr)

    def test_everything_that_is_mounted_is_there(self):
        for name, service in self.services.items():
            for source, target, _ in self.mounts(service):
                with self.subTest(f"{name} {target}"):
                    self.assertTrue(target.startswith("/"))
                    if source.startswith("."):
                        self.assertTrue((self.dir / source).exists(), source)
                    else:
                        self.assertIn(source, self.file["volumes"])

    def test_names_of_services_and_networks_are_known(self):
        for name, service in self.services.items():
            for other in service.get("depends_on", []):
                self.assertIn(other, self.services)
                if isinstance(service["depends_on"], dict):
                    self.assertIn("healthcheck", self.services[other])
            for network in service["networks"]:
                self.assertIn(network, self.file["networks"])
            self.assertEqual(service["restart"], "unless-stopped", name)

    def test_the_ports_that_are_published_are_the_programs_own_and_nobody_elses(self):
        taken = set()
        for name, service in self.programs().items():
            [config] = [self.dir / source for source, _, _ in self.mounts(service) if source.endswith(".toml")]
            text = config.read_text()
            own = {port for _, port in listens(text)}
            own |= {int(port) for port in re.findall(r"^(?:udp|tcp)_port = (\d+)", text, re.M)}
            for port in service.get("ports", []):
                outside, inside, protocol = re.fullmatch(r"((?:[\d.]+:)?\d+):(\d+)/(udp|tcp)", port).groups()
                self.assertIn(int(inside), own, name)
                self.assertNotIn((outside, protocol), taken)
                taken.add((outside, protocol))
                # APIs of gateways without TLS are for this machine only.
                if int(inside) in (8440, 8441):
                    self.assertTrue(outside.startswith("127.0.0.1:"))

    def test_addresses_are_those_that_containers_have(self):
        [subnet] = [ipaddress.ip_network(one["subnet"]) for one in self.file["networks"]["inside"]["ipam"]["config"]]
        for name, service in self.programs().items():
            [config] = [self.dir / source for source, _, _ in self.mounts(service) if source.endswith(".toml")]
            bound = set(re.findall(r'listen = "([\d.]+):', config.read_text())) - {"0.0.0.0"}
            fixed = {service["networks"]["inside"]["ipv4_address"]} if isinstance(service["networks"], dict) else set()
            self.assertEqual(bound, fixed, name)
            for address in re.findall(r'"(?:http://)?(10\.[\d.]+)', config.read_text()):
                self.assertIn(ipaddress.ip_address(address), subnet)
                owners = [other for other in self.programs().values() if isinstance(other["networks"], dict)]
                self.assertIn(address, [other["networks"]["inside"]["ipv4_address"] for other in owners])

    def test_replicas_and_databases_are_called_by_their_services_names(self):
        for number in (1, 2, 3):
            text = (self.dir / f"state/gateway-{number}.toml").read_text()
            self.assertIn(f'[replica]\nlisten = "0.0.0.0:8442"\nadvertise = "gateway-{number}:8442"\n', text)
            hosts = re.search(r'store = "postgres://trunkline@([^/]+)/', text)[1].split(",")
            self.assertEqual(hosts, ["postgres-primary", "postgres-standby"])

    def test_programs_have_no_privileges_and_no_room_to_write(self):
        for name, service in self.programs().items():
            user = int(service["user"].split(":")[0])
            self.assertGreater(user, 0)
            self.assertTrue(service["read_only"])
            self.assertEqual((service["cap_drop"], service.get("cap_add")), (["ALL"], None))
            self.assertIn("no-new-privileges:true", service["security_opt"])
            self.assertNotIn("privileged", service)
            for source, target, read_only in self.mounts(service):
                writes = name.startswith("gateway") and target.endswith(("/keys", "/data"))
                self.assertEqual(read_only, not writes, source)

    def test_programs_may_stop_in_their_own_time(self):
        # The units' TimeoutStopSec.
        for name, service in self.programs().items():
            self.assertEqual(service["stop_grace_period"], "30s" if name.startswith("gateway") else "20s")

    def test_nothing_secret_is_in_the_committed_files(self):
        for text in secret_texts(self.dir / "state"):
            if text.startswith("# What") or "[" in text:  # configurations, which are no secrets
                continue
            for file in CONFIG.rglob("*"):
                if file.is_file() and file.suffix in {".yaml", ".toml", ".sh", ""} and "state" not in file.parts:
                    self.assertNotIn(text, file.read_text(errors="replace"), file)
        self.assertEqual((self.dir / "state").stat().st_mode & 0o077, 0)
        self.assertEqual(set((self.dir / ".gitignore").read_text().split()), {"/.env", "/state/"})

    def test_every_program_passes_its_check(self):
        for name, service in self.programs().items():
            with self.subTest(name):
                root = SCRATCH / "containers" / name
                for source, target, _ in self.mounts(service):
                    here = root / target.lstrip("/")
                    here.parent.mkdir(parents=True, exist_ok=True)
                    copy = shutil.copytree if (self.dir / source).is_dir() else shutil.copy2
                    copy(self.dir / source, here)
                state = root / "var/lib/trunkline"
                for file in state.rglob("*"):
                    if file.name in SECRET_FILES:
                        self.assertEqual(file.stat().st_mode & 0o077, 0, file)
                place = Place({"/var/lib/trunkline": state})
                [config] = state.glob("*.toml")
                check([place.here(word) for word in service["command"]], config.read_text())

    def test_hadolint_finds_nothing_to_complain_of(self):
        # Debian's packages are of the release that FROM names, and newer with each of its security updates.
        run(pathlib.Path(sys.executable).parent / "hadolint", "--ignore", "DL3008", CONFIG / "Dockerfile")

    def test_the_image_has_what_services_start(self):
        dockerfile = (self.config / "Dockerfile").read_text()
        for name, service in self.programs().items():
            self.assertEqual((self.dir / service["build"]["context"]).resolve(), self.config.parent.resolve())
            self.assertEqual(service["build"]["dockerfile"], "config/Dockerfile")
            self.assertIn(f"target/release/{service['command'][0]}", dockerfile)
        stages = re.findall(r"^FROM (\S+)", dockerfile, re.M)
        self.assertEqual([stage.split("-")[-1] for stage in stages], ["bookworm", "slim"])
        self.assertRegex(dockerfile, r"(?m)^USER [1-9]\d*:")
        wanted = re.search(r'^rust-version = "([\d.]+)"', (CONFIG.parent / "Cargo.toml").read_text(), re.M)[1]
        self.assertEqual(stages[0].split(":")[1].split("-")[0], wanted)
        version = re.search(r'^version = "([\d.]+)"', (CONFIG.parent / "Cargo.toml").read_text(), re.M)[1]
        [chart] = documents((CONFIG / "helm/trunkline/Chart.yaml").read_text())
        self.assertEqual({chart["appVersion"], self.programs()["relay-1"]["image"].split(":")[1]}, {version})


if __name__ == "__main__":
    unittest.main()
