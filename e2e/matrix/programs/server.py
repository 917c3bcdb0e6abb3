"""A threaded web server that has its state and its timers in memory alone.

POST /add  appends a value and says how many there are
GET /state says everything: see State.describe
"""

import http.server
import hashlib
import json
import os
import signal
import threading
import time
import uuid

EVERY = 0.1  # seconds between two ticks of each timer


class State:
    def __init__(self):
        self.lock = threading.Lock()
        self.nonce = str(uuid.uuid4())
        self.values = []
        self.ticks = {"thread": 0, "itimer": 0, "timerfd": 0}
        self.backwards = 0  # times that the monotonic clock went back

    def add(self):
        with self.lock:
            self.values.append(f"value-{len(self.values) + 1}")
            return self.numbers()

    def numbers(self):
        return [len(self.values), self.ticks["thread"], self.ticks["itimer"], self.ticks["timerfd"]]

    def describe(self):
        with self.lock:
            return {
                "nonce": self.nonce,
                "numbers": self.numbers(),
                "digest": hashlib.sha256("\n".join(self.values).encode()).hexdigest(),
                "backwards": self.backwards,
                "threads": threading.active_count(),
            }


STATE = State()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay, each with its thread

    def do_POST(self):
        self.answer({"numbers": STATE.add()})

    def do_GET(self):
        self.answer(STATE.describe())

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def sleeping_thread():
    last = time.monotonic()
    while True:
        time.sleep(EVERY)
        now = time.monotonic()
        STATE.backwards += now < last
        last = now
        STATE.ticks["thread"] += 1


def timerfd_thread():
    fd = os.timerfd_create(time.CLOCK_MONOTONIC)
    os.timerfd_settime(fd, initial=EVERY, interval=EVERY)
    while True:
        # What is read is how often the timer has expired since.
        STATE.ticks["timerfd"] += int.from_bytes(os.read(fd, 8), "little")


def on_alarm(number, frame):
    STATE.ticks["itimer"] += 1


signal.signal(signal.SIGALRM, on_alarm)
signal.setitimer(signal.ITIMER_REAL, EVERY, EVERY)
for target in (sleeping_thread, timerfd_thread):
    threading.Thread(target=target, daemon=True).start()
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
