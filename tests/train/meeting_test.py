"""Processes that find each other over real sockets: threads here, two processes in `multihost_test.py`."""

import concurrent.futures
import json
import socket
import threading
import time

import pytest

from cotdistill_jax.train import meeting


@pytest.fixture
def address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def _meet(address, *processes, seconds=20.0):
    """Returns what each process got: None, or its error; processes are (index, settings) or (index, settings, count)."""

    def one(index, settings, count=None):
        count = count or len(processes)
        try:
            meeting.meet(address, count, index, settings, seconds)
        except (ValueError, OSError) as error:
            return error
        return None

    with concurrent.futures.ThreadPoolExecutor(len(processes)) as threads:
        running = [threads.submit(one, *process) for process in processes]
        return [future.result() for future in running]


def test_three_processes_meet_and_leave_the_port(address):
    same = {"LEARNING_RATE": "0.1"}
    begun = time.monotonic()
    assert _meet(address, (2, same), (0, same), (1, same)) == [None] * 3
    assert _meet(address, (0, same), (1, same)) == [None] * 2
    assert time.monotonic() - begun < 5
    with socket.create_server(("", int(address.rpartition(":")[2]))):
        pass


def test_they_meet_at_an_address_of_either_kind(address):
    port = address.rpartition(":")[2]
    for host in ("127.0.0.1", *(["[::1]"] if socket.has_dualstack_ipv6() else [])):
        assert _meet(f"{host}:{port}", (0, {}), (1, {})) == [None] * 2


def test_a_setting_that_differs_is_named_in_all_processes(address):
    first = {"LEARNING_RATE": "0.1", "SEED": "1", "code commit": "abc"}
    second = {"LEARNING_RATE": "0.2", "code commit": "abd", "SEED": "1"}
    errors = _meet(address, (0, first), (1, second))
    for error in errors:
        assert isinstance(error, ValueError)
        said = r"process 1 on \S+ differs from process 0 on \S+: LEARNING_RATE: 0.1 -> 0.2; code commit: abc -> abd; start all"
        with pytest.raises(ValueError, match=said):
            raise error


def test_who_never_came_is_said_to_those_who_did(address):
    errors = _meet(address, (0, {}, 4), (2, {}, 4), seconds=1.0)
    for error in errors:
        assert isinstance(error, TimeoutError)
        assert "1, 3 of 4 are missing, these came: 0 on " in str(error) and ", 2 on " in str(error)
        assert "an address of process 0's host" in str(error)


def test_without_process_0_the_others_say_where_it_is_looked_for(address):
    (error,) = _meet(address, (1, {}, 2), seconds=0.5)
    assert isinstance(error, TimeoutError)
    assert f"did not find process 0 at {address}" in str(error) and "refused" in str(error)


@pytest.mark.parametrize(
    ("second", "message"),
    [((1, {}, 3), "counts 3 processes, process 0"), ((0, {}, 2), "can't listen at port")],
)
def test_processes_that_count_otherwise_or_twice_are_refused(address, second, message):
    errors = _meet(address, (0, {}, 2), second, seconds=1.0)
    assert any(message in str(error) for error in errors)


def test_two_processes_of_one_index_are_refused_but_one_started_again_is_not(address):
    errors = _meet(address, (0, {}, 3), (1, {}, 3), (1, {}, 3))
    assert all("two processes say they are process 1" in str(error) for error in errors)

    def killed_process():
        host, _, port = address.rpartition(":")
        while True:
            try:
                with socket.create_connection((host, int(port))) as line:
                    line.sendall(
                        json.dumps({"process": 1, "count": 3, "host": "h", "settings": {}}).encode()
                        + b"\n"
                    )
                    return
            except OSError:
                time.sleep(0.01)

    threading.Thread(target=killed_process).start()
    threads = threading.Thread(
        target=lambda: (time.sleep(0.5), _meet(address, (1, {}, 3), (2, {}, 3)))
    )
    threads.start()
    assert _meet(address, (0, {}, 3)) == [None]
    threads.join()


def test_a_stranger_at_the_port_is_passed_over(address):
    def stranger():
        host, _, port = address.rpartition(":")
        time.sleep(0.3)
        with socket.create_connection((host, int(port))) as line:
            line.sendall(b"GET / HTTP/1.1\r\n\r\n")

    thread = threading.Thread(target=stranger)
    thread.start()
    late = threading.Thread(target=lambda: (time.sleep(0.6), _meet(address, (1, {}, 2))))
    late.start()
    assert _meet(address, (0, {}, 2)) == [None]
    thread.join()
    late.join()


@pytest.mark.parametrize(
    "environment", [{"SLURM_JOB_NUM_NODES": "2"}, {"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}]
)
def test_a_loopback_address_is_refused_where_several_hosts_are_known(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for address in ("localhost:1234", "127.0.0.1:1234", "[::1]:1234"):
        with pytest.raises(ValueError, match=r"the run is on 2 hosts\. Other hosts can't reach"):
            meeting.connect(address, 2, 0, {})


def test_what_is_not_given_and_not_found_is_said():
    with pytest.raises(
        ValueError, match="process_count None, process_index 0, and nothing here says the rest"
    ):
        meeting.connect("somewhere:1234", None, 0, {})
    with pytest.raises(ValueError, match="process_index 2 is not one of 0 to 1"):
        meeting.connect("somewhere:1234", 2, 2, {})


@pytest.mark.parametrize(("ids", "expected"), [(None, [3]), ("0,1,2,3,4,5,6,7", None)])
def test_under_slurm_a_process_takes_one_device_unless_the_environment_names_them(
    monkeypatch, ids, expected
):
    job = {
        "JOB_ID": "1",
        "STEP_NODELIST": "node1",
        "NTASKS": "1",
        "PROCID": "0",
        "LOCALID": "3",
        "STEP_NUM_NODES": "1",
    }
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    if ids:
        monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", ids)
    connected = []
    monkeypatch.setattr(
        meeting.jax.distributed, "initialize", lambda *given, **_: connected.append(given)
    )
    meeting.connect(None, None, None, {})
    ((address, count, index, devices),) = connected
    assert (address.partition(":")[0], count, index) == ("node1", 1, 0)
    assert devices == expected
