"""The files of `cluster/` against the schemas and the command line that they are for."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.cli.commands import app
from launcher.cli.main import main
from launcher.plan.experiment import slug

REPOSITORY = Path(__file__).parents[2]
CLUSTER = REPOSITORY / "cluster"
RAYJOB = yaml.safe_load(Path(__file__).with_name("rayjob_fields.yaml").read_text())
TYPES = {"string": str, "integer": int, "boolean": bool}
RAY_CLUSTERS = ("ray_cluster.yaml", "ray_cluster_aws.yaml")
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH=$HOME/.ray/auth_token"


def accept(words: list[str]) -> None:
    """Fail unless the command line takes these words after `launch`."""
    app.parse_args(words, exit_on_error=False, print_error=False)


def kubernetes() -> dict[str, Any]:
    """Kind → its one object."""
    return {made["kind"]: made for made in yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text())}


def leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Dotted paths, as in `rayjob_fields.yaml`, with mappings (for their keys) and values."""
    path = re.sub(r"^.*\.template\.spec", "POD", path)
    if isinstance(node, list):
        for part in node:
            yield from leaves(part, f"{path}[]")
        return
    yield path, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}".removeprefix("."))


@pytest.mark.parametrize("name", RAY_CLUSTERS)
def test_ray_takes_the_clusters(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((CLUSTER / name).read_text()))
    validate_config(config)
    nodes = config["available_node_types"]
    assert sum(node["min_workers"] for node in nodes.values()) == config["max_workers"] > 0


@pytest.mark.parametrize("name", RAY_CLUSTERS)
def test_every_start_of_ray_has_the_token_from_its_file(name: str) -> None:
    config = yaml.safe_load((CLUSTER / name).read_text())
    assert "~/.ray/auth_token" in config["file_mounts"]
    starts = [line for key in ("head", "worker") for line in config[f"{key}_start_ray_commands"] if "ray start" in line]
    assert len(starts) == 2
    for line in starts:
        exported, started = line.split("ray start")
        assert f"export RAY_AUTH_MODE=token {TOKEN_PATH};" in exported
        flags_of_ray_exist(shlex.split(started))


def flags_of_ray_exist(words: list[str]) -> None:
    from ray.scripts.scripts import start

    known = {flag for parameter in start.params for flag in parameter.opts}
    given = {word.split("=")[0] for word in words if word.startswith("--")}
    assert given <= known


@pytest.mark.parametrize("name", ["local.sh", "slurm.sbatch"])
def test_the_scripts_are_bash_and_ray_knows_their_flags(name: str) -> None:
    assert subprocess.run(["bash", "-n", str(CLUSTER / name)], check=False).returncode == 0
    text = (CLUSTER / name).read_text()
    code = re.sub(r"^\s*#.*\n", "", text.replace("\\\n", " "), flags=re.MULTILINE)
    starts = re.findall(r"^.*?\bstart (.*--.*)$", code, re.MULTILINE)
    assert len(starts) == (3 if name == "local.sh" else 2)
    for flags in starts:
        flags_of_ray_exist(flags.split())
    assert "ray stop" not in code


def test_the_slurm_job_gives_commands_that_exist() -> None:
    text = (CLUSTER / "slurm.sbatch").read_text()
    commands = re.findall(r"^ +arguments=\((.*)\)$", text, re.MULTILINE)
    assert len(commands) == 3
    commands = [command.replace("$directory", "runs/a-1") for command in commands]
    for command, given in zip(commands, ("resume runs/a-1", "", "cfg.yaml --seeds 8"), strict=True):
        accept([*shlex.split(command.replace('"$@"', given)), "--address", "10.0.0.1:6379"])


@pytest.mark.parametrize(
    ("job", "name"),
    [
        ("cartpole", "cartpole-4711"),
        ("a.b_c=d+e-f", "a.b_c=d+e-f-4711"),
        ("two words/and: more", "two-words-and--more-4711"),
        ("-n", "n-4711"),
        ("..hidden", "hidden-4711"),
        ("ends with a dot.", "ends-with-a-dot.-4711"),
        ("two\nlines", "two-lines-4711"),
        ("größe", "gr----e-4711"),
        ("$(false) `false` \"'*", "false---false------4711"),
        ("x" * 200, "x" * 60 + "-4711"),
        (" /日本", "4711"),
        ("", "4711"),
    ],
)
def test_a_slurm_job_of_any_name_has_a_launch_of_a_legal_one(job: str, name: str) -> None:
    text = (CLUSTER / "slurm.sbatch").read_text()
    lines = re.findall(r"^(?:name|directory)=.*$", text, re.MULTILINE)
    assert len(lines) == 3
    script = "\n".join(("set -euo pipefail", *lines, 'echo "$name"; echo "$directory"'))
    environment = {"PATH": os.environ["PATH"], "SLURM_JOB_NAME": job, "job": "4711"}
    made = subprocess.run(["bash", "-c", script], env=environment, check=True, capture_output=True, text=True).stdout
    assert made == f"{name}\nruns/{name}\n"
    assert slug(name) == name
    assert '--name "$name"' in text


