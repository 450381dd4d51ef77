"""What is asked for, and how it stands: shared by the two ways to a TPU."""

import dataclasses
import enum
import json

import calls
import slices


class State(enum.Enum):
    """Of a slice."""

    ABSENT = "not there"
    WAITING = "being made, or waiting for capacity"
    READY = "ready"
    PREEMPTED = "preempted: its machines are gone"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Request:
    """A slice that somebody wants, by the name that all its parts get.

    Attributes:
        name: of the queued resource and its node, or of instance, template, policy and group.
        zone: such as `us-west4-a`.
        slice: its size.
        project: Google Cloud's; None: gcloud's default.
        spot: whether it may be preempted, for a lower price.
        reservation: its capacity comes out of this one (the Cloud TPU API takes the project's, whatever the name).
        service_account: that its machines run as; None: the project's default one.
        network: of its machines; None: the default one.
        subnetwork: of its machines; None: the default one.
        internal_ips: whether they have no address outside their network.
        boot_disk: size on Compute Engine; its default of 10 GB can't hold the environment.
    """

    name: str
    zone: str
    slice: slices.Slice
    project: str | None = None
    spot: bool = False
    reservation: str | None = None
    service_account: str | None = None
    network: str | None = None
    subnetwork: str | None = None
    internal_ips: bool = False
    boot_disk: str = "200GB"

    @property
    def region(self) -> str:
        """The zone's."""
        return self.zone.rpartition("-")[0]

    @property
    def project_flag(self) -> list[str]:
        """The flag of every call."""
        return [f"--project={self.project}"] if self.project else []

    def flags(self, **names: str) -> list[str]:
        """Returns `--FLAG=value` for each of its fields that is set; keywords give field and flag."""
        values = [(flag, getattr(self, field)) for field, flag in names.items()]
        return [f"--{flag}={value}" for flag, value in values if value]


def described(called: calls.Calls, *command: str) -> dict | None:
    """Returns what a `describe` or `list` command says, as JSON; None where the thing is not there.

    Raises:
        CallError: any other failure.
    """
    answer = called.ask(*command, "--format=json")
    if answer.code and ("NOT_FOUND" in answer.error or "was not found" in answer.error):
        return None
    if answer.code:
        raise calls.CallError(calls.explain(command, answer))
    return json.loads(answer.out or "null")
