"""Launches that run on a cluster by themselves: submitted as Ray jobs, followed, stopped, brought back.

The launcher itself then runs on the cluster's head; here only the jobs API is spoken to, so closing the terminal stops
nothing. A launch is known by its name; the job that began it has that as its submission id.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import json
import logging
import secrets
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from launcher.cluster.archive import Unpacker, bring, refuse_to_lose
from launcher.cluster.connect import check_reachable, code, set_environment
from launcher.parts import grouped
from launcher.plan.resume import Request
from launcher.plan.revision import COMMIT, git_commit
from runner.envs.named import imports
from runner.errors import UserError

DASHBOARD_PORT = 8265
"""The port of the jobs API, unless an address names another."""
STOP_SECONDS = 90
"""The time that a launch has to save after a stop, before Ray ends it; it gives its workers 60 of them."""
OVER = {"SUCCEEDED", "FAILED", "STOPPED"}
POLL_SECONDS = 0.5
QUIET_SECONDS = 60.0
"""A connection on which nothing came for so long is made again: one that was cut does not always end."""
GIVE_UP_SECONDS = 300.0
"""The longest silence of a cluster that was there."""
READY_SECONDS = 60
"""The time that a head which has just started has until it accepts jobs."""
TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Ray's loggers that tell of every package and connection; each has a level of its own."""


def dashboard_of(address: str | None) -> str | None:
    """The URL of the jobs API that an address stands for; None for one that is joined directly.

    Ray Client (`ray://`) would run the launcher's loop over the network, and ends tasks 30 s after it is cut off; so
    that form only says where the cluster is.
    """
    scheme, _, rest = (address or "").partition("://")
    if scheme in ("http", "https"):
        return f"{scheme}://{rest.rstrip('/')}"
    if scheme == "ray":
        return f"http://{rest.rpartition(':')[0] or rest}:{DASHBOARD_PORT}"
    return None


