"""The Helm chart: rendered by helm itself, held against Kubernetes' schemas and the rules below, and every pod's
configuration against the programs' own checks."""

import ipaddress
import json
import os
import pathlib
import re
import subprocess
import tempfile
import tomllib
import unittest

import kubernetes_validate

from support import CONFIG, DOMAIN, PROGRAMS, SCRATCH, Place, check, documents, listens, run, secret_texts, secrets

CHART = CONFIG / "helm/trunkline"
HELM = os.environ.get("HELM", "helm")
# The oldest that Chart.yaml admits, and the newest that the schemas know.
KUBERNETES = ["1.26", "1.37"]
URL = "gateway.database.url=postgres://trunkline@database.test/trunkline"
GATEWAY = ["domain=alpha.test", f"{URL}?sslmode=verify-full", "gateway.database.caSecret.name=database-ca"]
ALONE = ["relay.nodes[0].host=worker-a", "relay.nodes[0].node=1", "relay.nodes[0].address=10.0.0.11"]
PUBLIC = [*ALONE, "relay.nodes[0].public=203.0.113.11"]

# Name → (arguments of helm, what must be there).
VARIANTS = {
    "alpha": (["--values", CONFIG / "helm/alpha.yaml"], {"gateway": 3, "relay": 2, "ingress": 2}),
    "gateways only": (GATEWAY, {"gateway": 3}),
    "one gateway, verbose": (
        [*GATEWAY, "gateway.replicas=1", "log.format=text", "log.detail=ip", 'gateway.extraConfig=[limits]\nretention = "7d"'],
        {"gateway": 1},
    ),
    "TLS, the password from elsewhere": (
        [
            *GATEWAY, "gateway.apiTlsSecret=api-tls", "gateway.database.passwordSecret.name=database-app",
            "serviceMonitor.enabled=true", "networkPolicy.enabled=false",
            "gateway.linkService.type=NodePort", "image.pullSecrets[0].name=pull",
        ],
        {"gateway": 3},
    ),
    "a database that is not verified": (["domain=alpha.test", f"{URL}?sslmode=require"], {"gateway": 3}),
    "a relay alone": (["gateway.replicas=0", *PUBLIC], {"relay": 1}),
    "a relay alone, with TLS": (
        [
            *GATEWAY, *PUBLIC, "relay.tlsSecret=relay-tls", "relay.nodes[0].name=relay-1.alpha.test",
            "relay.origins[0]=https://app.alpha.test",
        ],
        {"gateway": 3, "relay": 1},
    ),
    "ingresses without TCP": (
        ["--values", CONFIG / "helm/alpha.yaml", "ingress.tcpPort=0", "ingress.tlsSecret=", "relay.tlsName="],
        {"gateway": 3, "relay": 2, "ingress": 2},
    ),
}

# What helm must refuse, and the words it must say.
REFUSED = {
    "domain is missing": [],
    "gateway.database.url is missing": ["domain=alpha.test"],
    "gateway.database.caSecret.name is missing": ["domain=alpha.test", f"{URL}?sslmode=verify-full"],
    "has no public address": ["gateway.replicas=0", *ALONE],
    "has no name, which is in the certificate": ["gateway.replicas=0", *PUBLIC, "relay.tlsSecret=relay-tls"],
    "ingress.nodes without relay.nodes": [
        *GATEWAY, "ingress.nodes[0].host=edge-a", "ingress.nodes[0].address=10.0.0.2", "ingress.nodes[0].public=203.0.113.7",
    ],
    "relay.tlsSecret is for relays without ingresses": ["--values", CONFIG / "helm/alpha.yaml", "relay.tlsSecret=x"],
    "domian": [*GATEWAY, "domian=alpha.test"],
    "database": ["domain=alpha.test", "gateway.database.url=mysql://database.test"],
}


def helm_arguments(arguments):
    words, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        words += [word, str(rest.pop(0))] if word == "--values" else ["--set", word]
    return words


def render(arguments, *more):
    return run(HELM, "template", "calls", CHART, "--namespace", "trunkline", *helm_arguments(arguments), *more)


def mapping(document):
    return document["metadata"].get("labels", {})


def within(selector, labels):
    return selector.items() <= labels.items()


