"""Checks from the launching machine, before anything is created: account, zone, type, bucket, commit, request left over."""

import difflib
from collections.abc import Iterator
from typing import Any

import calls
from findings import Finding
from workers import Checkout, Repository

_MOST_LISTED = 40


def credentials(called: calls.Calls) -> Iterator[Finding]:
    """Yields that gcloud is missing or has no account."""
    command = ("gcloud", "auth", "list", "--filter=status:ACTIVE", "--format=value(account)")
    answer = called.ask(*command)
    if answer.code or not answer.out.strip():
        yield Finding(
            "credentials", "gcloud", answer.error.strip()[:200] if answer.code else "no active account",
            calls.meaning(answer.error) or "gcloud auth login; gcloud config set project PROJECT",
        )  # fmt: skip


def place(slice_: Any) -> Iterator[Finding]:
    """Yields a zone that does not exist or has no TPUs, or a type that it does not have; lists what there is."""
    wanted = slice_.wanted
    try:
        types = slice_.types()
    except calls.CallError as error:
        zones = slice_.zones()
        if zones and wanted.zone not in zones:
            yield _no_zone(slice_, zones)
        else:
            yield Finding("zone", wanted.zone, str(error), "see the reason")
        return
    if not types:
        yield _no_zone(slice_, slice_.zones())
    elif slice_.type not in types:
        close = difflib.get_close_matches(slice_.type, types, n=3, cutoff=0.5)
        yield Finding(
            "type", f"{wanted.zone} ({slice_.api})", f"it has no {slice_.type}; close: {', '.join(close) or 'none'}",
            f"--type is one of {', '.join(sorted(types)[:_MOST_LISTED])}; or another --zone",
        )  # fmt: skip


def _no_zone(slice_: Any, zones: list[str]) -> Finding:
    close = difflib.get_close_matches(slice_.wanted.zone, zones, n=3, cutoff=0.5)
    return Finding(
        "zone", slice_.wanted.zone, f"no zone with TPUs ({slice_.api}); close: {', '.join(close) or 'none'}",
        f"--zone is one of {', '.join(sorted(zones)[:_MOST_LISTED]) or 'gcloud compute tpus locations list'}",
    )  # fmt: skip


def bucket(called: calls.Calls, folder: str | None, region: str) -> Iterator[Finding]:
    """Yields a bucket that is not there or may not be read, and says when it is in another region than the slice."""
    if folder is None or not folder.startswith("gs://"):
        return
    name = "gs://" + folder.removeprefix("gs://").partition("/")[0]
    command = ("gcloud", "storage", "buckets", "describe", name, "--format=value(location)")
    answer = called.ask(*command)
    if answer.code:
        remedy = (
            f"gcloud storage buckets create {name} --location={region}"
            if "404" in answer.error or "not found" in answer.error
            else calls.meaning(answer.error) or "see the reason"
        )
        yield Finding("bucket", name, answer.error.strip()[:300], remedy)
    elif answer.out.strip().lower() not in (region, region.partition("-")[0], ""):
        print(
            f"doctor: {name} is in {answer.out.strip()}, the slice in {region}: checkpoints travel between them, slower and at a price"
        )


def commit(repository: Repository, checkout: Checkout, uses_head: bool) -> Iterator[Finding]:
    """Yields a commit that the machines could not clone, or changes that it does not hold."""
    short = checkout.commit[:12]
    changed = repository.changed() if uses_head else []
    if changed:
        yield Finding(
            "commit", repository.folder, f"{len(changed)} files differ from {short}, which is what the machines get: {', '.join(changed[:3])}",
            "commit and push them, or give --commit=HASH",
        )  # fmt: skip
    if checkout.repository.startswith(("git@", "ssh://")):
        yield Finding(
            "commit", checkout.repository, "the machines have no key for an address by SSH", "give --repository=https://..."
        )  # fmt: skip
        return
    pushed = repository.pushed(checkout.commit, checkout.repository)
    if pushed is None:
        yield Finding(
            "commit", checkout.repository, "git ls-remote: it does not answer", "give --repository=https://... that the machines can clone"
        )  # fmt: skip
    elif not pushed:
        yield Finding(
            "commit", checkout.repository, f"no branch there holds {short}", "git push origin HEAD"
        )


def leftover(slice_: Any) -> Iterator[Finding]:
    """Yields a request of this name that is of no use any more; says which others there are."""
    for name, state in slice_.leftovers().items():
        call = " ".join(slice_.removal(name))
        if name == slice_.wanted.name:
            yield Finding(
                "leftover", f"queued resource {name}", state, f"tpu_vm.py delete, or {call}"
            )
        else:
            print(f"doctor: queued resource {name} is {state} and of no use any more: {call}")
