"""Sizes of TPU slices against the tables of Google's pages, and what the launcher makes of error messages."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "scripts" / "launch"))
import calls
import slices

# Name: chips, hosts, JAX devices, topology, machine type on Compute Engine. Tables "Configurations" of docs.cloud.google.com/tpu/docs/VERSION.
TABLE = {
    "v2-8": (4, 1, 8, "2x2", None), "v3-32": (16, 4, 32, "4x4", None), "v4-8": (4, 1, 4, "2x2x1", None), "v4-32": (16, 4, 16, "2x2x4", None),
    "v5litepod-1": (1, 1, 1, "1x1", None), "v5litepod-8": (8, 1, 8, "2x4", None), "v5litepod-16": (16, 4, 16, "4x4", None),
    "v5litepod-256": (256, 64, 256, "16x16", None), "v5p-8": (4, 1, 4, "2x2x1", "ct5p-hightpu-4t"),
    "v5p-16": (8, 2, 8, "2x2x2", "ct5p-hightpu-4t"), "v5p-128": (64, 16, 64, "4x4x4", "ct5p-hightpu-4t"),
    "v6e-1": (1, 1, 1, "1x1", "ct6e-standard-1t"), "v6e-8": (8, 1, 8, "2x4", "ct6e-standard-8t"),
    "v6e-16": (16, 4, 16, "4x4", "ct6e-standard-4t"), "tpu7x-8": (4, 1, 8, "2x2x1", "tpu7x-standard-4t"),
    "tpu7x-128": (64, 16, 128, "4x4x4", "tpu7x-standard-4t"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_a_slice_has_the_published_size(name):
    found = slices.find(name)
    assert (
        found.num_chips,
        found.num_hosts,
        found.num_devices,
        found.topology,
        found.machine,
    ) == TABLE[name]


def test_a_slice_is_found_by_its_topology_and_by_the_names_that_people_use():
    assert (
        slices.find("v5e:4x4")
        == slices.find("v5litepod:4x4")
        == slices.find("v5e-16")
        == slices.find("v5litepod-16")
    )
    assert slices.find("v5p:2x2x4").name == "v5p-32"
    with pytest.raises(
        ValueError, match=r"no TPU slice v6e:4x5; v6e comes as v6e-1 \(1x1\), .*v6e-16 \(4x4\)"
    ):
        slices.find("v6e:4x5")
    with pytest.raises(
        ValueError, match=r"no TPU slice v5x-16; close: v5p-16.*generations: v2, v3, v4, v5litepod"
    ):
        slices.find("v5x-16")


MESSAGES = {
    "sbatch: command not found": "not installed here",
    "ERROR: (gcloud.x) You do not currently have an active account selected.": "gcloud auth login",
    "ERROR: (gcloud.x) RESOURCE_EXHAUSTED: There is no more capacity in the zone": "a queued resource (--api=tpu) waits",
    "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS": "the zone has none left",
    "Quota 'PREEMPTIBLE_TPU_V6E' exceeded. Limit: 0.0 in region us-east5": "TPU API and Compute Engine count apart",
    "PERMISSION_DENIED: Permission 'tpu.nodes.create' denied": "roles/tpu.admin",
    "HTTPError 403: a@b does not have storage.objects.create access to the Google Cloud Storage object.": "roles/storage.objectAdmin",
    "google.auth.exceptions.RefreshError: Invalid JWT: Token must be short-lived and in a reasonable timeframe. Check your iat and exp": "timedatectl",
    "<Code>RequestTimeTooSkewed</Code>": "timedatectl",
    "ssh: connect to host 1.2.3.4 port 22: Connection refused": "does not answer on port 22",
    "Accelerator type v5p-17 not found in zone": "`doctor` lists what it has",
    "gs://x not found: 404. The specified bucket does not exist": "gcloud storage buckets create",
}  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES)
def test_an_error_message_has_a_meaning(message):
    assert MESSAGES[message] in calls.meaning(message)


def test_an_unknown_error_is_quoted_in_one_line():
    answer = calls.Answer(
        1, "", "Traceback\n  File x\nERROR: (gcloud.compute.y) something new\n - more"
    )
    said = calls.explain(["/usr/bin/gcloud", "compute", "y", "--zone=a"], answer, "worker 1: ")
    assert said == "launch: worker 1: gcloud compute y: something new"
