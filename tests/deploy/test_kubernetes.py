"""The manifests of `deploy/kubernetes/` fit their schemas, one another and the code."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from broker.wire.curve import make_keys
from broker.wire.sockets import Addresses
from http_front.access.key_guard import OPEN_PATHS
from launcher.command_line import Command
from tests.deploy.containerfile import instructions, of, variables
from tests.deploy.files import DEPLOY, launched, stop_limit_s

FOLDER = DEPLOY / "kubernetes"
README = DEPLOY / "README.md"
IMAGE = instructions(DEPLOY / "container" / "Containerfile.cuda")
OLDEST = "1.29"
"""The first release in which every feature used here is stable."""

Manifest = dict[str, Any]


def in_file(name: str) -> list[Manifest]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


KUSTOMIZATION = in_file("kustomization.yaml")[0]
MANIFESTS = [manifest for name in KUSTOMIZATION["resources"] for manifest in in_file(name)]
WORKLOADS = {m["metadata"]["name"]: m for m in MANIFESTS if "template" in m["spec"]}


@pytest.fixture(params=WORKLOADS)
def pod(request: pytest.FixtureRequest) -> Manifest:
    found: Manifest = WORKLOADS[request.param]["spec"]["template"]["spec"]
    return found


def named(kind: str, name: str) -> Manifest:
    (found,) = [m for m in MANIFESTS if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def container_of(pod: Manifest) -> Manifest:
    (container,) = pod["containers"]
    found: Manifest = container
    return found


def command_of(pod: Manifest) -> Command:
    """Parse a pod's arguments with the variables of its image."""
    return launched(["launch.py", *container_of(pod)["args"]], variables(IMAGE))


def template_of(name: str) -> Manifest:
    found: Manifest = WORKLOADS[name]["spec"]["template"]
    return found


@pytest.mark.parametrize("release", [OLDEST, kubernetes_validate.latest_version()])
def test_every_manifest_is_valid(release: str) -> None:
    for manifest in MANIFESTS:
        kubernetes_validate.validate(manifest, release, strict=True)


def test_every_file_is_applied() -> None:
    files = {path.name for path in FOLDER.iterdir()} - {"kustomization.yaml"}
    assert files == set(KUSTOMIZATION["resources"])


def test_kubectl_can_build_the_kustomization() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    words = ["kubectl", "kustomize", str(FOLDER)]
    built = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert len(list(yaml.safe_load_all(built))) == len(MANIFESTS)
    assert set(re.findall(r"image: (\S+)", built)) == {"wan-ranks:cuda", "wan-ranks:ascend"}


def test_every_image_has_a_containerfile() -> None:
    used = {container_of(w["spec"]["template"]["spec"])["image"] for w in WORKLOADS.values()}
    assert used == {image["name"] for image in KUSTOMIZATION["images"]}
    built = {path.suffix[1:] for path in (DEPLOY / "container").glob("Containerfile.*")}
    assert {image["newTag"] for image in KUSTOMIZATION["images"]} == built


def test_every_selector_finds_its_pods() -> None:
    labels = [w["spec"]["template"]["metadata"]["labels"] for w in WORKLOADS.values()]
    for manifest in MANIFESTS:
        spec = manifest["spec"]
        selector = spec.get("podSelector", spec.get("selector"))
        if selector is not None:
            wanted = selector.get("matchLabels", selector).items()
            chosen = [found for found in labels if wanted <= found.items()]
            assert chosen, manifest["metadata"]
            assert manifest not in WORKLOADS.values() or len(chosen) == 1


def test_only_pods_that_join_may_reach_the_four_ports_of_the_server() -> None:
    server = template_of("wan-server")["spec"]
    listen = command_of(server).options.listen
    assert listen is not None
    addresses = Addresses.on_tcp(listen, Path("/keys"))
    ports = [
        int(address.rpartition(":")[2].partition("#")[0])
        for address in (addresses.requests, addresses.groups, addresses.beats, addresses.events)
    ]
    assert [p["port"] for p in named("Service", "wan-server")["spec"]["ports"]] == ports
    assert [p["containerPort"] for p in container_of(server)["ports"]][:4] == ports
    (rule,) = named("NetworkPolicy", "wan-server")["spec"]["ingress"]
    assert [(p["port"], p["endPort"]) for p in rule["ports"]] == [(ports[0], ports[-1])]
    (allowed,) = [peer["podSelector"]["matchLabels"].items() for peer in rule["from"]]
    for name in WORKLOADS:
        template = template_of(name)
        command = command_of(template["spec"])
        assert (command.role != "server") == (allowed <= template["metadata"]["labels"].items())
        if command.role != "server":
            assert command.options.join == f"tcp://wan-server:{ports[0]}"


