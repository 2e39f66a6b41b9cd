"""Several processes, processes that die, folders that take nothing: the installed command and the real client."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from kbnet_cli import checkpoint
from tests.hub_client import environment
from tests.hub_faults import Slow, Tap
from tests.hub_server import HubServer
from tests.networks import random_network, save

ADDRESS = "hf:owner/name/a.safetensors"
OBTAIN = """
import os
import sys
from pathlib import Path
from kbnet_cli.hub.library import Library
from kbnet_cli.settings import Places

def say(text):
    os.write(1, f"{text}\\n".encode())  # at once: several processes write into one pipe

library = Library(Places(weights_folder=Path(sys.argv[1])), tell=lambda text: say(f"waits: {text}"))
say("ready")
say(library.obtain(sys.argv[2], "denoise"))
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(tls=True) as server:
        server.add("owner/name", "a.safetensors", weights())
        yield server


def weights() -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save(random_network().state_dict(), buffer)
    return buffer.getvalue()


class Machine:
    """A home of its own, in which processes are started."""

    def __init__(self, hub: HubServer, home: Path) -> None:
        self.folder = home / "weights"
        self.variables = os.environ | environment(hub, home / "huggingface")
        self.variables |= {"KBNET_WEIGHTS_FOLDER": str(self.folder), "OMP_NUM_THREADS": "1"}
        self.variables["HF_HUB_DOWNLOAD_TIMEOUT"] = "120"  # the tests decide when a server goes on

    def start(self, address: str, says: int) -> subprocess.Popen[bytes]:
        """Start a process that obtains weights, and writes to this end of a pipe how far it is."""
        words = [sys.executable, "-c", OBTAIN, str(self.folder), address]
        return subprocess.Popen(words, env=self.variables, stdout=says)

    def kbnet(self, *words: str, before: Sequence[str] = (), **more: object) -> subprocess.CompletedProcess[str]:
        command = [*before, sys.executable, "-m", "kbnet_cli", *words]
        return subprocess.run(command, env=self.variables, text=True, capture_output=True, check=False, **more)  # type: ignore[call-overload]


@pytest.fixture
def machine(hub: HubServer, tmp_path: Path) -> Machine:
    return Machine(hub, tmp_path)


@pytest.mark.parametrize("from_hub", [False, True])
def test_two_processes_at_once_make_one_download_and_no_broken_file(
    from_hub: bool, hub: HubServer, machine: Machine
) -> None:
    address = ADDRESS if from_hub else hub.serve("/a.pth", weights(), etag="one")
    tap = Tap(50_000)
    hub.fault(Slow(tap), path="/cdn/|/a.pth", times=None)
    heard, says = os.pipe()
    processes = [machine.start(address, says) for _ in range(3)]
    os.close(says)
    with os.fdopen(heard) as lines:
        # One is in the middle of the file, the others are at its lock.
        told = sorted(lines.readline().strip() for _ in range(5))
        assert told == ["ready"] * 3 + [f"waits: {address}: another kbnet is at work on it; waiting"] * 2
        tap.wait_for(1, timeout_seconds=60)
        tap.open()
        (path,) = {line.strip() for line in lines}
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(hub.asked("GET", "/cdn/|/a.pth")) == 1
    checkpoint.load(Path(path))


@pytest.mark.parametrize("from_hub", [False, True])
def test_a_process_that_is_killed_leaves_nothing_in_the_way(from_hub: bool, hub: HubServer, machine: Machine) -> None:
    address = ADDRESS if from_hub else hub.serve("/a.pth", weights(), etag="one")
    tap = Tap(50_000)
    hub.fault(Slow(tap), path="/cdn/|/a.pth")
    process = machine.start(address, subprocess.DEVNULL)
    tap.wait_for(1, timeout_seconds=60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    tap.open()
    assert machine.kbnet("weights", "path", address).returncode == 2, "a part is not the file"
    done = machine.kbnet("weights", "pull", "-q", address)
    assert done.returncode == 0, done.stderr
    checkpoint.load(Path(machine.kbnet("weights", "path", address).stdout.strip()))


def no_file_larger_than(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size can be set")
@pytest.mark.parametrize("from_hub", [False, True])
def test_a_disk_that_takes_no_more_is_an_error_and_nothing_is_half_there(
    from_hub: bool, hub: HubServer, machine: Machine
) -> None:
    address = ADDRESS if from_hub else hub.serve("/a.pth", weights(), etag="one")
    done = machine.kbnet("weights", "pull", address, preexec_fn=lambda: no_file_larger_than(100_000))
    assert done.returncode == 2
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert machine.kbnet("weights", "path", address).returncode == 2
    assert machine.kbnet("weights", "pull", address).returncode == 0


@pytest.mark.skipif(
    sys.platform == "win32" or (os.getuid() == 0 and shutil.which("setpriv") is None),
    reason="root may write everywhere, and there is no setpriv to take that from it",
)
def test_a_read_only_folder_gives_what_is_in_it_and_says_why_it_takes_no_more(hub: HubServer, machine: Machine) -> None:
    before = ["setpriv", "--inh-caps=-dac_override", "--bounding-set=-dac_override"] if os.getuid() == 0 else []
    here, other = (hub.serve(f"/{name}.pth", weights()) for name in ("here", "other"))
    assert machine.kbnet("weights", "pull", here).returncode == 0
    folders = [machine.folder, machine.folder / ".locks"]
    for folder in folders:
        folder.chmod(0o555)
    hub.forget()
    try:
        found = machine.kbnet("weights", "path", here, before=before)
        refused = machine.kbnet("weights", "pull", other, before=before)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert (found.returncode, refused.returncode) == (0, 2), refused.stderr
    assert f"{machine.folder}: weights cannot be kept there: Permission denied" in refused.stderr
    assert "--weights-folder" in refused.stderr
    assert not hub.requests


def test_a_photo_is_restored_with_weights_of_the_hub_and_then_without_a_network(
    hub: HubServer, machine: Machine, tmp_path: Path
) -> None:
    hub.add(
        "owner/name", "b.safetensors", save(random_network(), tmp_path / "b", task="denoise", tile="64").read_bytes()
    )
    photo = tmp_path / "photo.ppm"
    photo.write_bytes(b"P6 20 16 255\n" + bytes(range(240)) * 4)
    words = ("denoise", str(photo), "-w", "hf:owner/name/b.safetensors", "--device", "cpu")
    first = machine.kbnet(*words)
    assert first.returncode == 0, first.stderr
    assert "fetching hf:owner/name/b.safetensors" in first.stderr
    hub.forget()
    machine.variables["HF_HUB_DISABLE_TELEMETRY"] = ""
    again = machine.kbnet(*words, "--overwrite")
    assert again.returncode == 0, again.stderr
    assert "fetching" not in again.stderr
    assert hub.connections == 0
