"""The rows of scripts/bench's table. A row that this version of fermata cannot do is not there."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import growth
from fermata_job import BIN, check, read, wait_until
from held import GIB, Folder, MemoryJob, Row, forget_cached, knows, reference, run_seconds

LAMMPS_INPUT = "/usr/share/lammps/examples/melt/in.melt"
WARM_UP_STEPS = 2000


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
        self.run_seconds = 11 if quick else 32
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
            reference("write", trial, 1024)
            ways = set()
            for _ in range(self.rounds):
                os.unlink(trial)
                seconds = reference("write", trial, 1024)
                fork = job.fork_seconds()
                taken = job.checkpoint()
                ways.add(taken["snapshot"])
                still.add(taken["stand_still_ms"] / 1e3, fork)
                durable.add(taken["seconds"], seconds)
                cpu.add(taken["cpu_seconds"] * GIB / taken["memory_bytes"])
            still.note = "by " + ", ".join(sorted(ways))
        os.unlink(trial)

    def four_ranks(self):
        still = self.row("stand-still, 4 ranks x 512 MiB, full (CRIU 4.2.1 on this machine: 0.89 s)", 0.08, unit="ms",
                         scale=1e3)
        with MemoryJob(self.work, 512, ranks=4) as job:
            job.checkpoint()
            for _ in range(self.rounds):
                still.add(job.checkpoint()["stand_still_ms"] / 1e3)

    def little_dirty(self):
        still = Row("stand-still, 4 GiB at 1 % dirty, incremental", 0.025, unit="ms", scale=1e3)
        written = Row("bytes written at 1 % dirty, against the dirty bytes", 1.1, unit="MiB", scale=1 / (1 << 20))
        with MemoryJob(self.work, 4096, percent=1, increments=True) as job:
            job.checkpoint()
            ways = set()
            for _ in range(self.rounds):
                job.dirty()
                taken = job.checkpoint()
                if job.manifest_of(taken)["parent"] == 0:
                    return  # no increments in this version
                ways.add(taken["snapshot"])
                still.add(taken["stand_still_ms"] / 1e3)
                written.add(os.stat(job.image_of(taken)).st_blocks * 512, (4 << 30) / 100)
            still.note = "by " + ", ".join(sorted(ways))
        self.rows += [still, written]

    def memory_folder(self):
        row = self.row("request -> durable in tmpfs, 1 GiB full, against memcpy", None, higher=True)
        folder = tempfile.mkdtemp(prefix="fermata-bench-", dir="/dev/shm")
        self.stack.callback(shutil.rmtree, folder, ignore_errors=True)
        with MemoryJob(self.work, 1024, checkpoints=folder) as job:
            job.checkpoint()
            for _ in range(self.rounds):
                row.add(job.checkpoint()["seconds"], reference("copy", 1024))
        shutil.rmtree(folder, ignore_errors=True)

    def restart(self):
        whole = self.row("restart to first instruction, 1 GiB, against O_DIRECT reads of the image", 0.8, higher=True)
        with MemoryJob(self.work, 1024) as job:
            image = job.image_of(job.checkpoint("--kill"))
            forget_cached(image)
            job.restart()
            for _ in range(self.rounds):
                forget_cached(image)
                seconds = reference("read", image)
                whole.add(job.restart(), seconds)
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
            file.write(re.sub(r"^run\s+\d+$", f"run {WARM_UP_STEPS}\nrun {steps}", text, flags=re.MULTILINE))
        return path

    def lammps(self, steps):
        return ["lmp", "-in", self.lammps_input(steps), "-log", "none"]

    @staticmethod
    def lammps_rate(out):
        """Steps a second of the second run."""
        loops = re.findall(r"Loop time of ([\d.]+) on \d+ procs for (\d+) steps", out)
        return int(loops[-1][1]) / float(loops[-1][0])

    @staticmethod
    def stencil_rate(out):
        """Sweeps a second, the first quarter left out."""
        marks = [(int(n), float(t)) for n, t in re.findall(r"^sweep (\d+) ([\d.]+)", out, re.MULTILINE)]
        first, last = marks[len(marks) // 4], marks[-1]
        return (last[0] - first[0]) / (last[1] - first[1])

    def run_time(self):
        stencil = os.path.join(BIN, "bench-stencil")
        programs = {
            "LAMMPS melt, 4 ranks": (self.lammps, 4, 10000, self.lammps_rate, "Step"),
            "a memory-bound stencil, 512 MiB": (lambda sweeps: [stencil, "512", str(sweeps)], 1, 100, self.stencil_rate,
                                                "sweep"),
        }
        for name, (command, ranks, trial, rate, begun) in programs.items():
            _, out = self.run(command(trial), ranks)
            amount = int(rate(out) * self.run_seconds)
            with_sets = self.row(f"run time of {name}, with a set every 10 s, against none", 1.05)
            armed = Row(f"run time of {name}, tracking armed and no set, against none", 1.01)
            for _ in range(self.rounds):
                alone, out = self.run(command(amount), ranks)
                held, _ = self.run(command(amount), ranks, interval="10s")
                with_sets.add(held, alone)
                if knows("run", "--track"):
                    _, tracked = self.run(command(amount), ranks, inside=lambda job: self.arm(job, begun))
                    armed.add(1 / rate(tracked), 1 / rate(out))
            if armed.measured:
                armed.unit, armed.scale = "ms a step", 1e3
                self.rows.append(armed)

    def run(self, command, ranks, **options):
        folder = Folder(self.work)
        try:
            return run_seconds(folder, command, ranks=ranks, **options)
        finally:
            folder.remove()

    @staticmethod
    def arm(job, begun):
        """One set in the part of a run that is not timed: from then on pages are tracked."""
        job.wait_started()
        wait_until(lambda: begun in read(job.out), 60, "the program to begin")
        job.must_checkpoint()

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
