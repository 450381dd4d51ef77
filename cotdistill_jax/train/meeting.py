"""How the processes of a run find each other, and see that they are asked for the same, before JAX connects them.

JAX's own connecting ends all processes with a stack trace when one does not come. So they meet first, at the same address: process 0
listens there, every other one says in a line of JSON who it is and with which settings it runs, and hears in another what is wrong, if
anything is. Then process 0 leaves the port to JAX.
"""

import contextlib
import ipaddress
import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax._src import clusters  # what `jax.distributed.initialize()` finds out has no public name

from cotdistill_jax.train import config_changes

_RETRY_SECONDS = 0.2
_LINE_SECONDS = 5.0  # for a line from who has connected


def connect(
    address: str | None,
    count: int | None,
    index: int | None,
    settings: Mapping[str, str],
    timeout_seconds: int = 300,
) -> None:
    """Connects this process with the others of a run.

    Args:
      address: host and port of process 0. It, `count` and `index` may be None where JAX finds them out (Cloud TPU, Slurm, Open MPI).
      count: number of processes.
      index: this process, from 0.
      settings: name -> value of what must be the same in all processes.
      timeout_seconds: how long to wait for the others.

    Raises:
      ValueError: the processes don't know of each other, or differ; the message says which and where, the same in all.
      TimeoutError: some did not come; the message says which came.
    """
    address, count, index, devices = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        address, count, index, None, None, timeout_seconds
    )
    if os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        devices = (
            None  # JAX reads them itself; under Slurm it would otherwise take one device a process
        )
    if address is None or count is None or index is None:
        raise ValueError(
            f"multihost: coordinator_address is {address}, process_count {count}, process_index {index}, and nothing here says the rest "
            "(no Cloud TPU, Slurm, Open MPI or Kubernetes was found); give all three"
        )
    if not 0 <= index < count:
        raise ValueError(
            f"multihost: process_index {index} is not one of 0 to {count - 1} (process_count - 1)"
        )
    if count > 1:
        _refuse_loopback(address)
        meet(address, count, index, settings, timeout_seconds)
    jax.distributed.initialize(
        address, count, index, devices, initialization_timeout=timeout_seconds
    )


def meet(
    address: str, count: int, index: int, settings: Mapping[str, str], timeout_seconds: float
) -> None:
    """Waits until all processes have come to `address`, and compares them; arguments and errors as those of `connect`."""
    deadline = time.monotonic() + timeout_seconds
    me = {
        "process": index,
        "count": count,
        "host": socket.gethostname(),
        "settings": dict(settings),
    }
    error = _receive(address, me, deadline) if index == 0 else _report(address, me, deadline)
    if error is None:
        return
    if error.startswith(_NOT_COME):
        raise TimeoutError(f"multihost: {error}")
    raise ValueError(f"multihost: {error}")


_NOT_COME = "not all processes came"


def _receive(address: str, me: Mapping[str, Any], deadline: float) -> str | None:
    """Returns what is wrong, after telling it to all who came; called by process 0."""
    count, port = me["count"], int(address.rpartition(":")[2])
    came = {0: me}
    lines: dict[int, socket.socket] = {}
    error = None
    with _listener(port) as listener:
        while len(came) < count and error is None:
            listener.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                line, _ = listener.accept()
            except TimeoutError:
                error = _missing(address, came, count)
                break
            other = _read(line)
            if other is None or not isinstance(other.get("process"), int):
                line.close()  # not one of ours
                continue
            number = other["process"]
            if number in lines and _is_closed(lines[number]):  # it was started again
                lines.pop(number).close()
                del came[number]
            error = _compare(came, other)
            lines[number if error is None else -1] = line
            came[number] = other
        for line in lines.values():
            with contextlib.suppress(OSError), line:
                line.settimeout(_LINE_SECONDS)
                line.sendall(json.dumps({"error": error}).encode() + b"\n")
                line.recv(1)  # the other side closes first, so that the port is free at once
    return error


def _report(address: str, me: Mapping[str, Any], deadline: float) -> str | None:
    """Returns what process 0 says is wrong."""
    host, _, port = address.rpartition(":")
    reason: object = "no answer"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), _LINE_SECONDS) as line:
                line.sendall(json.dumps(me).encode() + b"\n")
                # Process 0 answers when all have come, or it waits no longer.
                answer = _read(line, deadline - time.monotonic() + _LINE_SECONDS)
        except OSError as error:
            reason, answer = error, None
        if answer is not None and "error" in answer:
            found: str | None = answer["error"]
            return found
        time.sleep(_RETRY_SECONDS)
    return (
        f"{_NOT_COME}: process {me['process']} on {me['host']} did not find process 0 at {address} ({reason}); start it there, and see "
        f"that this host may reach that port{_loopback_hint(address)}"
    )


def _compare(came: Mapping[int, Mapping[str, Any]], other: Mapping[str, Any]) -> str | None:
    first, index = came[0], other["process"]
    where = f"process {index} on {other['host']}"
    if other["count"] != first["count"]:
        return f"{where} counts {other['count']} processes, process 0 on {first['host']} {first['count']}; give all the same process_count"
    if index in came:
        return f"two processes say they are process {index}, on {came[index]['host']} and on {other['host']}; give each its own process_index"
    changes = config_changes.between(first["settings"], other["settings"])
    if changes:
        return (
            f"{where} differs from process 0 on {first['host']}: {'; '.join(map(str, changes))}; start all processes with the same command "
            "from the same commit"
        )
    return None


def _missing(address: str, came: Mapping[int, Mapping[str, Any]], count: int) -> str:
    there = ", ".join(f"{index} on {other['host']}" for index, other in sorted(came.items()))
    missing = [index for index in range(count) if index not in came]
    shown = ", ".join(map(str, missing[:10])) + (
        f" and {len(missing) - 10} more" if missing[10:] else ""
    )
    return (
        f"{_NOT_COME} to {address}: {shown} of {count} are missing, these came: {there}; look at the logs of the missing ones"
        f"{_loopback_hint(address)}"
    )


def _listener(port: int) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        raise OSError(
            error.errno,
            f"multihost: process 0 can't listen at port {port} ({error.strerror}); end what uses it, or choose another one in "
            "coordinator_address",
            str(port),
        ) from error


def _read(line: socket.socket, seconds: float = _LINE_SECONDS) -> dict[str, Any] | None:
    """Returns the object that the other side sends; None where it sends something else, or nothing."""
    line.settimeout(max(seconds, 0.001))
    try:
        with line.makefile("rb") as file:
            found = json.loads(file.readline(1 << 24))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _is_closed(line: socket.socket) -> bool:
    line.setblocking(False)
    try:
        return not line.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.startswith("localhost.")


def _loopback_hint(address: str) -> str:
    if not _is_loopback(address):
        return ""
    return f". Other hosts can't reach {address}: for processes on several, give an address of process 0's host that they know"


def _refuse_loopback(address: str) -> None:
    """Refuses a loopback address where the environment says that there are several hosts."""
    hosts = [name for name in os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if name]
    num_hosts = max(len(hosts), int(os.environ.get("SLURM_JOB_NUM_NODES", "1")))
    if num_hosts > 1 and _is_loopback(address):
        raise ValueError(f"multihost: the run is on {num_hosts} hosts{_loopback_hint(address)}")