class Rendered:
    """A chart with some values."""

    def __init__(self, arguments, parts):
        self.parts = parts
        self.text = render(arguments)
        self.documents = documents(self.text)

    def of(self, kind):
        return [document for document in self.documents if document["kind"] == kind]

    def workloads(self):
        return [(document, document["spec"]["template"]) for document in self.of("StatefulSet")]

    def config(self, name):
        return next(document["data"] for document in self.of("ConfigMap") if document["metadata"]["name"] == name)

    def pods(self):
        """Every pod there will be: (workload, template, name of the pod, its machine)."""
        for document, template in self.workloads():
            name = document["metadata"]["name"]
            machines = [None] * document["spec"]["replicas"]
            affinity = template["spec"]["affinity"].get("nodeAffinity")
            if affinity:
                [term] = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
                [machine] = term["matchExpressions"]
                assert machine["key"] == "kubernetes.io/hostname" and machine["operator"] == "In"
                machines = machine["values"]
                assert len(set(machines)) == document["spec"]["replicas"]
            for number, machine in enumerate(machines):
                yield document, template, f"{name}-{number}", machine


def ports_of(template):
    return {
        port["name"]: (port["protocol"], port["containerPort"])
        for container in template["spec"]["containers"]
        for port in container["ports"]
    }


def secret_sources(volume):
    """(name, items, optional) of each Secret in a volume, and the mode of its files."""
    if "projected" in volume:
        projected = volume["projected"]
        found = [source["secret"] for source in projected["sources"]]
        return [(one["name"], one.get("items"), one.get("optional")) for one in found], projected["defaultMode"]
    secret = volume.get("secret")
    if not secret:
        return [], None
    return [(secret["secretName"], secret.get("items"), secret.get("optional"))], secret["defaultMode"]


def stored_secret(name):
    """The files of a Secret, as the manual makes it."""
    made = secrets()
    known = {"trunkline-gateway": "gateway", "trunkline-relay": "relay", "trunkline-bootstrap": "bootstrap"}
    if name in known:
        return {file.name: file.read_bytes() for file in (made / known[name]).iterdir()}
    current = {end: (made / f"gateway/current.{end}").read_bytes() for end in ("crt", "key")}
    if name == "database-app":
        return {"password": b"from elsewhere\n"}
    if name == "database-ca":
        return {"ca.crt": current["crt"]}
    return {"tls.crt": current["crt"], "tls.key": current["key"]}  # kubernetes.io/tls


class Pod:
    """A pod's volumes as kubelet fills them, with modes as the pod's user sees them."""

    def __init__(self, rendered, template, name, machine):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="pod-", dir=SCRATCH))
        self.template, self.fields = template, {"metadata.name": name, "spec.nodeName": machine}
        for volume in template["spec"]["volumes"]:
            here = self.dir / volume["name"]
            here.mkdir(parents=True)
            if "configMap" in volume:
                for key, text in rendered.config(volume["configMap"]["name"]).items():
                    (here / key).write_text(text)
            sources, mode = secret_sources(volume)
            for secret, items, _ in sources:
                stored = stored_secret(secret)
                for item in items or [{"key": key, "path": key} for key in stored]:
                    assert not (here / item["path"]).exists(), f"{item['path']} twice"
                    (here / item["path"]).write_bytes(stored[item["key"]])
                    (here / item["path"]).chmod(mode)

    def place(self, container):
        return Place({mount["mountPath"]: self.dir / mount["name"] for mount in container["volumeMounts"]})

    def environment(self, container):
        env = {"PATH": os.environ["PATH"]}
        for variable in container.get("env", []):
            env[variable["name"]] = self.fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        return env


def of_every_variant(test):
    """A test of a chart with some values, for all that VARIANTS has."""

    def all_of_them(self):
        for name, rendered in self.variants.items():
            with self.subTest(name):
                test(self, rendered)

    return all_of_them


