"""The manifests of deploy/kubernetes: they fit together, and they fit the services."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tidelog.embedded.stack import SERVICES
from tidelog.kafka.access import PRINCIPALS
from tidelog.security import GRPC_FILES
from tidelog.settings import PREFIX, Settings

FOLDER = Path(__file__).parent.parent.parent / "deploy" / "kubernetes"
VERSIONS: Final = {
    "ConfigMap": "v1",
    "Service": "v1",
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "PodDisruptionBudget": "policy/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
}
WORKLOADS: Final = ("Deployment", "StatefulSet")
SIMULATED: Final = {"payment_provider", "carrier", "mail"}
"""The world outside, which is real in production."""

NAME: Final = "app.kubernetes.io/name"
POD_KEYS: Final = frozenset(
    [
        "automountServiceAccountToken",
        "containers",
        "enableServiceLinks",
        "securityContext",
        "terminationGracePeriodSeconds",
        "topologySpreadConstraints",
        "volumes",
    ]
)
CONTAINER_KEYS: Final = frozenset(
    [
        "args",
        "env",
        "envFrom",
        "image",
        "lifecycle",
        "livenessProbe",
        "name",
        "ports",
        "readinessProbe",
        "resources",
        "securityContext",
        "startupProbe",
        "volumeMounts",
    ]
)


class Unique(yaml.SafeLoader):
    """YAML in which no key is there twice: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key is there twice"
        return super().construct_mapping(node, deep)


def documents(path: Path) -> Iterator[dict[str, Any]]:
    yield from yaml.load_all(path.read_text(encoding="utf-8"), Loader=Unique)


KUSTOMIZATION = next(documents(FOLDER / "kustomization.yaml"))
ALL = [found for name in KUSTOMIZATION["resources"] for found in documents(FOLDER / name)]


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [found for found in ALL if found["kind"] in kinds]


def name_of(found: Mapping[str, Any]) -> str:
    return str(found["metadata"]["name"])


