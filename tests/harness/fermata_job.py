"""Jobs under `fermata run`, as the test drivers see them: start, checkpoint, kill, restart, with a deadline on every wait.

Used by tests/states/run_state, tests/mpi_random and tests/faults. Python's standard library only.
"""
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SLOWDOWN = int(os.environ.get("FERMATA_TEST_SLOWDOWN", "1"))
REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("FERMATA_TEST_BIN", os.path.join(REPOSITORY, "build", "bin"))
FERMATA = os.path.join(BIN, "fermata")
JOBS = "/run/fermata/jobs"

# common/status.cc
EXIT_PERMISSION, EXIT_NOT_FOUND, EXIT_CANNOT_HOLD, EXIT_STORAGE = 3, 4, 5, 6
EXIT_DAMAGED, EXIT_UNSUPPORTED, EXIT_TIMEOUT = 7, 8, 10


class Failure(Exception):
    """A test failed; the message is the sentence for the reader."""


def check(condition, sentence):
    if not condition:
        raise Failure(sentence)


def wait_until(condition, seconds, what):
    """The first true value of condition(), polled; Failure once `seconds` (times the slowdown) are over."""
    until = time.monotonic() + seconds * SLOWDOWN
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            raise Failure(f"waited {seconds * SLOWDOWN} s for {what}")
        time.sleep(0.01)


def read(path):
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def fermata(*arguments, seconds=60, **options):
    """Runs one fermata command to its end."""
    try:
        return subprocess.run([FERMATA, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace", timeout=seconds * SLOWDOWN, **options)
    except subprocess.TimeoutExpired as expired:
        raise Failure(f"fermata {' '.join(map(str, arguments))}: not done after {seconds * SLOWDOWN} s; it said: "
                      f"{expired.stdout!r} {expired.stderr!r}") from None


def said(result):
    return f"exit {result.returncode}: {(result.stdout + result.stderr).strip()}"


class Workspace:
    """A folder for one test, readable by every user: kept and printed when the test fails."""

    def __init__(self, name):
        parent = os.environ.get("FERMATA_TEST_TMP", "/tmp")
        self.path = tempfile.mkdtemp(prefix=f"fermata-test-{name}-", dir=parent)
        os.chmod(self.path, 0o777)
        self.checkpoints = os.path.join(self.path, "checkpoints")
        os.mkdir(self.checkpoints)
        os.chmod(self.checkpoints, 0o777)

    def at(self, *names):
        return os.path.join(self.path, *names)

    def touch(self, name):
        open(self.at(name), "w").close()

    def write(self, name, value):
        with open(self.at(name), "w") as file:
            file.write(str(value))

    def remove(self):
        shutil.rmtree(self.path, ignore_errors=True)

    def print_logs(self):
        for log in sorted(glob.glob(self.at("*.log"))):
            text = read(log).strip()
            if text:
                print(f"--- {log}\n{text[-4000:]}", file=sys.stderr)
        print(f"--- kept: {self.path}", file=sys.stderr)


class Job:
    """A `fermata run` (and the `fermata restart`s after it) with its output in <workspace>/<n>.{out,err}.log."""

    def __init__(self, workspace, command, ranks=None, interval=None, user=None, checkpoint_dir=None, environment=None,
                 cwd=None, options=()):
        self.workspace = workspace
        self.checkpoint_dir = checkpoint_dir or workspace.checkpoints
        self.environment = dict(os.environ, **(environment or {}))
        self.cwd = cwd or workspace.path
        self.generation = 0
        self.id = None
        self.user = user
        if user:
            shutil.chown(self.checkpoint_dir, user)
        arguments = ["run", "--checkpoint-dir", self.checkpoint_dir]
        if ranks:
            arguments += ["-n", str(ranks)]
        if interval:
            arguments += ["--checkpoint-interval", interval]
        if user:
            arguments += ["--user", user]
        self._start([*arguments, *options, "--", *command])

    def _start(self, arguments):
        prefix = self.workspace.at(str(self.generation))
        self.out, self.err = prefix + ".out.log", prefix + ".err.log"
        self.generation += 1
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.agent = subprocess.Popen([FERMATA, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                          env=self.environment, cwd=self.cwd)

    def record(self):
        try:
            with open(f"{JOBS}/{self.id}/job.json") as file:
                return json.load(file)
        except (OSError, ValueError):
            return None

    def wait_started(self, seconds=20):
        """Until job.json names this generation's agent; Failure when fermata ends before."""
        def started():
            if self.id is None:
                found = re.search(r"job (\d+\.\d+)", read(self.err))
                self.id = found.group(1) if found else None
            record = self.record() if self.id else None
            if record and record["agent"] == self.agent.pid:
                return True
            if self.agent.poll() is not None:
                if "restarted from" in read(self.err):
                    return True  # it had so little left to do that it has ended already
                raise Failure(f"fermata ended with {self.agent.returncode} before the job ran: {read(self.err).strip()}")
            return False
        wait_until(started, seconds, "the job to start")
        return self

    def checkpoint(self, *options, seconds=60):
        return fermata("checkpoint", self.id, *options, seconds=seconds)

    def must_checkpoint(self, *options, seconds=60):
        result = self.checkpoint(*options, seconds=seconds)
        check(result.returncode == 0, f"fermata checkpoint {' '.join(options)}: {said(result)}")
        return result

    def processes(self):
        """Host PIDs of everything in the pod's group."""
        record = self.record()
        if not record:
            return []
        pids = []
        for folder, _, _ in os.walk(record["group"]):
            pids += [int(pid) for pid in read(os.path.join(folder, "cgroup.procs")).split()]
        return pids

    def kill_pod(self):
        """SIGKILLs every process of the job."""
        pids = self.processes()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return pids

    def wait_ended(self, seconds=20):
        """Exit status of the `fermata run` or `fermata restart` of this generation."""
        wait_until(lambda: self.agent.poll() is not None, seconds, "fermata to end with its job")
        return self.agent.returncode

    def restart(self, crid=None, seconds=40, options=()):
        arguments = ["restart", "--checkpoint-dir", self.checkpoint_dir, *options]
        if crid is not None:
            arguments += ["--crid", str(crid)]
        self._start(arguments)
        return self.wait_started(seconds)

    def clean_up(self):
        """Ends what is left of the job, whatever state the test is in."""
        self.kill_pod()
        if self.agent.poll() is None:
            try:
                self.agent.wait(5)
            except subprocess.TimeoutExpired:
                self.agent.kill()
                self.agent.wait()
        self.kill_pod()


class Deadline(Exception):
    pass


def run_test(name, body, seconds):
    """Runs body(workspace, jobs) and exits 0 or 1; `jobs` is a list of all jobs to clean up."""
    def expire(*_):
        raise Deadline(f"the whole test took more than {seconds * SLOWDOWN} s")
    signal.signal(signal.SIGALRM, expire)
    signal.signal(signal.SIGTERM, expire)
    signal.alarm(seconds * SLOWDOWN)
    workspace, jobs = Workspace(name), []
    failure = None
    try:
        body(workspace, jobs)
    except (Failure, Deadline) as reason:
        failure = reason
    finally:
        signal.alarm(0)
        for job in jobs:
            job.clean_up()
    if failure is None:
        workspace.remove()
        print(f"{name}: passed")
        sys.exit(0)
    workspace.print_logs()
    print(f"{name}: FAILED: {failure}", file=sys.stderr)
    sys.exit(1)
