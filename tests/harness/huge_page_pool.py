"""Huge pages of the machine's pool (MAP_HUGETLB of mmap(2)), for the test drivers.

The pool is the machine's: one test has it at a time, whatever ctest that is of, by a lock on its folder. It is given back also
when the test is killed, by a process that waits for that and holds the lock until it is done.
"""
import contextlib
import fcntl
import os
import subprocess
import sys
import time

from fermata_job import SLOWDOWN, Failure, read, wait_until

POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB"
SIZE = f"{POOL}/nr_hugepages"


def number(name):
    """For a moment the kernel may have less than none reserved (Linux 6.18): that is none."""
    value = int(read(f"{POOL}/{name}"))
    return value if value < 1 << 63 else 0


def available():
    """Pages that nobody has or has reserved."""
    return number("free_hugepages") - number("resv_hugepages")


def used():
    return number("nr_hugepages") - available()


def write(path, value):
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(str(value))
    except OSError as error:
        raise Failure(f"tests of huge pages need a machine that lets root write {path}: {error.strerror}") from None


def add_pages(pages):
    """Has so many more available than there are."""
    wanted = available() + pages
    for _ in range(60 * SLOWDOWN):
        write(SIZE, number("nr_hugepages") + max(wanted - available(), 0))
        if available() >= wanted:
            return
        write("/proc/sys/vm/compact_memory", 1)
        time.sleep(0.5)
    raise Failure(f"the kernel has no memory in one piece for {pages} huge pages of 2 MiB, also after it was asked to compact it "
                  f"(vm.compact_memory): it lacks {wanted - available()}; free some, or set vm.nr_hugepages at boot")


def take_turn(folder):
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("waiting for the test that has the huge pages", flush=True)
        fcntl.flock(folder, fcntl.LOCK_EX)


def caretaker(folder):
    """Gives the pool its size of now once its input ends, which our death does, too; its output ends when it is done. No child
    of ours, so that who ends all of these leaves it."""
    command = f"cat; echo {number('nr_hugepages') - number('surplus_hugepages')} >{SIZE}"
    started = subprocess.Popen(["setsid", "--fork", "sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, pass_fds=[folder])
    if started.wait() != 0:
        raise Failure("starting the process that gives the huge pages back")
    return started


@contextlib.contextmanager
def huge_page_pool(pages):
    """While the block runs the machine has `pages` more huge pages of 2 MiB, and no other test has any. Around run_test: waiting
    for its turn is no part of a test's time. Ends the test where there are no such pages, and where some are left in use. With
    none the pool is left alone."""
    if pages == 0:
        yield
        return
    if not os.path.exists(POOL):
        sys.exit(f"this kernel has no huge pages of 2 MiB: there is no {POOL} (CONFIG_HUGETLBFS)")
    folder = os.open(POOL, os.O_RDONLY | os.O_DIRECTORY)
    take_turn(folder)
    with caretaker(folder) as giving_back:
        os.close(folder)  # the lock is the caretaker's
        before = used()
        try:
            try:
                add_pages(pages)
                yield
            finally:
                wait_until(lambda: used() <= before, 20, "the huge pages that the test had to be free")
        except Failure as failure:
            sys.exit(str(failure))
        finally:
            giving_back.stdin.close()
            giving_back.stdout.read()
