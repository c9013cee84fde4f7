"""Jobs that scripts/bench measures: bench-memory under `fermata run`, and the machine's own speed beside it."""
import glob
import json
import os
import re
import signal
import statistics
import subprocess
import time

from fermata_job import BIN, FERMATA, Job, Workspace, check, fermata, read, said, wait_until

TICKS = os.sysconf("SC_CLK_TCK")
GIB = 1 << 30


def reference(*arguments):
    """Seconds that bench-reference says."""
    out = subprocess.run([os.path.join(BIN, "bench-reference"), *map(str, arguments)], check=True, capture_output=True,
                         text=True)
    return float(out.stdout)


def forget_cached(path):
    """Takes the pages of a file out of the page cache: what was just written is read from the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def knows(command, option):
    """Whether `fermata COMMAND` has an option."""
    return option in fermata(command, "--help").stdout


class Folder(Workspace):
    """A workspace on the disk that is measured."""

    def __init__(self, parent, checkpoints=None):
        os.environ["FERMATA_TEST_TMP"] = parent
        super().__init__("bench")
        if checkpoints:
            self.checkpoints = checkpoints


def ways_of_sets(folder):
    """How the snapshots of the sets in a workspace were taken."""
    manifests = glob.glob(os.path.join(folder.checkpoints, "*", "*", "set.json"))
    return {image["snapshot"] for path in manifests for image in json.loads(read(path))["set"]["images"]}


class OptionJob(Job):
    """A job with more options of `fermata run`."""

    def __init__(self, *arguments, options=(), **named):
        self.options = list(options)
        super().__init__(*arguments, **named)

    def _start(self, arguments):
        options = self.options if arguments[0] == "run" else []
        super()._start([arguments[0], *options, *arguments[1:]])


class MemoryJob:
    """Ranks of bench-memory, each with `mebibytes`. For a with statement: no job outlives it, and no checkpoint. Every
    set is full, unless `increments`."""

    def __init__(self, parent, mebibytes, ranks=1, percent=0, checkpoints=None, increments=False):
        self.folder = Folder(parent, checkpoints)
        self.ranks, self.bytes = ranks, ranks * mebibytes << 20
        command = [os.path.join(BIN, "bench-memory"), str(mebibytes), str(percent)]
        options = ["--track", "auto" if increments else "none"] if knows("run", "--track") else []
        self.job = OptionJob(self.folder, command, ranks=ranks, options=options)

    def __enter__(self):
        self.job.wait_started(60)
        self.wait_for("ready", self.ranks, 300)
        return self

    def __exit__(self, *_):
        self.job.clean_up()
        self.folder.remove()

    def wait_for(self, word, count, seconds=60):
        """The lines that begin with `word`, once there are `count`."""
        def lines():
            found = re.findall(rf"^{word}.*\n", read(self.job.out), re.MULTILINE)
            return found if len(found) >= count else None
        return wait_until(lines, seconds, f"{count} lines of {word}")

    def pids(self):
        """Of the ranks, not of podinit."""
        return [pid for pid in self.job.processes() if read(f"/proc/{pid}/comm").startswith("bench-memory")]

    def ask(self, signo, word):
        """Sends a signal to each rank and returns the lines that answer."""
        before = len(re.findall(rf"^{word}", read(self.job.out), re.MULTILINE))
        for pid in self.pids():
            os.kill(pid, signo)
        return self.wait_for(word, before + self.ranks)[before:]

    def dirty(self):
        self.ask(signal.SIGUSR1, "dirtied")

    def fork_seconds(self):
        """How long each rank stands still for a bare fork: the slowest."""
        return max(float(line.split()[1]) for line in self.ask(signal.SIGUSR2, "fork"))

    def cpu_seconds(self):
        """Of the agent, its children, and the job."""
        total = 0
        for pid in [self.job.agent.pid, *self.job.processes()]:
            fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) if fields else 0
        return total / TICKS

    def checkpoint(self, *options):
        """Takes a set: its description, with "seconds" from request to durable."""
        start = time.monotonic()
        result = self.job.checkpoint("--json", *options, seconds=300)
        seconds = time.monotonic() - start
        check(result.returncode == 0, f"checkpoint: {said(result)}")
        out = json.loads(result.stdout)
        out["seconds"] = seconds
        return out

    def settled_cpu_seconds(self):
        """The same once nothing is done any more: what a set leaves to be done behind it counts for it. Of few ranks:
        each looks at the clock all the time."""
        def settled():
            before = self.cpu_seconds()
            time.sleep(0.1)
            return before if self.cpu_seconds() - before < 0.02 else None
        return wait_until(settled, 60, "the agent to have nothing to do")

    def image_of(self, taken):
        return os.path.join(taken["folder"], "pod-0.h5")

    def manifest_of(self, taken):
        return json.loads(read(os.path.join(taken["folder"], "set.json")))["set"]

    def restart(self, *options):
        """Seconds from the call of `fermata restart` until the last rank ran; then the job is ended."""
        self.job.wait_ended(60)
        start = time.time()
        self.job._start(["restart", "--checkpoint-dir", self.folder.checkpoints, *options])
        lines = self.wait_for("ran", self.ranks, 120)
        self.job.wait_started(60)
        self.job.kill_pod()
        return max(float(line.split()[1]) for line in lines) - start


def run_seconds(folder, command, ranks=1, interval=None, inside=None):
    """Wall time of a whole job; with `inside`, writes are tracked and this function of the running job is called first."""
    environment = {"OMPI_MCA_mpi_yield_when_idle": "1"}
    start = time.monotonic()
    options = ["--track", "auto"] if inside and knows("run", "--track") else []
    job = OptionJob(folder, command, ranks=ranks, interval=interval, environment=environment, options=options)
    try:
        if inside:
            inside(job)
        status = job.wait_ended(600)
        check(status == 0, f"{command[0]} ended with {status}: {read(job.err)}")
        return time.monotonic() - start, read(job.out)
    finally:
        job.clean_up()


class Row:
    """One line of the table: what was measured in each round, and the reference of the same round."""

    def __init__(self, name, goal, higher=False, unit="s", scale=1.0):
        self.name, self.goal, self.higher, self.unit, self.scale = name, goal, higher, unit, scale
        self.measured, self.references, self.ways = [], [], set()

    def add(self, measured, against=None, ways=()):
        """`ways`: how the snapshots of what was measured were taken."""
        self.measured.append(measured)
        self.ways.update(ways)
        if against is not None:
            self.references.append(against)

    def values(self):
        """What is compared with the goal: ratios where there is a reference, so that more is dearer or, with
        `higher`, the share of the machine's speed that was used."""
        if not self.references:
            return self.measured
        pairs = zip(self.measured, self.references)
        return [ours and (theirs / ours if self.higher else ours / theirs) for ours, theirs in pairs]

    def reached(self):
        if self.goal is None:
            return "reported"
        value = statistics.median(self.values())
        good = value >= self.goal if self.higher else value <= self.goal
        return "reached" if good else "**missed**"

    def line(self):
        def figure(values, scale, unit):
            return f"{statistics.median(values) * scale:.3g} {unit}".strip() if values else ""
        values = self.values()
        ratio = f"{statistics.median(values):.3f} ({min(values):.3f} - {max(values):.3f})" if self.references else \
            f"({min(values) * self.scale:.3g} - {max(values) * self.scale:.3g} {self.unit})"
        bound = ">=" if self.higher else "<="
        wanted = "" if self.goal is None else \
            f"{bound} {self.goal:g}" if self.references else f"{bound} {self.goal * self.scale:g} {self.unit}"
        note = f"; by {', '.join(sorted(self.ways))}" if self.ways else ""
        cells = [self.name + note, figure(self.measured, self.scale, self.unit),
                 figure(self.references, self.scale, self.unit), ratio, wanted, self.reached()]
        return "| " + " | ".join(cells) + " |"
