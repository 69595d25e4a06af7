"""Commands in processes of their own, without importing PyTorch anew for each.

A server that has imported what commands need is started once a session; every command is a fork of it, so it can be
killed, and begins with nothing of the test's process. What must start from the interpreter itself (a closed standard
stream, launchers that start the same command again) is a matter for `subprocess`.
"""

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn


class Children:
    """The server, and commands run as its forks."""

    def __init__(self) -> None:
        import fewshot_cli

        self._folder = tempfile.TemporaryDirectory()  # a socket's path must be short
        self._address = str(Path(self._folder.name) / "socket")
        root = str(Path(fewshot_cli.__file__).parents[1])
        ready, said = os.pipe()
        self._server = subprocess.Popen(
            [sys.executable, __file__, root, self._address, str(said)], stdin=subprocess.PIPE, pass_fds=[said]
        )
        os.close(said)
        with os.fdopen(ready) as file:  # ends when the server closes its side, or dies
            assert file.read() == "ready", "the server of child processes did not start"

    def close(self) -> None:
        """End the server."""
        self._server.stdin.close()
        self._server.wait()
        self._folder.cleanup()

    def start(
        self,
        *words: object,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        file_size: int | None = None,
        entry: str = "fewshot_cli.cli.app:main",
        **streams: str,
    ) -> "Child":
        """Start `fsl WORDS` in a folder, or another `entry` (module:function) with these arguments.

        `environment` is added to the caller's; no file may grow beyond `file_size` bytes; `stdout` and `stderr` name
        files or devices, `closed pipe` a pipe that nobody reads.
        """
        out = Path(tempfile.mkdtemp(dir=self._folder.name))
        request = {
            "entry": entry,
            "words": [str(word) for word in words],
            "cwd": str(cwd),
            "environment": {**os.environ, **(environment or {})},
            "file_size": file_size,
            **{name: streams.get(name, str(out / name)) for name in ("stdout", "stderr")},
        }
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._address)
        connection.sendall(json.dumps(request).encode() + b"\n")
        return Child(connection, request["words"], out)

    def run(self, *words: object, check: bool = False, **more: object) -> subprocess.CompletedProcess:
        """Run `fsl WORDS` to its end; with `check` it must end well."""
        done = self.start(*words, **more).wait()
        assert not check or done.returncode == 0, done.stderr
        return done

    def together(self, size: int, *words: object, **more: object) -> list[subprocess.CompletedProcess]:
        """Run `fsl WORDS` in several processes that share the work, as torchrun starts them."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        common = {
            "TORCHELASTIC_RUN_ID": "tests",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
            "GROUP_RANK": "0",
        }
        ranks = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
        return [child.wait() for child in [self.start(*words, environment=own, **more) for own in ranks]]


class Child:
    """A command that is running."""

    def __init__(self, connection: socket.socket, words: list[str], out: Path) -> None:
        self._connection, self._words, self._out = connection, words, out
        self._answers = connection.makefile()
        self.pid = int(self._answers.readline())

    def wait(self) -> subprocess.CompletedProcess:
        """What `subprocess.run` would give: the code (−9 for a killed one) and what it wrote to streams not named."""
        with self._connection, self._answers:
            code = int(self._answers.readline())
        texts = [p.read_text("utf-8") if (p := self._out / n).exists() else "" for n in ("stdout", "stderr")]
        return subprocess.CompletedProcess(self._words, code, *texts)


def warm() -> None:
    """Import what commands need, and do once what is slow the first time: load compiled kernels, find fonts."""
    import importlib
    import io

    import torch
    from matplotlib.figure import Figure

    from fewshot_cli import registry

    torch.set_num_threads(1)  # a fork has none of its parent's threads
    for name in ("cli.app", "training.pretrain", "training.metatrain", "figures.curves"):
        importlib.import_module(f"fewshot_cli.{name}")
    importlib.import_module("lightning_fabric")
    importlib.import_module("matplotlib.pyplot")
    figure = Figure()
    figure.subplots().set_title("warm")
    figure.savefig(io.BytesIO())
    for kind in registry.KINDS:
        registry.entries(kind)
    one = torch.ones(1, 1)
    registry.solver("network_simplex")().solve(one[None], one, one)


def serve(address: str, said: int) -> None:
    """Fork a command for every connection until stdin ends."""
    import selectors
    import signal

    warm()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks that wait for the commands
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    os.write(said, b"ready")
    os.close(said)
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ)
    waiting.register(0, selectors.EVENT_READ)
    while all(key.fileobj is listener for key, _ in waiting.select()):
        connection, _ = listener.accept()
        if os.fork() == 0:
            waiting.close()
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            request = json.loads(connection.makefile().readline())
            if (pid := os.fork()) == 0:
                connection.close()
                command(**request)
            connection.sendall(f"{pid}\n".encode())
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            connection.sendall(f"{code}\n".encode())
            os._exit(0)
        connection.close()


def command(
    entry: str,
    words: list[str],
    cwd: str,
    environment: Mapping[str, str],
    file_size: int | None,
    stdout: str,
    stderr: str,
) -> NoReturn:
    """Become the command; does not return. The interpreter is left as it is, since to take it down costs most time."""
    import atexit
    import importlib
    import signal

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for fd, name in ((1, stdout), (2, stderr)):
        if name == "closed pipe":
            read, target = os.pipe()
            os.close(read)
        else:
            target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, fd)
        os.close(target)
    if file_size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
    sys.argv = ["fsl", *words]
    module, _, function = entry.partition(":")
    code = 1
    try:
        code = getattr(importlib.import_module(module), function)() or 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException as fault:
        sys.excepthook(type(fault), fault, fault.__traceback__)
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(int(code))


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    serve(sys.argv[2], int(sys.argv[3]))
    os._exit(0)
