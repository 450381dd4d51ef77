import os

import pytest

from cotdistill_jax import files
from cotdistill_jax.files import buckets
from tests.gcs_server import Fault


def test_a_bucket_is_read_and_written_like_a_folder(bucket):
    folder = files.as_path(f"{bucket.url}/runs/a")
    assert not folder.exists() and not folder.is_dir()
    (folder / "one.txt").write_text("Äß")
    (folder / "deep/two.json").write_bytes(b"{}")
    assert folder.is_dir() and not folder.is_file() and (folder / "one.txt").is_file()
    assert [path.name for path in folder.iterdir()] == ["deep", "one.txt"]
    assert [str(path) for path in folder.glob("*/*.json")] == [f"{folder}/deep/two.json"]
    assert list(folder.rglob("*.json")) == [folder / "deep" / "two.json"]
    assert (folder / "one.txt").read_text() == "Äß"
    with (folder / "one.txt").open("rb") as stream:
        assert stream.read(2) == "Ä".encode()
    assert files.read_head(folder / "one.txt", 2) == "Ä".encode()
    assert files.read_head(folder / "one.txt", 100) == "Äß".encode()
    (folder / "one.txt").unlink()
    assert not (folder / "one.txt").exists()
    with pytest.raises(FileNotFoundError, match=r"one\.txt"):
        (folder / "one.txt").read_bytes()


def test_a_file_appears_whole_when_closed_and_not_after_an_error(bucket):
    path = files.as_path(f"{bucket.url}/x.txt")
    with path.open("w") as stream:
        stream.write("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    for mode, content in (("w", "half"), ("wb", b"half")):
        with pytest.raises(RuntimeError), path.open(mode) as stream:
            stream.write(content)
            raise RuntimeError
        assert path.read_text() == "whole"


def test_names_of_paths(bucket):
    path = files.as_path("gs://b//a/./c.tar.gz/")
    assert (str(path), path.name, path.stem, path.suffix) == (
        "gs://b/a/c.tar.gz",
        "c.tar.gz",
        "c.tar",
        ".gz",
    )
    assert str(path.parent) == "gs://b/a" and str(path.with_name("d")) == "gs://b/a/d"
    assert files.name_below(path, files.as_path("gs://b")) == "a/c.tar.gz"
    assert str(files.as_path("gs://b").parent) == "gs://b"
    assert files.as_path("gs://b/a") / "b" == files.as_path("gs://b/a/b")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("az://b/x", "expected a local path or one of gs://, s3://"),
        ("https://b/x", "expected a local path or one of gs://, s3://"),
        ("gs:///x", "names no bucket"),
        ("gs:/b/x", "two slashes"),
        ("gs://b/../x", r"'\.\.'"),
    ],
)
def test_what_is_no_path_is_refused_by_name(path, says):
    with pytest.raises(files.SchemeError, match=says):
        files.as_path(path)


def test_a_bucket_is_no_local_path(bucket):
    with pytest.raises(files.SchemeError, match=r"teacher: the lists can't be in a bucket"):
        files.local_path("gs://b/x", "teacher", "the lists")
    with pytest.raises(TypeError):
        os.makedirs(files.as_path("gs://b/x"))  # no folder named gs: is ever made


@pytest.mark.parametrize(
    ("status", "message", "says"),
    [
        (
            401,
            "Anonymous caller does not have storage.objects.create access",
            "no credentials.*gcloud auth",
        ),
        (
            403,
            "me@x does not have storage.objects.create access",
            r"no permission; grant .*roles/storage\.objectUser",
        ),
        (
            400,
            "invalid_grant: Invalid JWT: check your iat and exp values",
            "the clock of this machine is off",
        ),
    ],
)
def test_refusals_say_what_to_do(bucket, status, message, says):
    path = files.as_path(f"{bucket.url}/x")
    assert isinstance(path, files.BucketPath)
    for ask in (path.check_writable, path.read_bytes, lambda: list(path.iterdir()), path.exists):
        bucket.server.faults = [Fault(status=status, message=message, times=100)]
        with pytest.raises(files.BucketError, match=f"{path}: {says}"):
            ask()
    bucket.server.faults = []


def test_a_bucket_that_is_not_there(bucket):
    path = files.as_path("gs://not-made/x")
    assert isinstance(path, files.BucketPath)
    with pytest.raises(files.BucketError, match="there is no such bucket; make it"):
        path.check_writable()


@pytest.mark.parametrize(
    "fault", [{"status": 503}, {"status": 429}, {"cut": True}, {"delay_s": 0.5}]
)
def test_passing_faults_are_waited_out(bucket, fault):
    path = files.as_path(f"{bucket.url}/x")
    for ask in (
        lambda: path.write_bytes(b"content"),
        path.read_bytes,
        path.exists,
        lambda: list(path.parent.iterdir()),
    ):
        bucket.server.faults = [Fault(path=bucket.name, times=2, **fault)]
        assert ask()
    assert path.read_bytes() == b"content"


def test_a_write_under_a_precondition_is_done_by_one(bucket):
    path = files.as_path(f"{bucket.url}/claim")
    assert isinstance(path, files.BucketPath)
    absent, content = path.generation()
    assert content is None
    first = path.write_if(absent, b"1")
    assert first and path.write_if(absent, b"2") is None
    assert path.generation() == (first, b"1")
    assert path.write_if(first, b"3") and path.read_bytes() == b"3"


def test_names_before_patterns(bucket):
    folder = files.as_path(f"{bucket.url}/sweep[1]")
    for name in ("checkpoint_1/x", "checkpoint_2/x", "other/x"):
        (folder / name).write_text("")
    assert sorted(files.matches(f"{folder}/checkpoint_*")) == [
        f"{folder}/checkpoint_1",
        f"{folder}/checkpoint_2",
    ]
    assert files.is_name(str(folder)) and not files.is_name(f"{folder}/checkpoint_*")


def test_explained_in_one_line():
    said = buckets.explain("CURL error\nCould not resolve host", "gs://b")
    assert (
        said
        == "files: gs://b: no connection, also after several tries; look at the network, then run the same command again. The answer: CURL error Could not resolve host"
    )


def test_errors_of_libraries_about_buckets_are_told_apart():
    tensorflow = RuntimeError(
        "Error executing an HTTP request: HTTP response code 403 with body '{}'\n\t when uploading gs://b/run/x"
    )
    assert buckets.explain_foreign(tensorflow).startswith(
        "files: gs://b/run/x: no permission; grant"
    )
    client = RuntimeError(
        "404 GET https://storage.googleapis.com/storage/v1/b/b?fields=name: The specified bucket does not exist."
    )
    assert "there is no such bucket" in buckets.explain_foreign(client)
    assert buckets.explain_foreign(RuntimeError("no permission to read /etc/shadow")) is None
    assert buckets.explain_foreign(RuntimeError("shape (3,) of gs://b/x is wrong")) is None
