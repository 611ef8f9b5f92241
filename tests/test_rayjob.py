"""The RayJob in scripts/examples has the fields that KubeRay knows, and a command that doppel knows.

The classes below are an extract of the resource `ray.io/v1` RayJob of KubeRay 1.3, and of the Kubernetes `v1` pod, with
the fields that we use and no others.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from pipeline.cli import build_parser
from pipeline.commands.engines import bounds, share

FILE = Path(__file__).resolve().parents[1] / "scripts" / "examples" / "rayjob.yaml"
Quantity = Annotated[str, Field(pattern=r"^[0-9.]+(m|[KMGT]i?)?$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=47)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Variable(Strict):
    name: str
    value: str


class Resources(Strict):
    requests: dict[str, Quantity]
    limits: dict[str, Quantity]


class Mount(Strict):
    name: Name
    mountPath: str  # noqa: N815
    readOnly: bool = False  # noqa: N815


class Container(Strict):
    name: Name
    image: str
    env: list[Variable] = []
    resources: Resources
    volumeMounts: list[Mount] = []  # noqa: N815


class Claim(Strict):
    claimName: Name  # noqa: N815


class Secret(Strict):
    secretName: Name  # noqa: N815
    defaultMode: int = Field(ge=0, le=0o777)  # noqa: N815


class Volume(Strict):
    name: Name
    persistentVolumeClaim: Claim | None = None  # noqa: N815
    secret: Secret | None = None


class Pod(Strict):
    containers: list[Container] = Field(min_length=1)
    volumes: list[Volume] = []
    terminationGracePeriodSeconds: int = Field(default=30, ge=0)  # noqa: N815


class Template(Strict):
    spec: Pod


class Head(Strict):
    rayStartParams: dict[str, str]  # noqa: N815
    template: Template


class Group(Head):
    groupName: Name  # noqa: N815
    replicas: int = Field(ge=0)
    minReplicas: int = Field(ge=0)  # noqa: N815
    maxReplicas: int = Field(ge=0)  # noqa: N815


class Cluster(Strict):
    rayVersion: str  # noqa: N815
    enableInTreeAutoscaling: bool  # noqa: N815
    headGroupSpec: Head  # noqa: N815
    workerGroupSpecs: list[Group]  # noqa: N815


class Spec(Strict):
    entrypoint: str
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]  # noqa: N815
    shutdownAfterJobFinishes: bool  # noqa: N815
    ttlSecondsAfterFinished: int = Field(ge=0)  # noqa: N815
    backoffLimit: int = Field(ge=0)  # noqa: N815
    rayClusterSpec: Cluster  # noqa: N815


class Metadata(Strict):
    name: Name


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]  # noqa: N815
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: Spec


JOB = RayJob.model_validate(yaml.safe_load(FILE.read_text()))


def test_its_workers_are_as_many_as_its_nodes() -> None:
    (group,) = JOB.spec.rayClusterSpec.workerGroupSpecs
    args = build_parser().parse_args(shlex.split(JOB.spec.entrypoint)[1:])
    assert (args.engine, args.address) == ("ray", None)
    assert bounds(args.workers) == (group.minReplicas, group.maxReplicas)
    (container,) = group.template.spec.containers
    assert share(args.gpus_per_worker) == float(container.resources.limits["nvidia.com/gpu"])


def test_only_the_head_has_the_salt_and_all_share_the_data() -> None:
    spec = JOB.spec.rayClusterSpec
    head, worker = (part.template.spec for part in (spec.headGroupSpec, spec.workerGroupSpecs[0]))
    for pod in (head, worker):
        volumes = {volume.name for volume in pod.volumes}
        mounts = {mount.name: mount.mountPath for mount in pod.containers[0].volumeMounts}
        assert mounts.keys() == volumes
        assert mounts["data"] == "/data"
    assert [volume.name for volume in worker.volumes] == ["data"]
    assert {volume.secret.secretName for volume in head.volumes if volume.secret} == {"doppel-salt"}