class Jobs:
    """The launches of one cluster."""

    def __init__(self, address: str) -> None:
        """Connect to http://HOST:8265, or ray://HOST:10001."""
        url = dashboard_of(address)
        if url is None:
            raise UserError(f"command line: --address {address}: allowed here: http://HOST:8265 or ray://HOST:10001")
        set_environment(address)
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise UserError(f"command line: --address {address}: {error}") from None
        check_reachable(f"{parts.hostname or ''}:{port}")
        from ray.job_submission import JobSubmissionClient

        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        self.url = url
        with self._asking():
            self._client = JobSubmissionClient(url)

    def begin(self, directory: Path, out: Path, request: Request) -> str:
        """Send a launch directory, whose name is the job's, to the cluster and let its launch go on there.

        Returns the directory on the head, below `out`, which is in the home folder there if it is relative; it may
        contain `$HOME`.
        """
        name = directory.name
        # `~` and variables are the head's, whose launcher reads them.
        folder = str(out) if str(out)[:1] in ("/", "$", "~") else f"$HOME/{out}"
        taken = f"{name}: this cluster has had a launch of that name; choose another --name"
        return self._run(name, name, folder, request, taken, directory)

    def resume(self, name: str, request: Request) -> str:
        """Continue a launch whose job is over, in another job; returns its directory on the head."""
        jobs = self._jobs(name)
        if jobs[-1].status not in OVER:
            raise UserError(f"{name}: still at work on {self.url}; watch it with launch follow {name}")
        imports.restore(json.loads(jobs[-1].metadata.get("imports", "{}")), f"{name} of {self.url}")
        taken = f"{name}: somebody else has just resumed it; launch follow {name} --address {self.url} shows it"
        # No launch is called so.
        return self._run(f"{name}@{len(jobs) + 1}", name, jobs[-1].metadata["out"], request, taken)

    def follow(self, name: str, show: Callable[[str], Any]) -> int:
        """Show what a launch prints, from its beginning, until it is over; returns its exit status."""
        job = self._jobs(name)[-1]
        self._watch(job.submission_id, show)
        job = self._over(job.submission_id)
        if job.status == "STOPPED":
            return 128 + signal.SIGTERM
        if job.driver_exit_code is None:
            show(f"{name}: {job.message}\n")
        return 1 if job.driver_exit_code is None else int(job.driver_exit_code)

    def stop(self, name: str) -> str:
        """Let a launch save and end; returns what became of it, in words."""
        job = self._jobs(name)[-1]
        if job.status in OVER:
            return "was over already"
        with self._asking():
            self._client.stop_job(job.submission_id)
        ended = self._over(job.submission_id)
        return "stopped" if ended.status == "STOPPED" else f"ended by itself meanwhile ({ended.status.lower()})"

    def pull(self, name: str, out: Path) -> Path:
        """Bring a launch's directory into the folder `out`, as it is now, over what an earlier pull brought.

        A job on the head prints it, since the jobs API has no other way to bring a file.
        """
        job = self._jobs(name)[-1]
        directory, source = out / name, f"{job.metadata['out']}/{name}"
        refuse_to_lose(directory)
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=f".{name}.") as folder:
            archive = Path(folder) / "archive"
            with archive.open("wb") as file:
                self._print(f"{name}@pull-{secrets.token_hex(4)}", source, Unpacker(file.write))
            bring(archive, directory, {"address": self.url, "directory": source, "time": time.time()})
        return directory

    def _print(self, job: str, directory: str, unpacker: Unpacker) -> None:
        """Let a job print a directory for somebody who unpacks it."""
        with self._asking():
            self._submit(job, f"python -P -m launcher.cluster.archive {shlex.quote(directory)}", code(), {})
        try:
            with contextlib.suppress(binascii.Error):  # `check` tells
                self._watch(job, unpacker.take)
            self._over(job)
            unpacker.check(self.url)
        finally:
            # What it would print for nobody fills the head's disk.
            with contextlib.suppress(UserError), self._asking():
                self._client.stop_job(job)
                self._over(job)
                self._client.delete_job(job)

    def _run(self, job: str, name: str, out: str, request: Request, taken: str, sent: Path | None = None) -> str:
        """Submit a launcher; `taken` is the error where there is a job of this name."""
        # What travels has no repository there.
        environment = code()
        environment["env_vars"] |= {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), COMMIT: git_commit() or ""}
        words = ["on-head", f"{out}/{name}", request.as_json()]
        if sent is not None:
            environment["working_dir"] = str(sent)
            words.append("--begin")
        command = f"exec python -P -m launcher.cli.main {shlex.join(words)}"
        try:
            with self._asking():
                metadata = {"launch": name, "out": out}
                if record := imports.recorded():
                    metadata["imports"] = json.dumps(record)
                self._submit(job, command, environment, metadata)
        except UserError as error:
            if "already exists" not in str(error):
                raise
            raise UserError(taken) from None
        return f"{out}/{name}"

    def _submit(self, job: str, command: str, environment: dict[str, Any], metadata: dict[str, str]) -> None:
        last_try = time.monotonic() + READY_SECONDS
        while True:
            try:
                self._client.submit_job(
                    entrypoint=command, submission_id=job, runtime_env=environment, metadata=metadata
                )
                return
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > last_try:
                    raise
                time.sleep(POLL_SECONDS)

    def _jobs(self, name: str) -> list[Any]:
        """The jobs of a launch, oldest first; at least one."""
        with self._asking():
            jobs = self._client.list_jobs()
        ours = [job for job in jobs if job.submission_id and "launch" in (job.metadata or {})]
        found = grouped(sorted(ours, key=lambda job: job.start_time or 0), lambda job: job.metadata["launch"])
        if name not in found:
            raise UserError(f"{name}: no launch of {self.url}; there are: {', '.join(found) or 'none'}")
        return found[name]

    def _watch(self, job: str, take: Callable[[str], Any]) -> None:
        """Hand on what a job prints until it is over; a connection that breaks is made again."""
        import aiohttp

        seen = 0
        heard = time.monotonic()
        broke: Exception | None = None

        async def read() -> bool:
            """Until the connection ends; True if that was all."""
            nonlocal seen, heard, broke
            skip = seen
            stream = self._client.tail_job_logs(job)
            while True:
                try:
                    # Not wait_for, which may lose a Ctrl-C: https://github.com/python/cpython/issues/86296
                    async with asyncio.timeout(QUIET_SECONDS):
                        text = await anext(stream)
                except StopAsyncIteration:
                    return True
                except TimeoutError:
                    heard = time.monotonic()
                    return False
                except (RuntimeError, OSError, aiohttp.ClientError) as error:
                    broke = error
                    return False
                fresh, skip = text[skip:], max(0, skip - len(text))
                seen += len(fresh)
                if fresh:
                    heard = time.monotonic()
                    take(fresh)

        while True:
            whole = asyncio.run(read())
            if self._info(job).status in OVER and whole:
                return
            if time.monotonic() - heard > GIVE_UP_SECONDS and broke is not None:
                raise UserError(f"{self.url}: what {job} prints cannot be read: {str(broke) or type(broke).__name__}")
            time.sleep(POLL_SECONDS)

    def _over(self, job: str) -> Any:
        while (info := self._info(job)).status not in OVER:
            time.sleep(POLL_SECONDS)
        return info

    def _info(self, job: str) -> Any:
        """The state of a job, as soon as the cluster answers."""
        began = time.monotonic()
        told = False
        while True:
            try:
                with self._asking():
                    return self._client.get_job_info(job)
            except UserError as error:
                if not isinstance(error.__context__, OSError) or time.monotonic() - began > GIVE_UP_SECONDS:
                    raise
                if not told:
                    print(f"{error}; asking again for {GIVE_UP_SECONDS / 60:.0f} minutes", file=sys.stderr)
                    told = True
                time.sleep(POLL_SECONDS)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Errors of the jobs API as ours."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise UserError(f"{self.url}: refuses the token; set RAY_AUTH_TOKEN to the cluster's") from None
        except (RuntimeError, ConnectionError, requests.exceptions.RequestException) as error:
            lines = [line.strip() for line in str(error).splitlines() if any(map(str.isalnum, line))]
            raise UserError(f"{self.url}: {lines[-1] if lines else type(error).__name__}"[:2000]) from None