@pytest.mark.parametrize("name", ["local.sh", "slurm.sbatch", "ray_cluster.yaml"])
def test_commands_in_comments_exist(name: str) -> None:
    comments = re.findall(r"^# +(.*)$", (CLUSTER / name).read_text(), re.MULTILINE)
    commands = [
        re.search(r"(?:\blaunch|cluster/slurm\.sbatch) ([^#']*(?:\.yaml|runs/)[^#']*)", line) for line in comments
    ]
    found = [command[1] for command in commands if command]
    assert found
    for command in found:
        accept(command.split())


def test_kubernetes_takes_the_job() -> None:
    job = kubernetes()["RayJob"]
    assert (job["apiVersion"], list(job)) == ("ray.io/v1", ["apiVersion", "kind", "metadata", "spec"])
    fields, required = RAYJOB["fields"], RAYJOB["required"]
    for path, value in leaves(job["spec"], ""):
        if isinstance(value, dict):
            assert set(required.get(path, ())) <= set(value), path
            continue
        allowed = fields.get(path) or fields[re.sub(r"[^.]+$", "*", path)]
        assert value in allowed if isinstance(allowed, list) else type(value) is TYPES[allowed], (path, value)


def test_the_parts_of_the_kubernetes_job_fit_together() -> None:
    made = kubernetes()
    cluster = made["RayJob"]["spec"]["rayClusterSpec"]
    pod = cluster["headGroupSpec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts["/results"]["persistentVolumeClaim"]["claimName"] == made["PersistentVolumeClaim"]["metadata"]["name"]
    assert mounts["/config"]["configMap"]["name"] == made["ConfigMap"]["metadata"]["name"]
    assert cluster["authOptions"]["mode"] == "token"
    for group in cluster["workerGroupSpecs"]:
        assert group["template"]["spec"]["containers"][0]["image"] == pod["containers"][0]["image"]


def test_the_image_that_is_built_is_the_one_that_kubernetes_runs() -> None:
    pod = kubernetes()["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    image = pod["containers"][0]["image"]
    # With `latest`, Kubernetes would pull instead of taking what is there.
    assert re.fullmatch(r"sunflower:\d+\.\d+\.\d+", image)
    for file in ("README.md", "Dockerfile"):
        built = re.findall(r"docker build .* -t (\S+)", (CLUSTER / file).read_text())
        assert built and set(built) == {image}


def test_the_kubernetes_job_launches_once_and_resumes_after(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = kubernetes()
    words = shlex.split(made["RayJob"]["spec"]["entrypoint"])
    # `ray job submit` joins the words like this.
    assert shlex.split(subprocess.list2cmdline(words)) == words
    shell, flag, script = words
    assert (shell, flag) == ("sh", "-c")
    found = re.fullmatch(r"if \[ -e (\S+)/ledger.sqlite \]; then launch (.*); else launch (.*); fi", script)
    assert found is not None
    directory, resume, train = found[1], shlex.split(found[2]), shlex.split(found[3])
    accept(resume)
    assert resume[:2] == ["resume", directory]
    out, name = (train[train.index(option) + 1] for option in ("--out", "--name"))
    assert f"{out}/{name}" == directory
    # The rest is planned for this machine, with the configuration that Kubernetes would mount.
    at = train.index("--address")
    assert train[at : at + 2] == ["--address", "auto"]
    del train[at : at + 2]
    train[0] = str(tmp_path / Path(train[0]).relative_to("/config"))
    for file, text in made["ConfigMap"]["data"].items():
        (tmp_path / file).write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main([*train, "--dry-run"]) == 0
    assert "64 trials" in capsys.readouterr().out


def test_the_image_has_its_stages_and_what_it_copies() -> None:
    text = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ")
    stages: list[str] = []
    for line in text.splitlines():
        match line.split():
            case ["FROM", image, "AS", stage]:
                assert image in (*stages, "python:3.11-slim")
                stages.append(stage)
            case ["COPY", copied, _, _] if copied.startswith("--from="):
                assert copied.removeprefix("--from=") in stages
            case ["COPY", *sources, _]:
                for source in sources:
                    assert (REPOSITORY / source).exists(), source
            case [instruction, *_]:
                assert instruction in ("#", "ENV", "RUN", "USER", "WORKDIR")
    assert {"cpu", "cuda"} <= set(stages)
    # Without --target, `docker build` takes the last one.
    assert stages[-1] == "cpu"
    assert text.count("USER sunflower") == 2


def test_the_image_installs_what_the_package_asks_for() -> None:
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    text = (CLUSTER / "Dockerfile").read_text()
    (torch,) = (name for name in project["dependencies"] if name.startswith("torch>"))
    assert f'"{torch}"' in text
    for extra in re.findall(r"\.\[(\w+)\]", text):
        assert extra in project["optional-dependencies"]
