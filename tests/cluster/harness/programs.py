"""What runs in the cluster, and how its result is read from its output."""
import os
import re

from fermata_job import BIN, Failure, check, read

RESULT = re.compile(r"^\w+: ranks \d+ iterations \d+ result [0-9a-f]{16}$", re.MULTILINE)
MELT = "/usr/share/lammps/examples/melt/in.melt"


class MpiProgram:
    """One of tests/mpi or tests/cluster that takes ITERATIONS [DELAY_US] and prints a result line. The delay does not
    change the result."""

    def __init__(self, name, iterations, delay_us, arguments=()):
        folder = "cluster" if os.path.exists(os.path.join(BIN, "cluster", name)) else "mpi"
        self.name = name
        self.path = os.path.join(BIN, folder, name)
        self.iterations = iterations
        self.delay_us = delay_us
        self.arguments = [str(argument) for argument in arguments]

    def of_size(self, iterations):
        return MpiProgram(self.name, iterations, self.delay_us, self.arguments)

    def prepare(self, folder):
        """Makes what a run in this folder needs."""

    def command(self, folder, fast=False):
        del folder
        return [self.path, str(self.iterations), str(0 if fast else self.delay_us), *self.arguments]

    def progress(self, folder, output):
        """A number that grows while the program runs (and may fall at a restart)."""
        del folder
        return [int(number) for number in re.findall(r"iteration (\d+) of", output)]

    def result(self, folder, output):
        """It may stand in the output of several starts: a cut can come after it was printed and before the end."""
        del folder
        lines = set(RESULT.findall(output))
        check(len(lines) == 1, f"{self.name}: expected one result line, found {sorted(lines)}; output: {output[-2000:]}")
        return lines.pop()


class EndlessRing(MpiProgram):
    """The ring, which goes on until it is told to stop: on no machine is it too fast or too slow for what is done to it. Its
    result is the one of `untouched` with it."""

    def __init__(self, delay_us, mib=0):
        """mib: memory of each rank that it writes at its start and looks at when it ends."""
        super().__init__("ring", 1 << 40, delay_us)
        self.mib = mib

    def stop(self, folder):
        open(os.path.join(folder, "stop"), "w").close()

    def command(self, folder, fast=False):
        return [*super().command(folder, fast), os.path.join(folder, "stop"), str(self.mib)]

    def untouched(self, result):
        """The run that has to have this result."""
        return MpiProgram("ring", int(re.search(r"iterations (\d+)", result).group(1)), 0)


class Lammps:
    """The melt example; its result is the thermo table, to the last digit."""

    name = "lammps"

    def __init__(self, steps):
        self.steps = self.iterations = steps

    def of_size(self, steps):
        return Lammps(steps // 50 * 50)

    def prepare(self, folder):
        text = re.sub(r"^run\s.*$", f"run {self.steps}", read(MELT), flags=re.MULTILINE)
        if f"run {self.steps}" not in text:
            raise Failure(f"{MELT} of lammps-examples has another form than expected")
        with open(os.path.join(folder, "in.melt"), "w") as file:
            file.write(text)

    def command(self, folder, fast=False):
        del fast
        return ["lmp", "-in", os.path.join(folder, "in.melt"), "-log", os.path.join(folder, "log.lammps")]

    def table(self, folder):
        found = re.search(r"^ *Step .*?(?=^Loop time)", read(os.path.join(folder, "log.lammps")), re.MULTILINE | re.DOTALL)
        return found.group(0) if found else ""

    def progress(self, folder, output):
        del output
        return [int(number) for number in
                re.findall(r"^ +(\d+) +-?\d+\.?\d* .*$", read(os.path.join(folder, "log.lammps")), re.MULTILINE)]

    def result(self, folder, output):
        table = self.table(folder)
        lines = table.count("\n")
        check(lines >= self.steps // 50 + 2, f"lammps: {lines} lines of thermo table; output: {output[-2000:]}")
        return table


class ByteStream:
    """tests/cluster/byte_stream, which goes on until it is told to stop; its result is the number of words."""

    name = "byte_stream"

    def __init__(self, connections):
        self.connections = connections

    def prepare(self, folder):
        """Nothing is needed."""

    def stop(self, folder):
        open(os.path.join(folder, "stop"), "w").close()

    def command(self, folder, fast=False):
        del fast
        return [os.path.join(BIN, "cluster", "byte_stream"), str(self.connections), os.path.join(folder, "stop")]

    def progress(self, folder, output):
        del folder
        return [int(number) for number in re.findall(r"byte_stream: (\d+) MB received", output)]

    def result(self, folder, output):
        del folder
        found = re.findall(r"byte_stream: ranks \d+ connections \d+: (\d+) words, every one in its place", output)
        check(len(found) == 1, f"expected one last line, found {found}; output: {output[-2000:]}")
        return int(found[0])
