"""What the tests of the deployment files share: the programs, secrets as config/make-secrets makes them, and pods and
containers built from what the files say, so that the programs' own `--check` judges every configuration."""

import atexit
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import tomllib

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
PROGRAMS = pathlib.Path(os.environ.get("TRUNKLINE_BIN", ROOT / "target/debug")).resolve()
SCRATCH = pathlib.Path(tempfile.mkdtemp(prefix="trunkline-deployment-"))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)

DOMAIN = "alpha.test"

# What `--check` may warn of: it is so on purpose, or comes from the machine that the test runs on.
WARNINGS = [
    "plain HTTP beyond loopback",  # within the cluster's, or the compose file's, own network
    "no certificate: networks that let only TLS through",  # an operator's certificate is not ours to make
    "peers need the DNS SRV record",  # no endpoints were given
    "no TCP: people whose networks block UDP",  # as was asked for
    "other replicas must be able to look it up",  # their names are the cluster's, or the compose file's
    "fewer than limits.calls_max",  # ports that others have on this machine
]

# The only failure: a database's address, password and authority were read, and no database is on the test's network.
NO_DATABASE = "error connecting to server"


def run(*command, **options):
    """What a command prints; its failure is the test's."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def secrets():
    """The directory that config/make-secrets makes, once for all tests."""
    made = SCRATCH / "secrets"
    if not made.exists():
        environment = {**os.environ, "TRUNKLINE_BIN": str(PROGRAMS)}
        run(CONFIG / "make-secrets", made, DOMAIN, "gw.alpha.test:8443", env=environment)
    return made


def secret_texts(directory):
    """What no rendered or committed file may say."""
    texts = [file.read_text().strip() for file in directory.rglob("*") if file.is_file() and file.suffix != ".crt"]
    return [text for text in texts if len(text) < 200] + [
        line for text in texts if "BEGIN" in text for line in text.splitlines() if not line.startswith("-----")
    ]


def listens(text):
    """The ports that a configuration listens on, as (name, port)."""
    found = []

    def walk(table, path):
        for key, value in table.items():
            if isinstance(value, dict):
                walk(value, [*path, key])
            elif key == "listen" and isinstance(value, str):
                found.append((".".join(path), int(value.rsplit(":", 1)[1])))

    walk(tomllib.loads(text), [])
    return found


def check(command, text, environment=None):
    """Runs a program's `--check` on a network of its own that has every address it is to listen on; what it found."""
    addresses = sorted(set(re.findall(r'(?:listen|tunnel) = "([0-9.]+):', text)) - {"0.0.0.0", "127.0.0.1"})
    lines = ["ip link set lo up", *(f"ip address add {address}/32 dev lo" for address in addresses), 'exec "$@"']
    users = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = [PROGRAMS / command[0], *command[1:], "--check", "--json"]
    shell = ["unshare", "--net", *users, "sh", "-euc", "\n".join(lines), "sh", *map(str, command)]
    done = subprocess.run(shell, capture_output=True, text=True, env=environment)
    try:
        found = json.loads(done.stdout)["checks"]
    except (json.JSONDecodeError, KeyError):
        raise AssertionError(f"{command}: {done.stdout}{done.stderr}") from None
    for one in found:
        why = one.get("why", "")
        allowed = one["result"] == "fine" or one["result"] == "warning" and any(w in why for w in WARNINGS)
        allowed = allowed or one["what"] == "store" and NO_DATABASE in why
        if not allowed:
            raise AssertionError(f"{command}: {one}\n{text}")
    return found


class Place:
    """A container's file system, as far as a pod or a compose file says what is in it: paths within it are moved to a
    directory of the test's."""

    def __init__(self, mounts):
        """`mounts`: path in the container → directory or file here."""
        self.mounts = mounts
        paths = "|".join(re.escape(path) for path in sorted(mounts, key=len, reverse=True))
        self.pattern = re.compile(rf"(?<![\w./-])({paths})(?=$|[/\s\"'*])")

    def here(self, text):
        """A text with the container's paths, with ours in their place."""
        return self.pattern.sub(lambda found: str(self.mounts[found[1]]), text)


def documents(text):
    """YAML documents; keys that stand twice in one mapping are an error, as they are for Kubernetes."""

    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(key, deep) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
            twice = {key for key in keys if keys.count(key) > 1}
            if twice:
                raise yaml.constructor.ConstructorError(None, None, f"twice: {twice}", node.start_mark)
            return super().construct_mapping(node, deep)

    return [document for document in yaml.load_all(text, Strict) if document]
