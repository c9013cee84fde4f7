"""The rows of scripts/bench's table. A row that this version of fermata cannot do is not there."""
import os
import re
import shutil
import statistics
import sys
import tempfile
import time

import growth
from fermata_job import BIN, check, read, wait_until
from held import GIB, Folder, MemoryJob, Row, forget_cached, knows, reference, run_seconds, ways_of_sets

LAMMPS_INPUT = "/usr/share/lammps/examples/melt/in.melt"
WARM_UP_STEPS = 2000
WARM_UP_SWEEPS = 3
BLOCKS = 20  # of LAMMPS' steps, each timed by itself


def cpu_use(seconds=1.0):
    """Share of all processors that is used."""
    def ticks():
        fields = [int(field) for field in open("/proc/stat").readline().split()[1:]]
        return sum(fields), fields[3] + fields[4]
    total, idle = ticks()
    time.sleep(seconds)
    total_then, idle_then = ticks()
    return 1 - (idle_then - idle) / max(1, total_then - total)


class Bench:
    def __init__(self, work, stack, quick):
        self.work, self.stack, self.quick = work, stack, quick
        self.rounds = 3 if quick else 5
        self.run_seconds = 11 if quick else 24
        self.rows, self.points = [], []
        self.use = [cpu_use()]

    def busy(self):
        return max(self.use) > 0.1

    def measure(self, word):
        """All rows whose group has a row with `word` in its name."""
        groups = {
            "stand-still durable CPU 1 GiB": self.one_gibibyte,
            "stand-still 4 ranks": self.four_ranks,
            "dirty incremental 4 GiB": self.little_dirty,
            "tmpfs memcpy": self.memory_folder,
            "restart read lazy": self.restart,
            "run time LAMMPS stencil": self.run_time,
            "growth": self.growth,
        }
        for name, group in groups.items():
            if word in name:
                print(f"bench: {name}", file=sys.stderr, flush=True)
                group()
                self.use.append(cpu_use())
        return self.rows

    def row(self, *arguments, **options):
        self.rows.append(Row(*arguments, **options))
        return self.rows[-1]

    def one_gibibyte(self):
        still = self.row("stand-still, 1 GiB of 4K pages in one process, full, against a bare fork of it", 1.3,
                         unit="ms", scale=1e3)
        durable = self.row("request -> durable, 1 GiB full, against O_DIRECT writes and fsync of as many bytes", 0.85,
                           higher=True)
        cpu = self.row("CPU seconds per GiB saved, agent and job", 0.35)
        trial = os.path.join(self.work, "trial")
        with MemoryJob(self.work, 1024) as job:
            job.checkpoint()  # warms what is kept from set to set
            self.write_seconds(trial)
            for _ in range(self.rounds):
                before = self.write_seconds(trial)
                fork = statistics.median(job.fork_seconds() for _ in range(3))
                used = job.settled_cpu_seconds()
                taken = job.checkpoint()
                used = job.settled_cpu_seconds() - used
                seconds = (before + self.write_seconds(trial)) / 2
                way = {taken["snapshot"]}
                still.add(taken["stand_still_ms"] / 1e3, fork, way)
                durable.add(taken["seconds"], seconds, way)
                cpu.add(used * GIB / taken["memory_bytes"], ways=way)

    @staticmethod
    def write_seconds(trial):
        """Of 1 GiB. Disks that are rented have a share to use up: what comes first is quicker than what follows, so the
        reference is taken before and after."""
        seconds = reference("write", trial, 1024)
        os.unlink(trial)
        return seconds

    def four_ranks(self):
        still = self.row("stand-still, 4 ranks x 512 MiB, full (CRIU 4.2.1 on this machine: 0.89 s)", 0.08, unit="ms",
                         scale=1e3)
        with MemoryJob(self.work, 512, ranks=4) as job:
            job.checkpoint()
            for _ in range(self.rounds):
                taken = job.checkpoint()
                still.add(taken["stand_still_ms"] / 1e3, ways={taken["snapshot"]})

    def little_dirty(self):
        still = Row("stand-still, 4 GiB at 1 % dirty, incremental", 0.025, unit="ms", scale=1e3)
        written = Row("bytes written at 1 % dirty, against the dirty bytes", 1.1, unit="MiB", scale=1 / (1 << 20))
        with MemoryJob(self.work, 4096, percent=1, increments=True) as job:
            job.checkpoint()
            for _ in range(self.rounds):
                job.dirty()
                taken = job.checkpoint()
                if job.manifest_of(taken)["parent"] == 0:
                    return  # no increments in this version
                way = {taken["snapshot"]}
                still.add(taken["stand_still_ms"] / 1e3, ways=way)
                written.add(os.stat(job.image_of(taken)).st_blocks * 512, (4 << 30) / 100, way)
        self.rows += [still, written]

    def memory_folder(self):
        row = self.row("request -> durable in tmpfs, 1 GiB full, against memcpy", None, higher=True)
        folder = tempfile.mkdtemp(prefix="fermata-bench-", dir="/dev/shm")
        self.stack.callback(shutil.rmtree, folder, ignore_errors=True)
        with MemoryJob(self.work, 1024, checkpoints=folder) as job:
            job.checkpoint()
            for _ in range(self.rounds):
                taken = job.checkpoint()
                row.add(taken["seconds"], reference("copy", 1024), {taken["snapshot"]})
        shutil.rmtree(folder, ignore_errors=True)

    def restart(self):
        whole = self.row("restart to first instruction, 1 GiB, against O_DIRECT reads of the image", 0.8, higher=True)
        with MemoryJob(self.work, 1024) as job:
            image = job.image_of(job.checkpoint("--kill"))
            forget_cached(image)
            job.restart()
            for _ in range(self.rounds):
                forget_cached(image)
                before = reference("read", image)
                taken = job.restart()
                forget_cached(image)
                whole.add(taken, (before + reference("read", image)) / 2)
        if not knows("restart", "--lazy"):
            return
        for ranks in (1, 4):
            lazy = self.row(f"restart --lazy to first instruction, {ranks} x {1024 // ranks} MiB", 0.1 + 0.005 * ranks,
                            unit="ms", scale=1e3)
            with MemoryJob(self.work, 1024 // ranks, ranks=ranks) as job:
                image = job.image_of(job.checkpoint("--kill"))
                for _ in range(self.rounds):
                    forget_cached(image)
                    lazy.add(job.restart("--lazy"))

    # Programs that compute

    def lammps_input(self, steps):
        path = os.path.join(self.work, f"in.melt.{steps}")
        with open(LAMMPS_INPUT) as given, open(path, "w") as file:
            text = given.read()
            check(re.search(r"^run\s+\d+$", text, re.MULTILINE), f"{LAMMPS_INPUT} has another form than expected")
            blocks = f"run {WARM_UP_STEPS}\n" + f"run {max(1, steps // BLOCKS)}\n" * BLOCKS
            file.write(re.sub(r"^run\s+\d+$", blocks, text, flags=re.MULTILINE))
        return path

    def lammps(self, steps):
        return ["lmp", "-in", self.lammps_input(steps), "-log", "none"]

    @staticmethod
    def lammps_steps(out):
        """Seconds a step of each block that is over, the one that warms up left out."""
        loops = re.findall(r"Loop time of ([\d.]+) on \d+ procs for (\d+) steps", out)
        return [float(seconds) / int(steps) for seconds, steps in loops[1:]]

    @staticmethod
    def stencil_steps(out):
        """Seconds of each sweep, the first few left out."""
        times = [float(time) for time in re.findall(r"^sweep \d+ ([\d.]+)", out, re.MULTILINE)]
        return [then - now for now, then in zip(times[WARM_UP_SWEEPS:], times[WARM_UP_SWEEPS + 1:])]

    def run_time(self):
        stencil = os.path.join(BIN, "bench-stencil")
        programs = {
            "LAMMPS melt, 4 ranks": (self.lammps, 4, 10000, self.lammps_steps, BLOCKS),
            "a memory-bound stencil, 512 MiB": (lambda sweeps: [stencil, "512", str(sweeps)], 1, 100,
                                                self.stencil_steps, 0),
        }
        for name, (command, ranks, trial, steps_of, blocks) in programs.items():
            _, out, _ = self.run(command(trial), ranks)
            amount = int(self.run_seconds / statistics.median(steps_of(out)))
            half = (blocks or amount) // 2
            with_sets = self.row(f"run time of {name}, with a set every 10 s, against none", 1.05)
            armed = Row(f"run time of {name}, tracking armed and no set, against none", 1.01, unit="ms a step",
                        scale=1e3)
            for _ in range(self.rounds):
                alone, out, _ = self.run(command(amount), ranks)
                held, _, ways = self.run(command(amount), ranks, interval="10s")
                with_sets.add(held, alone, ways)
                if not knows("run", "--track"):
                    continue
                marks = []
                _, tracked, _ = self.run(command(amount), ranks, inside=lambda job: marks.extend(
                    self.arm(job, steps_of, half)))
                begun, done = marks
                before, after = self.parts(steps_of(tracked), begun, done)
                # As much as it would have taken: a program's steps can become slower or quicker by themselves.
                before_alone, after_alone = self.parts(steps_of(out), begun, done)
                armed.add(after, before * after_alone / before_alone)
            if armed.measured:
                self.rows.append(armed)

    @staticmethod
    def parts(steps, begun, done):
        """Of the steps before `begun`, and of those from `done` on, the median."""
        return statistics.median(steps[:begun]), statistics.median(steps[done:])

    def run(self, command, ranks, **options):
        """Seconds, output, and how the snapshots of its sets were taken."""
        folder = Folder(self.work)
        try:
            seconds, out = run_seconds(folder, command, ranks=ranks, **options)
            return seconds, out, ways_of_sets(folder)
        finally:
            folder.remove()

    @staticmethod
    def arm(job, steps_of, half):
        """One set when half of the steps are done: from then on pages are tracked, in the same process. How many were
        done before it, and when the next begun after it is over."""
        job.wait_started()
        begun = wait_until(lambda: (done := len(steps_of(read(job.out)))) >= half and done, 120, "half of the steps")
        job.must_checkpoint()
        return begun, len(steps_of(read(job.out))) + 1

    # Growth

    def growth(self):
        sizes = [(64, 1), (512, 1), (2048, 1)] if self.quick else \
            [(64, 1), (128, 1), (256, 1), (512, 1), (1024, 1), (2048, 1), (4096, 1), (8192, 1)]
        ranks = [(64, 1), (64, 4), (64, 16), (64, 32)] if self.quick else \
            [(64, 1), (64, 2), (64, 4), (64, 8), (64, 16), (64, 32)]
        for mebibytes, count in dict.fromkeys(sizes + ranks):
            with MemoryJob(self.work, mebibytes, ranks=count) as job:
                job.checkpoint()
                for _ in range(3):
                    taken = job.checkpoint()
                    self.points.append(growth.Point(mebibytes << 20, count, taken["stand_still_ms"] / 1e3,
                                                    taken["seconds"]))

    def growth_picture(self):
        return growth.Picture(self.points) if self.points else None
