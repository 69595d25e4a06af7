"""Files that several processes share."""

import threading

import pytest
from filelock import FileLock, Timeout

from fewshot_cli.data.prepare import open_dataset
from fewshot_cli.runtime import files
from fewshot_cli.runtime.files import exclusive


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A cache folder of the test's own."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    return tmp_path / "cache"


def test_only_one_at_a_time_is_in_the_block_of_a_path(cache, tmp_path):
    entered, released = threading.Event(), threading.Event()

    def first():
        with exclusive(tmp_path / "store"):
            entered.set()
            released.wait()

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()
    (lock,) = (cache / "locks").iterdir()
    with pytest.raises(Timeout):
        FileLock(lock).acquire(timeout=0)
    with exclusive(tmp_path / "another"):  # another path does not wait
        pass
    released.set()
    thread.join()
    with exclusive(tmp_path / "store"):
        pass
    assert list(tmp_path.glob("store*")) == []


def test_the_block_runs_where_no_lock_can_be_made(cache, tmp_path):
    cache.write_text("a file, not a folder")
    with exclusive(tmp_path / "store"):
        done = True
    assert done


def test_what_the_block_raises_passes_and_frees_the_lock(tmp_path):
    with pytest.raises(ValueError, match="inside"), exclusive(tmp_path / "store"):
        raise ValueError("inside")
    with exclusive(tmp_path / "store"):
        pass


def test_an_embedded_dataset_is_generated_once_by_whoever_comes_first(monkeypatch, capsys, tmp_path):
    """The second process waits for the first and then finds the dataset in place."""
    real, waited = files.exclusive, []

    def behind(path):  # another process generates it while this one waits for the lock
        if not waited:
            waited.append(path)
            open_dataset("glyphs", "glyphs", tmp_path)
        return real(path)

    monkeypatch.setattr("fewshot_cli.data.prepare.exclusive", behind)
    store = open_dataset("glyphs", "glyphs", tmp_path)
    assert store.name == "glyphs" and waited == [tmp_path / "glyphs"]
    assert capsys.readouterr().err.count("generating the embedded dataset") == 1