def pod(workload: Mapping[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def container(workload: Mapping[str, Any]) -> dict[str, Any]:
    (only,) = pod(workload)["containers"]
    return dict(only)


def ports(workload: Mapping[str, Any]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(workload)["ports"]}


EACH = pytest.mark.parametrize("workload", of_kind(*WORKLOADS), ids=name_of)


def test_every_file_is_listed_and_every_document_is_of_a_known_kind() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(KUSTOMIZATION["resources"])
    assert {found["kind"]: found["apiVersion"] for found in ALL} == VERSIONS
    names = [(found["kind"], name_of(found)) for found in ALL]
    assert len(names) == len(set(names))


def test_every_service_of_the_stack_has_a_workload_and_runs_its_own_module() -> None:
    modules = {service.module for service in SERVICES if service.name not in SIMULATED}
    found = {container(workload)["args"][0] for workload in of_kind(*WORKLOADS)}
    assert found == modules
    assert all(find_spec(module) for module in modules)


def test_no_secret_is_in_the_manifests() -> None:
    assert not of_kind("Secret")
    for workload in of_kind(*WORKLOADS):
        for variable in container(workload)["env"]:
            secret = variable["name"].endswith(("PASSWORD", "KEY"))
            assert not (secret and "value" in variable), variable["name"]


@EACH
def test_its_settings_are_settings_and_their_values_are_taken(
    workload: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (config,) = of_kind("ConfigMap")
    given = config["data"] | {
        variable["name"]: variable.get("value", "from-elsewhere")
        for variable in container(workload)["env"]
    }
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert given.keys() <= known
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in given.items():
        assert isinstance(value, str), f"{name}: Kubernetes takes strings alone"
        monkeypatch.setenv(name, value.replace("$(TIDELOG_INSTANCE)", f"{name_of(workload)}-0"))
    Settings()
    user = given.get("TIDELOG_KAFKA_SASL_USERNAME")
    assert user is None or user in PRINCIPALS


@EACH
def test_its_parts_fit_together(workload: dict[str, Any]) -> None:
    assert pod(workload).keys() <= POD_KEYS
    assert container(workload).keys() <= CONTAINER_KEYS
    selector = workload["spec"]["selector"]["matchLabels"]
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= labels.items()
    mounted = {mount["name"] for mount in container(workload)["volumeMounts"]}
    claimed = {name_of(claim) for claim in workload["spec"].get("volumeClaimTemplates", ())}
    assert mounted == {volume["name"] for volume in pod(workload)["volumes"]} | claimed
    folders = [mount["mountPath"] for mount in container(workload)["volumeMounts"]]
    for variable in container(workload)["env"]:
        if variable["name"].endswith("_FILE"):
            assert any(variable["value"].startswith(f"{folder}/") for folder in folders), variable
    if workload["kind"] == "StatefulSet":
        assert workload["spec"]["serviceName"] in map(name_of, of_kind("Service"))


@EACH
def test_it_is_watched_bounded_and_stopped_in_order(workload: dict[str, Any]) -> None:
    its = container(workload)
    assert its["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "http"}
    assert its["startupProbe"]["httpGet"] == {"path": "/livez", "port": "http"}
    assert its["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert its["resources"]["requests"].keys() == {"cpu", "memory"}
    assert its["resources"]["limits"].keys() == {"memory"}
    (_, seconds) = its["lifecycle"]["preStop"]["exec"]["command"]
    assert pod(workload)["terminationGracePeriodSeconds"] >= int(seconds) + 30
    assert pod(workload)["securityContext"]["runAsNonRoot"] is True
    assert pod(workload)["automountServiceAccountToken"] is False
    assert its["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_whatever_has_several_instances_is_taken_down_one_at_a_time() -> None:
    several = {name_of(each) for each in of_kind(*WORKLOADS) if each["spec"]["replicas"] > 1}
    budgets = {
        budget["spec"]["selector"]["matchLabels"][NAME]: budget["spec"]["maxUnavailable"]
        for budget in of_kind("PodDisruptionBudget")
    }
    assert budgets == dict.fromkeys(several, 1)


def test_every_address_inside_has_a_service_and_a_way_through_the_network() -> None:
    workloads = {name_of(each): each for each in of_kind(*WORKLOADS)}
    for service in of_kind("Service"):
        target = workloads[service["spec"]["selector"][NAME]]
        for port in service["spec"]["ports"]:
            assert ports(target)[port["targetPort"]] == port["port"]
            way = f"{name_of(target)}-{port['port']}"
            policies = set(map(name_of, of_kind("NetworkPolicy")))
            assert name_of(target) == "gateway" or {f"to-{way}", f"at-{way}"} <= policies
    (config,) = of_kind("ConfigMap")
    for name, value in config["data"].items():
        if value.startswith("http://") or name.endswith("_SERVICE_GRPC"):
            host, _, port = value.removeprefix("http://").partition(":")
            (service,) = (each for each in of_kind("Service") if name_of(each) == host)
            assert [each["port"] for each in service["spec"]["ports"]] == [int(port)]


def test_grpc_is_encrypted_and_open_to_those_who_ask_alone() -> None:
    serving = {
        name_of(each)
        for each in of_kind(*WORKLOADS)
        if any(variable["name"] == "TIDELOG_GRPC_PORT" for variable in container(each)["env"])
    }
    assert serving == {"command-service", "query-service"}
    asking = set()
    policies = {name_of(each): each["spec"] for each in of_kind("NetworkPolicy")}
    for name in serving:
        to, at = policies[f"to-{name}-9000"], policies[f"at-{name}-9000"]
        assert set(named(to["podSelector"])) == set(named(at["ingress"]))
        assert set(named(to["egress"])) == set(named(at["podSelector"])) == {name}
        asking |= set(named(to["podSelector"]))
    for each in of_kind(*WORKLOADS):
        given = {variable["name"] for variable in container(each)["env"]}
        secrets = {
            v["name"]: v["secret"]["secretName"] for v in pod(each)["volumes"] if "secret" in v
        }
        certified = name_of(each) in serving | asking
        assert {PREFIX + name.upper() for name in GRPC_FILES} & given == (
            {PREFIX + name.upper() for name in GRPC_FILES} if certified else set()
        )
        assert secrets.get("grpc") == (f"grpc-{name_of(each)}" if certified else None)


def test_an_instance_is_reached_by_a_name_that_a_certificate_can_hold() -> None:
    (found,) = (each for each in of_kind("StatefulSet") if name_of(each) == "command-service")
    given = {variable["name"]: variable.get("value", "") for variable in container(found)["env"]}
    host, _, port = given["TIDELOG_GRPC_ADDRESS"].partition(":")
    pod_name, *domain = host.split(".")
    # gRPC takes a star only before a name with a dot in it.
    assert domain == [found["spec"]["serviceName"], KUSTOMIZATION["namespace"], "svc"]
    assert (pod_name, port) == ("$(TIDELOG_INSTANCE)", given["TIDELOG_GRPC_PORT"])


def test_the_network_names_only_workloads_that_there_are() -> None:
    known = {name_of(each) for each in of_kind(*WORKLOADS)}
    assert "deny-all" in map(name_of, of_kind("NetworkPolicy"))
    for policy in of_kind("NetworkPolicy"):
        assert set(named(policy["spec"])) <= known, name_of(policy)


def test_whoever_has_a_user_of_kafka_may_reach_it_and_nobody_else() -> None:
    (way,) = (each for each in of_kind("NetworkPolicy") if name_of(each) == "to-kafka")
    users = {
        name_of(each)
        for each in of_kind(*WORKLOADS)
        if any("KAFKA_SASL_USERNAME" in variable["name"] for variable in container(each)["env"])
    }
    assert set(named(way["spec"])) == users


def named(part: Any) -> Iterator[str]:
    """Every workload that a policy's selectors name."""
    if isinstance(part, dict):
        if part.get("key") == NAME:
            yield from part["values"]
        if NAME in part:
            yield part[NAME]
        yield from itertools.chain.from_iterable(map(named, part.values()))
    elif isinstance(part, list):
        yield from itertools.chain.from_iterable(map(named, part))
