"""A slice through the Cloud TPU API: one queued resource with one node, both of the same name.

Knows v2 to v6e and waits in a queue for capacity. This API gets fixes only and knows nothing newer: then `compute_engine`.
"""

import dataclasses

import calls
from request import Request, State, described

_TPUS = ("gcloud", "compute", "tpus")
_WAITING = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "STARTING", "REPAIRING", "RESTARTING", "REIMAGING")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CloudTpu:
    """One slice.

    Attributes:
        wanted: what it is.
        called: runs gcloud.
    """

    wanted: Request
    called: calls.Calls
    api = "Cloud TPU API"

    @property
    def _place(self) -> list[str]:
        return [f"--zone={self.wanted.zone}", *self.wanted.project_flag]

    def create(self) -> None:
        """Asks for it; returns at once."""
        wanted = self.wanted
        if not wanted.slice.chip.runtime:
            raise calls.CallError(
                f"launch: the Cloud TPU API does not know {wanted.slice.name}; give --api=compute_engine"
            )
        self.called.change(
            *_TPUS, "queued-resources", "create", wanted.name, f"--node-id={wanted.name}", *self._place,
            f"--accelerator-type={wanted.slice.name}", f"--runtime-version={wanted.slice.chip.runtime}",
            *(["--spot"] if wanted.spot else []), *(["--reserved"] if wanted.reservation else []),
            *wanted.flags(service_account="service-account", network="network", subnetwork="subnetwork"),
            *(["--internal-ips"] if wanted.internal_ips else []), "--async", "--quiet",
        )  # fmt: skip

    def state(self) -> tuple[State, str]:
        """Returns how it stands, and in the words of the API."""
        found = described(
            self.called, *_TPUS, "queued-resources", "describe", self.wanted.name, *self._place
        )
        if found is None:
            return State.ABSENT, "no queued resource"
        request = found.get("state", {})
        said = request.get("state", "UNKNOWN")
        why = request.get("failedData", {}).get("error", {}).get("message", "")
        if said in ("SUSPENDING", "SUSPENDED"):
            return State.PREEMPTED, f"queued resource {said}"
        if said in _WAITING:
            return State.WAITING, f"queued resource {said}"
        if said != "ACTIVE":
            known = calls.meaning(why)
            return State.FAILED, f"queued resource {said}: {why or 'no reason given'}" + (
                f" ({known})" if known else ""
            )
        node = described(self.called, *_TPUS, "tpu-vm", "describe", self.wanted.name, *self._place)
        said = node.get("state", "UNKNOWN") if node else "NOT_FOUND"
        if said == "READY":
            return State.READY, "TPU VM READY"
        if said in _WAITING:
            return State.WAITING, f"TPU VM {said}"
        return State.PREEMPTED, f"TPU VM {said}"

    def workers(self) -> list[str]:
        """Returns the names of its machines in order."""
        return [str(number) for number in range(self.wanted.slice.num_hosts)]

    def ssh(self, worker: str, command: str) -> list[str]:
        """Returns the call that runs a shell command on a worker."""
        inside = ["--internal-ip"] if self.wanted.internal_ips else []
        return [
            *_TPUS, "tpu-vm", "ssh", self.wanted.name, *self._place, f"--worker={worker}", *inside, "--quiet",
            f"--command={command}",
        ]  # fmt: skip

    def recreate(self) -> None:
        """Asks anew after a preemption: the old request, whose machines are gone, holds the name and goes first."""
        self.delete()
        self.create()

    def delete(self) -> None:
        """Deletes node and request."""
        self.called.change(
            *_TPUS, "queued-resources", "delete", self.wanted.name, *self._place, "--force", "--quiet"
        )  # fmt: skip

    @property
    def type(self) -> str:
        """What `types` lists of this slice."""
        return self.wanted.slice.name

    def types(self) -> list[str]:
        """Returns the slices that the zone has."""
        answer = self.called.ask(
            *_TPUS, "accelerator-types", "list", *self._place, "--format=value(type)"
        )
        if answer.code:
            raise calls.CallError(calls.explain([*_TPUS, "accelerator-types", "list"], answer))
        return answer.out.split()

    def zones(self) -> list[str]:
        """Returns the zones that have TPUs."""
        answer = self.called.ask(
            *_TPUS, "locations", "list", *self.wanted.project_flag, "--format=value(locationId)"
        )
        return answer.out.split()

    def leftovers(self) -> dict[str, str]:
        """Returns the queued resources of the zone that are no longer of use: name and state."""
        found = described(self.called, *_TPUS, "queued-resources", "list", *self._place) or []
        states = {
            each["name"].rpartition("/")[2]: each.get("state", {}).get("state", "")
            for each in found
        }
        return {
            name: state
            for name, state in states.items()
            if state in ("FAILED", "SUSPENDED", "SUSPENDING")
        }

    def removal(self, name: str) -> list[str]:
        """Returns the call that deletes a queued resource."""
        return [*_TPUS, "queued-resources", "delete", name, *self._place, "--force"]
