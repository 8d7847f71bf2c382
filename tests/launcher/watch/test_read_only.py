"""A launch on a file system that may only be read, as another group's results are: `pytest -m cluster`."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.launcher.commands import command, launch, said
from tests.launcher.faulty import write_config

CODE = """
    import sys
    from pathlib import Path
    from launcher.cli.main import main

    directory, out = Path(sys.argv[1]), Path(sys.argv[2])
    best = next(directory.glob("trials/*/best_agent.safetensors"))
    for words in (
        ["status", directory],
        ["list", directory.parent],
        ["logs", directory],
        ["logs", directory, "cartpole_s0", "--tail", "1"],
        ["report", directory],
        ["report", directory, "--out", out / "page.html"],
        ["export", best],
        ["export", best, "--out", out / "policy.pt2"],
        ["resume", directory, "--dry-run"],
        ["resume", directory],
        ["eval", directory, "--episodes", "2", "--video", "1"],
        ["eval", directory, "--episodes", "2"],
    ):
        print("$", *words[:1], *words[2:], flush=True)
        print("status", main([str(word) for word in words]), flush=True)
"""


@pytest.mark.cluster
def test_every_verb(tmp_path: Path) -> None:
    directory = tmp_path / "runs" / "run"
    trained = launch(
        write_config(tmp_path, 640, backend="torch"), "--workers", "1", "--out", directory.parent, "--name", "run"
    )
    output = said(trained)
    assert trained.returncode == 0, output
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}

    mount = f"mount --bind {directory} {directory} && mount -o remount,ro,bind {directory}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False).returncode:
        pytest.skip("a mount of its own needs root")
    inside = f'{mount}; exec "$0" "$@"'
    verbs = command(
        ["unshare", "-m", "sh", "-c", inside, sys.executable, "-c", textwrap.dedent(CODE), directory, tmp_path],
        cwd=tmp_path,
    )
    output = said(verbs)
    blocks = [block.splitlines() for block in output.split("$ ")[1:]]
    statuses = {block[0]: block[-1] for block in blocks}
    told = {block[0]: "\n".join(block[1:-1]) for block in blocks}
    refused = {"report", "export", "resume", "eval --episodes 2 --video 1"}
    assert statuses == {verb: f"status {2 * (verb in refused)}" for verb in statuses} and len(statuses) == 12, output
    assert "1 finished" in told["status"]
    assert "finished" in told["list"] and "attempt 1" in told["logs"]
    assert "attempt 1 ends: finished" in told["logs cartpole_s0 --tail 1"]
    assert all("cannot be written: Read-only file system" in told[verb] for verb in ("report", "export", "resume"))
    assert (tmp_path / "page.html").is_file() and (tmp_path / "policy.pt2").is_file()
    assert "nothing to do" in told["resume --dry-run"]
    assert f"films go to {directory}/videos, and nothing may be written there" in told["eval --episodes 2 --video 1"]
    eval_ = told["eval --episodes 2"]
    assert eval_.index("nothing may be written there; what is played is shown") < eval_.index("mean return")
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before
