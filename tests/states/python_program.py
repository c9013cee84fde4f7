"""A Python program with threads, a subprocess, a socket pair, an open file and some megabytes of objects."""
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time

state = os.environ["FERMATA_STATE_DIR"]


def finish(text, code):
    with open(os.path.join(state, "result.part"), "w") as result:
        result.write(text + "\n")
    os.rename(os.path.join(state, "result.part"), os.path.join(state, "result"))
    sys.exit(code)


def check(condition, sentence):
    if not condition:
        finish("FAIL: " + sentence, 1)


def go():
    return os.path.exists(os.path.join(state, "go"))


objects = {number: str(number) * 5 for number in range(100000)}
digest = hashlib.sha256("".join(objects.values()).encode()).hexdigest()
child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
left, right = socket.socketpair()
counts = [0]


def count():
    while not go():
        counts[0] += 1
        time.sleep(0.001)


thread = threading.Thread(target=count)
thread.start()
with open(os.path.join(state, "lines"), "w+") as lines:
    lines.write("before\n")
    left.sendall(b"waiting")
    last = time.monotonic()
    open(os.path.join(state, "ready"), "w").close()
    while not go():
        check(time.monotonic() >= last, "the monotonic clock went back")
        last = time.monotonic()
        time.sleep(0.002)
    thread.join()
    check(counts[0] > 0, "the thread did nothing")
    check(right.recv(100) == b"waiting", "the socket lost its bytes")
    lines.write("after\n")
    lines.seek(0)
    check(lines.read() == "before\nafter\n", "the file holds something else")
output, _ = child.communicate(b"through cat")
check(output == b"through cat" and child.returncode == 0, "the subprocess gave %r" % output)
check(hashlib.sha256("".join(objects.values()).encode()).hexdigest() == digest, "objects changed")
finish("PASS", 0)
