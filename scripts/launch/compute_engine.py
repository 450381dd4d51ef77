"""A slice through Compute Engine: v5p, v6e, TPU7x and what comes after. Capacity is there or not, nothing waits in a queue but a group.

A slice of one host is an instance. One of several is a managed instance group in bulk mode (all machines or none) whose workload policy
holds the topology; instances that are made one by one are not connected. Flags as in
docs.cloud.google.com/compute/docs/tpus/create-tpu-mig-multi-host-slice; `--target-size-policy-mode` is in `gcloud alpha` of SDK 528
(June 2025) and in `gcloud` of newer ones, so `alpha` knows it always.
"""

import dataclasses

import calls
from request import Request, State, described

_COMPUTE = ("gcloud", "compute")
_GROUPS = (*_COMPUTE, "instance-groups", "managed")
_IMAGES = "ubuntu-os-accelerator-images"


@dataclasses.dataclass(frozen=True)
class ComputeEngine:
    """One slice.

    Attributes:
        wanted: what it is.
        called: runs gcloud.
    """

    wanted: Request
    called: calls.Calls
    api = "Compute Engine"

    @property
    def _single(self) -> bool:
        return self.wanted.slice.num_hosts == 1

    @property
    def _place(self) -> list[str]:
        return [f"--zone={self.wanted.zone}", *self.wanted.project_flag]

    @property
    def _region(self) -> list[str]:
        return [f"--region={self.wanted.region}", *self.wanted.project_flag]

    def _machine(self) -> list[str]:
        """Returns the flags of an instance or a template."""
        wanted = self.wanted
        if not wanted.slice.machine:
            raise calls.CallError(
                f"launch: Compute Engine has no {wanted.slice.name}; give --api=tpu (v5p, v6e and tpu7x are on Compute Engine)"
            )
        spot = ["--provisioning-model=SPOT", "--instance-termination-action=DELETE"]
        reserved = [
            "--provisioning-model=RESERVATION_BOUND",
            "--instance-termination-action=DELETE",
            "--reservation-affinity=specific",
            f"--reservation={wanted.reservation}",
        ]
        return [
            f"--machine-type={wanted.slice.machine}", f"--image-family={wanted.slice.chip.image}",
            f"--image-project={_IMAGES}", f"--boot-disk-size={wanted.boot_disk}", "--maintenance-policy=TERMINATE",
            "--scopes=cloud-platform", *(spot if wanted.spot else reserved if wanted.reservation else []),
            *wanted.flags(service_account="service-account", network="network", subnetwork="subnet"),
            *(["--no-address"] if wanted.internal_ips else []),
        ]  # fmt: skip

    def create(self) -> None:
        """Makes what is not there yet of policy, template and group, or the instance."""
        wanted, name = self.wanted, self.wanted.name
        if self._single:
            self.called.change(
                *_COMPUTE, "instances", "create", name, *self._place, *self._machine(), "--quiet"
            )
            return
        resources = f"regions/{wanted.region}/resourcePolicies/{name}"
        if wanted.project:
            resources = f"projects/{wanted.project}/{resources}"
        parts = (
            (("resource-policies", "describe", name, *self._region),
             ("resource-policies", "create", "workload-policy", name, "--type=HIGH_THROUGHPUT",
              f"--accelerator-topology={wanted.slice.topology}", *self._region)),
            (("instance-templates", "describe", name, *wanted.project_flag),
             ("instance-templates", "create", name, *self._machine(), *wanted.project_flag)),
        )  # fmt: skip
        for question, making in parts:
            if (
                self.called.dry_run
                or described(self.called, *_COMPUTE, *question, "--quiet") is None
            ):
                self.called.change(*_COMPUTE, *making, "--quiet")
            else:
                print(f"launch: {question[0]} {name} is there and is used")
        self.called.change(
            "gcloud", "alpha", *_GROUPS[1:], "create", name, *self._place, f"--size={wanted.slice.num_hosts}",
            f"--template={name}", f"--workload-policy={resources}", "--target-size-policy-mode=bulk",
            "--default-action-on-vm-failure=do-nothing", "--quiet",
        )  # fmt: skip

    def state(self) -> tuple[State, str]:
        """Returns how it stands, and in the words of the API."""
        name, hosts = self.wanted.name, self.wanted.slice.num_hosts
        if self._single:
            found = described(self.called, *_COMPUTE, "instances", "describe", name, *self._place)
            if found is None:
                return State.ABSENT, "no instance"
            said = [found.get("status", "UNKNOWN")]
        else:
            if described(self.called, *_GROUPS, "describe", name, *self._place) is None:
                return State.ABSENT, "no instance group"
            found = described(self.called, *_GROUPS, "list-instances", name, *self._place) or []
            said = [_status(each) for each in found if each.get("currentAction") != "DELETING"]
            errors = [
                error.get("message", error.get("code", ""))
                for each in found
                for error in each.get("lastAttempt", {}).get("errors", {}).get("errors", [])
            ]
            if errors and "RUNNING" not in said:
                known = calls.meaning(errors[0])
                return State.WAITING, f"the group could not make it yet: {errors[0]}" + (
                    f" ({known})" if known else ""
                )
        words = f"{len(said)} of {hosts} machines: {', '.join(sorted(set(said))) or 'none'}"
        if len(said) == hosts and set(said) == {"RUNNING"}:
            return State.READY, words
        if any(
            status in ("STOPPING", "STOPPED", "TERMINATED", "SUSPENDED", "GONE") for status in said
        ):
            return State.PREEMPTED, words
        return State.WAITING, words

    def workers(self) -> list[str]:
        """Returns the names of its machines."""
        if self._single or self.called.dry_run:
            hosts = self.wanted.slice.num_hosts
            return (
                [self.wanted.name]
                if self._single
                else [f"{self.wanted.name}-{i}" for i in range(hosts)]
            )
        found = described(self.called, *_GROUPS, "list-instances", self.wanted.name, *self._place)
        return sorted(each["instance"].rpartition("/")[2] for each in found or [])

    def ssh(self, worker: str, command: str) -> list[str]:
        """Returns the call that runs a shell command on a worker."""
        inside = ["--internal-ip"] if self.wanted.internal_ips else []
        return [
            *_COMPUTE, "ssh", worker, *self._place, *inside, "--quiet", f"--command={command}",
        ]  # fmt: skip

    def recreate(self) -> None:
        """Asks anew after a preemption; a slice that lost a machine is of no use, so its group is emptied first.

        A single instance that was preempted is gone already; one that is still there was stopped, and is started.
        """
        if self._single:
            self.called.change(
                *_COMPUTE, "instances", "start", self.wanted.name, *self._place, "--quiet"
            )
            return
        for size in (0, self.wanted.slice.num_hosts):
            self.called.change(
                *_GROUPS, "resize", self.wanted.name, *self._place, f"--size={size}", "--quiet"
            )

    def delete(self) -> None:
        """Deletes all that `create` makes."""
        name = self.wanted.name
        if self._single:
            self.called.change(*_COMPUTE, "instances", "delete", name, *self._place, "--quiet")
            return
        for kind, place in (
            (_GROUPS, self._place),
            ((*_COMPUTE, "instance-templates"), self.wanted.project_flag),
            ((*_COMPUTE, "resource-policies"), self._region),
        ):
            if self.called.dry_run or described(self.called, *kind, "describe", name, *place):
                self.called.change(*kind, "delete", name, *place, "--quiet")

    @property
    def type(self) -> str:
        """What `types` lists of this slice: its machine type."""
        return self.wanted.slice.machine or self.wanted.slice.name

    def types(self) -> list[str]:
        """Returns the machine types with TPUs that the zone has."""
        answer = self.called.ask(
            *_COMPUTE, "machine-types", "list", f"--zones={self.wanted.zone}", *self.wanted.project_flag,
            "--filter=name~^(ct5p|ct6e|tpu)", "--format=value(name)",
        )  # fmt: skip
        if answer.code:
            raise calls.CallError(calls.explain([*_COMPUTE, "machine-types", "list"], answer))
        return answer.out.split()

    def zones(self) -> list[str]:
        """Returns all zones."""
        answer = self.called.ask(
            *_COMPUTE, "zones", "list", *self.wanted.project_flag, "--format=value(name)"
        )
        return answer.out.split()

    def leftovers(self) -> dict[str, str]:
        """Returns nothing: what is left over here is the slice itself."""
        return {}


def _status(managed: dict) -> str:
    """Returns the status of a machine of a group; GONE where there is none and the group makes none."""
    action = managed.get("currentAction", "NONE")
    return managed.get("instanceStatus") or ("GONE" if action == "NONE" else action)
