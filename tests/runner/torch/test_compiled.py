"""L2 where the update is compiled: the same run twice is the same, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.runner.builders import fingerprint
from tests.runner.torch import compiled

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="no C++ compiler")
def test_two_compiled_runs_are_bit_equal_and_near_the_eager_one() -> None:
    program = [sys.executable, "-m", "tests.runner.torch.compiled"]
    environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    one, other, eager = answer["prints"]
    assert one == other
    assert one != eager, "nothing was compiled"
    np.testing.assert_allclose(*answer["parameters"], rtol=1e-4, atol=1e-5)
    assert eager == fingerprint(compiled.run(False)), "another process, other numbers"
