"""Every command and snippet of the README runs, at smoke scale."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import mtm

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One storage path for all of the README: later commands reuse what earlier ones made."""
    return tmp_path_factory.mktemp("runs")


def test_the_two_commands_of_a_newcomer_are_there() -> None:
    """``make quickstart`` and ``make test`` cannot run within themselves; their targets are real."""
    makefile = (ROOT / "Makefile").read_text()
    for target in ("quickstart", "test"):
        assert f"make {target}" in COMMANDS
        assert f"\n{target}:" in makefile


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("mtm ") and c != "mtm ui"])
def test_a_command_runs(command: str, runs: Path) -> None:
    words = shlex.split(command)[1:]
    if words[0] in ("run", "quickstart"):
        words += ["--scale", "smoke"]
    if words[:2] == ["run", "mask-patterns"]:
        words += ["--seeds", "1"]
    if words[0] == "table":
        words[1] += " smoke"  # the name that the run at this scale has in MLflow
    if words[0] != "recipes":
        words += ["--storage-path", str(runs)]
    done = subprocess.run(
        [sys.executable, "-m", "sweeps.cli", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "", "library noise"


def test_the_ui_answers(runs: Path) -> None:
    assert "mtm ui" in COMMANDS
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "sweeps.cli",
        "ui",
        "--storage-path",
        str(runs),
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        while process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}") as page:
                    assert b"MLflow" in page.read()
                    return
            except OSError:
                time.sleep(0.5)
        pytest.fail("the UI ended: " + process.communicate()[1].decode())
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@pytest.mark.parametrize("snippet", [block for language, block in BLOCKS if language == "python"])
def test_a_snippet_runs(snippet: str, runs: Path) -> None:
    """In a folder where ``model.safetensors`` is what a run of the README has left."""
    path = next(
        p
        for p in sorted(runs.glob("pretrain/*/last.safetensors"))
        if (learner := mtm.load(p)).kind == "mtm" and "hopper" in learner.facts["dataset_id"]
    )
    code = snippet.replace("model.safetensors", str(path))
    assert code != snippet
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