class Chart(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.variants = {name: Rendered(*variant) for name, variant in VARIANTS.items()}

    def test_helm_finds_nothing_to_complain_of(self):
        out = run(HELM, "lint", CHART, "--strict", "--values", CONFIG / "helm/alpha.yaml")
        self.assertNotRegex(out, r"\[(WARNING|ERROR)\]")

    def test_what_cannot_be_meant_is_refused_in_words(self):
        for words, arguments in REFUSED.items():
            with self.subTest(words):
                command = [HELM, "template", "calls", str(CHART), *helm_arguments(arguments)]
                done = subprocess.run(command, capture_output=True, text=True)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(words, done.stderr)

    @of_every_variant
    def test_every_document_is_what_kubernetes_takes(self, rendered):
        for document in rendered.documents:
            if document["kind"] == "ServiceMonitor":  # of Prometheus' operator: no schema of Kubernetes'
                self.assertEqual(document["apiVersion"], "monitoring.coreos.com/v1")
                self.assertLessEqual(document["spec"].keys(), {"selector", "endpoints"})
                continue
            for version in KUBERNETES:
                kubernetes_validate.validate(document, version, strict=True)
        names = [(document["kind"], document["metadata"]["name"]) for document in rendered.documents]
        self.assertEqual(len(names), len(set(names)))
        for _, name in names:
            self.assertRegex(name, r"^[a-z0-9]([-a-z0-9]{0,51}[a-z0-9])?$")

    @of_every_variant
    def test_it_has_as_many_pods_of_each_part_as_were_asked_for(self, rendered):
        part = lambda document: document["metadata"]["name"].removeprefix("calls-")
        found = {part(document): document["spec"]["replicas"] for document, _ in rendered.workloads()}
        self.assertEqual(found, rendered.parts)
        budgets = {part(document) for document in rendered.of("PodDisruptionBudget")}
        self.assertEqual(budgets, set(rendered.parts))

    @of_every_variant
    def test_selectors_find_the_pods_of_one_part(self, rendered):
        templates = {document["metadata"]["name"]: template["metadata"]["labels"] for document, template in rendered.workloads()}
        for document in rendered.documents:
            spec = document.get("spec", {})
            selector = {"Service": spec.get("selector"), "NetworkPolicy": spec.get("podSelector", {}).get("matchLabels")}.get(
                document["kind"], (spec.get("selector") or {}).get("matchLabels")
            )
            if document["kind"] == "ServiceMonitor":
                found = [one for one in rendered.of("Service") if within(selector, mapping(one))]
                self.assertEqual(len(found), 1, document["metadata"])
                self.assertIn(spec["endpoints"][0]["port"], [port["name"] for port in found[0]["spec"]["ports"]])
            elif document["kind"] != "ConfigMap":
                found = [name for name, labels in templates.items() if within(selector, labels)]
                self.assertEqual(len(found), 1, document["metadata"])
                self.assertTrue(document["metadata"]["name"].startswith(found[0]))

    @of_every_variant
    def test_every_port_that_is_named_is_there(self, rendered):
        for document, template in rendered.workloads():
            ports = ports_of(template)
            self.assertEqual(len(ports), len(set(ports.values())), "a port twice")
            selected = [one for one in rendered.of("Service") if within(one["spec"]["selector"], template["metadata"]["labels"])]
            self.assertIn(document["spec"]["serviceName"], [one["metadata"]["name"] for one in selected])
            for service in selected:
                for port in service["spec"]["ports"]:
                    self.assertEqual(ports[port["targetPort"]][0], port["protocol"])
            for policy in rendered.of("NetworkPolicy"):
                if within(policy["spec"]["podSelector"]["matchLabels"], template["metadata"]["labels"]):
                    for rule in policy["spec"]["ingress"]:
                        self.assertTrue(rule.get("from", True), "an empty list lets everybody in")
                        for port in rule["ports"]:
                            self.assertEqual(ports[port["port"]][0], port["protocol"])
            [container] = template["spec"]["containers"]
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                get = container[probe]["httpGet"]
                self.assertEqual(ports[get["port"]][0], "TCP")
                self.assertEqual(get["path"], "/readyz" if probe == "readinessProbe" else "/healthz")
            for port in container["ports"] if template["spec"].get("hostNetwork") else []:
                self.assertEqual(port["hostPort"], port["containerPort"])

    @of_every_variant
    def test_programs_listen_on_the_ports_that_pods_declare(self, rendered):
        for document, template in rendered.workloads():
            declared = {port for _, port in ports_of(template).values()}
            for text in rendered.config(document["metadata"]["name"]).values():
                for name, port in listens(text):
                    self.assertIn(port, declared, name)
            [container] = template["spec"]["containers"]
            # A probe speaks TLS where the program does.
            api = "admin_api" if container["name"] == "gateway" else "api"
            texts = rendered.config(document["metadata"]["name"]).values()
            tls = any("tls_certificate" in tomllib.loads(text)[api] for text in texts)
            self.assertEqual(container["readinessProbe"]["httpGet"]["scheme"], "HTTPS" if tls else "HTTP")

    @of_every_variant
    def test_replicas_are_told_names_that_the_headless_service_gives(self, rendered):
        for document, _, name, _ in rendered.pods():
            if not document["metadata"]["name"].endswith("-gateway"):
                continue
            [service] = [one for one in rendered.of("Service") if one["metadata"]["name"] == document["spec"]["serviceName"]]
            self.assertEqual(service["spec"]["clusterIP"], "None")
            text = rendered.config(document["metadata"]["name"])[f"{name}.toml"]
            host = f"{name}.{service['metadata']['name']}.trunkline.svc.cluster.local:8442"
            self.assertIn(f'[replica]\nlisten = "0.0.0.0:8442"\nadvertise = "{host}"\n', text)

    @of_every_variant
    def test_pods_have_no_privileges_and_no_room_to_write(self, rendered):
        for document, template in rendered.workloads():
            spec = template["spec"]
            self.assertFalse(spec["automountServiceAccountToken"])
            self.assertTrue(spec["securityContext"]["runAsNonRoot"])
            self.assertGreater(spec["securityContext"]["runAsUser"], 0)
            self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertEqual(bool(spec.get("hostNetwork")), not document["metadata"]["name"].endswith("-gateway"))
            volumes = {volume["name"] for volume in spec["volumes"]}
            mounted = set()
            for container in [*spec["initContainers"], *spec["containers"]]:
                self.assertEqual(
                    container["securityContext"],
                    {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
                )
                self.assertIn("memory", container["resources"]["limits"])
                self.assertIn("cpu", container["resources"]["requests"])
                for mount in container["volumeMounts"]:
                    mounted.add(mount["name"])
                    self.assertEqual(mount.get("readOnly", False), mount["name"] != "state", mount)
            self.assertEqual(mounted, volumes)
            for volume in spec["volumes"]:
                self.assertFalse({"hostPath", "nfs"} & volume.keys())

    @of_every_variant
    def test_a_pod_may_live_until_its_drain_is_over(self, rendered):
        for document, template in rendered.workloads():
            grace = template["spec"]["terminationGracePeriodSeconds"]
            part = document["metadata"]["name"].removeprefix("calls-")
            hook = json.dumps(template["spec"]["containers"][0].get("lifecycle", {}))
            # What the programs take at most after SIGTERM (the units' TimeoutStopSec, less what they leave).
            least = {"gateway": 5 + 20, "relay": 10, "ingress": 10}[part]
            if part == "relay":
                least += int(re.search(r"--deadline-s (\d+)", hook)[1])
            self.assertGreater(grace, least)

    @of_every_variant
    def test_it_holds_no_secret(self, rendered):
        told = secret_texts(secrets())
        self.assertGreater(len(told), 8)
        self.assertEqual(rendered.of("Secret"), [])
        for text in told:
            self.assertNotIn(text, rendered.text)
        self.assertNotRegex(rendered.text, r"://[^/@\s]+:[^/@\s]+@|tl[a-z]_[A-Za-z0-9_-]{20}|PRIVATE KEY")

    def test_no_committed_file_holds_a_secret(self):
        made = {CONFIG / "compose/state", CONFIG / "compose/.env"}
        files = [file for file in CONFIG.rglob("*") if file.is_file() and not made & {file, *file.parents}]
        self.assertGreater(len(files), 20)
        for file in files:
            text = file.read_text(errors="replace")
            self.assertNotRegex(text, r"tl[a-z]_[A-Za-z0-9_-]{30}|BEGIN [A-Z ]*PRIVATE KEY", file)

    @of_every_variant
    def test_every_pod_of_every_part_passes_its_programs_check(self, rendered):
        for _, template, name, machine in rendered.pods():
            pod = Pod(rendered, template, name, machine)
            [prepare] = template["spec"]["initContainers"]
            place = pod.place(prepare)
            [script] = map(place.here, prepare["args"])
            run(*prepare["command"], script, env=pod.environment(prepare))
            # A container that restarts in its pod finds all there; an init container may run again.
            run(*prepare["command"], script, env=pod.environment(prepare))
            [container] = template["spec"]["containers"]
            place = pod.place(container)
            state = pod.dir / "state"
            [file] = state.glob("*.toml")
            file.write_text(place.here(file.read_text()))
            self.assertEqual((state / "data/bootstrap.json").exists(), "-gateway-" in name)
            for key in (state / "keys").iterdir():
                self.assertEqual(key.stat().st_mode & 0o077, 0, key)
            check([place.here(word) for word in container["command"]], file.read_text())

    def test_a_relay_that_is_to_stop_waits_until_its_calls_are_over(self):
        """The preStop hook, on a relay with a call that nobody ends."""
        # The certificate of this test's Secrets is for the deployment's domain.
        tls = ["relay.tlsSecret=relay-tls", f"relay.nodes[0].name={DOMAIN}"]
        for name, tls in {"plain": [], "TLS": tls}.items():
            with self.subTest(name):
                self.drains(Rendered(["gateway.replicas=0", *PUBLIC, "relay.drainSeconds=2", *tls], {"relay": 1}))

    def drains(self, rendered):
        [(_, template, name, machine)] = rendered.pods()
        pod = Pod(rendered, template, name, machine)
        [prepare] = template["spec"]["initContainers"]
        run(*prepare["command"], pod.place(prepare).here(prepare["args"][0]), env=pod.environment(prepare))
        [container] = template["spec"]["containers"]
        place, state = pod.place(container), pod.dir / "state"
        config = state / "relay.toml"
        config.write_text(place.here(config.read_text()))
        script = """
            ip link set lo up; ip address add 10.0.0.11/32 dev lo; ip address add 203.0.113.11/32 dev lo
            mount --bind hosts /etc/hosts
            $RELAY 2>log & relay=$!
            trap 'kill $relay; wait $relay' EXIT
            trunkline-relay() { command trunkline-relay "$@" ${URL:+--url "$URL"}; }
            until trunkline-relay --dir "$STATE" status >/dev/null 2>&1; do kill -0 $relay; sleep 0.1; done
            trunkline-relay --dir "$STATE" call create
            trunkline-relay --dir "$STATE" status --json
            "$@"
            trunkline-relay --dir "$STATE" status --json
            """
        users = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        relay = " ".join(map(place.here, container["command"]))
        path = f"{PROGRAMS}:{os.environ['PATH']}"
        aliases = template["spec"].get("hostAliases", [])
        (pod.dir / "hosts").write_text("".join(f"{one['ip']} {' '.join(one['hostnames'])}\n" for one in aliases))
        url = f"https://{DOMAIN}:8444" if aliases else ""
        environment = {**os.environ, "URL": url, "RELAY": relay, "STATE": str(state), "PATH": path}
        hook = map(place.here, container["lifecycle"]["preStop"]["exec"]["command"])
        namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", *users]
        command = ["timeout", "60", *namespaces, "bash", "-euc", script, "bash", *hook]
        out = run(*command, env=environment, cwd=pod.dir)
        self.assertEqual(re.findall(r'"(?:calls|draining)": (\w+)', out), ["1", "false", "0", "true"], out)

    @of_every_variant
    def test_nodes_and_ingresses_know_each_other(self, rendered):
        if "ingress" not in rendered.parts:
            return
        nodes = [tomllib.loads(text) for text in rendered.config("calls-relay").values()]
        ingresses = [tomllib.loads(text) for text in rendered.config("calls-ingress").values()]
        for node in nodes:
            self.assertEqual(node["ingress"]["from"], [one["tunnel"]["listen"].split(":")[0] for one in ingresses])
            self.assertEqual(node["ingress"]["advertise"], [one["media"]["advertise"][0] for one in ingresses])
            for ingress in ingresses:
                for port in ("udp_port", "tcp_port"):
                    self.assertEqual(node["ingress"][port], ingress["media"][port])
                [known] = [one for one in ingress["nodes"] if one["node"] == node["node"]]
                self.assertEqual(known["tunnel"], node["ingress"]["listen"])
                self.assertEqual(known["api"], f"http://{node['api']['listen']}")
            for address in node["ingress"]["advertise"]:
                ipaddress.ip_address(address)


if __name__ == "__main__":
    unittest.main()