def test_service_policy_and_probes_use_the_http_port() -> None:
    front = template_of("wan-front")["spec"]
    port = {"name": "http", "containerPort": command_of(front).options.port}
    assert container_of(front)["ports"] == [port]
    assert port in container_of(template_of("wan-server")["spec"])["ports"]
    (rule,) = named("NetworkPolicy", "wan-front")["spec"]["ingress"]
    assert [allowed["port"] for allowed in rule["ports"]] == [port["containerPort"]]
    (opened,) = named("Service", "wan-front")["spec"]["ports"]
    assert opened["targetPort"] == port["name"]


def test_probes_use_paths_without_a_key(pod: Manifest) -> None:
    container = container_of(pod)
    probes = [container[name]["httpGet"] for name in container if name.endswith("Probe")]
    assert bool(probes) == command_of(pod).has_front
    for probe in probes:
        assert probe["port"] == "http"
        assert probe["path"] in OPEN_PATHS


def test_a_stopping_pod_has_the_time_that_the_launcher_needs(pod: Manifest) -> None:
    assert pod["terminationGracePeriodSeconds"] > stop_limit_s(command_of(pod))


def test_every_mounted_volume_exists(pod: Manifest) -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in container_of(pod)["volumeMounts"]}
    claimed = {"state"} if command_of(pod).role == "server" else set()
    assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]} | claimed
    options = command_of(pod).options
    for path in (options.state_dir, options.store, options.curve_keys, options.api_keys):
        assert path is None or any(Path(path).is_relative_to(mount) for mount in mounts)
    if command_of(pod).has_groups:
        assert Path(options.model_path[0]).parent in map(Path, mounts)
        assert mounts["/dev/shm"] == "shm"
    for volume in pod["volumes"]:
        if "persistentVolumeClaim" in volume:
            claim = named("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
            assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_page_makes_every_secret(pod: Manifest, tmp_path: Path) -> None:
    text = README.read_text().replace("\\\n", " ")
    made = dict(re.findall(r"create secret generic (\S+) +(.*)", text))
    broker, peer = make_keys(tmp_path)
    for volume in pod["volumes"]:
        if "secret" in volume:
            files = re.findall(r"--from-file=(\S+)", made[volume["secret"]["secretName"]])
            keys_of_pod = {Path(file).name: Path(file).name for file in files}
            if "items" in volume["secret"]:
                keys_of_pod = {
                    item["path"]: keys_of_pod[item["key"]] for item in volume["secret"]["items"]
                }
            if volume["name"] == "curve":
                folder = broker if command_of(pod).role == "server" else peer
                keys = {str(key.relative_to(folder)) for key in folder.rglob("*.key*")}
                assert set(keys_of_pod) == keys
                assert all((tmp_path / file.removeprefix("keys/")).exists() for file in files)


def test_pods_do_not_run_as_root_and_write_only_to_their_volumes(pod: Manifest) -> None:
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert user == of(IMAGE, "USER")[-1].text
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container_of(pod)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_groups_on_npus_and_gpus_differ_only_in_the_device() -> None:
    cuda = (FOLDER / "group-cuda.yaml").read_text().partition("\n")[2]
    ascend = (FOLDER / "group-ascend.yaml").read_text().partition("\n")[2].partition("\n")[2]
    cuda = re.sub(r" +tolerations:\n.*\n", "", cuda)
    for there, here in (
        ("nvidia.com/gpu", "huawei.com/Ascend910"),
        ("--device=cuda", "--device=npu"),
        ("device: cuda", "device: npu"),
        ("-cuda", "-ascend"),
    ):
        cuda = cuda.replace(there, here)
    assert cuda == ascend


def test_a_group_has_as_many_devices_as_ranks() -> None:
    for name, resource in (
        ("wan-group-cuda", "nvidia.com/gpu"),
        ("wan-group-ascend", "huawei.com/Ascend910"),
    ):
        pod = template_of(name)["spec"]
        options = command_of(pod).options
        needed = options.nproc * options.groups
        assert container_of(pod)["resources"]["limits"][resource] == needed
