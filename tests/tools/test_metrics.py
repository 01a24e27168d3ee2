#!/usr/bin/env python3
"""What is seen of a job from outside: metrics by file and over HTTP, `weir top`, the trace. usage: test_metrics.py WEIR WEIR_PERF"""
import json
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
import time
import unittest

WEIR, PERF = sys.argv[1:3]
LINE = re.compile(r'weir_[a-z_]+\{rank="\d+"(,[a-z]+="[^"]*")*\} [-+0-9.e]+(\n|$)')


def free_ports(count):
    """The first of some ports in a row that nobody uses."""
    for first in range(21000 + os.getpid() % 9000, 60000, 7):
        sockets = []
        try:
            for port in range(first, first + count):
                one = socket.socket()
                sockets.append(one)
                one.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise OSError("no free ports")


def http(port, request):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while True:
            more = connection.recv(65536)
            if not more:
                return answer.decode()
            answer += more


def check_text(test, text):
    """The text is what Prometheus reads: every metric is declared once, before its lines."""
    declared = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ", 3)
            test.assertNotIn(name, declared)
            declared[name] = kind
        elif not line.startswith("# HELP "):
            test.assertRegex(line, LINE)
            name = line.split("{")[0]
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            test.assertTrue(name in declared or declared.get(base) == "histogram", line)
    for match in re.finditer(r'_bucket\{rank="(\d+)",operation="(\w+)",le="\+Inf"\} (\d+)', text):
        rank, operation, count = match.groups()
        test.assertIn(f'weir_operation_seconds_count{{rank="{rank}",operation="{operation}"}} {count}', text)
        buckets = [int(n) for n in re.findall(rf'rank="{rank}",operation="{operation}",le="[^"]+"\}} (\d+)', text)]
        test.assertEqual(buckets, sorted(buckets))


class Job:
    """A benchmark that runs for some seconds, or until it is told to end."""

    def __init__(self, folder, iterations, **env):
        self.process = subprocess.Popen([PERF, "put_bw", "-s", "64K", "-n", str(iterations)], cwd=folder,
                                        env={**os.environ, "WEIR_TRANSPORT": "shm", **env}, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.05)
    raise TimeoutError(condition)


def top(*arguments):
    return subprocess.run([WEIR, "top", *arguments], capture_output=True, text=True, timeout=30)


class Metrics(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def read(self, name):
        with open(self.path(name), encoding="utf-8") as file:
            return file.read()

    def test_files_are_whole_and_say_it_all_at_the_end(self):
        with Job(self.folder, 3000, WEIR_METRICS_FILE="m.prom", WEIR_METRICS_INTERVAL="100ms") as job:
            _, errors = job.process.communicate(timeout=60)
            self.assertEqual(job.process.returncode, 0, errors)
        text = self.read("m.0.prom")
        check_text(self, text)
        check_text(self, self.read("m.1.prom"))
        count = int(re.search(r'weir_operations_total\{rank="0",peer="1",transport="shm",operation="put"\} (\d+)', text)[1])
        self.assertGreaterEqual(count, 3000)
        self.assertIn(f'operation_bytes_total{{rank="0",peer="1",transport="shm",operation="put"}} {count * 65536}', text)
        self.assertFalse([name for name in os.listdir(self.folder) if name.endswith(".new")])

    def test_what_is_no_file_is_not_replaced(self):
        os.mkfifo(self.path("m.0.prom"))
        os.symlink("elsewhere", self.path("m.1.prom"))
        with Job(self.folder, 100, WEIR_METRICS_FILE="m.prom") as job:
            _, errors = job.process.communicate(timeout=60)
        self.assertEqual(errors.count("no regular file"), 2, errors)
        self.assertTrue(stat.S_ISFIFO(os.lstat(self.path("m.0.prom")).st_mode))
        self.assertTrue(os.path.islink(self.path("m.1.prom")))

    def test_http_serves_each_rank_and_nothing_else(self):
        port = free_ports(2)
        with Job(self.folder, 100000000, WEIR_METRICS_LISTEN=str(port)) as job:
            until(lambda: top("--once", f"{port}-{port + 1}").stdout.count("shm") == 2)
            for rank in (0, 1):
                answer = http(port + rank, b"GET /metrics HTTP/1.0\r\n\r\n")
                head, body = answer.split("\r\n\r\n", 1)
                self.assertRegex(head, r"^HTTP/1.[01] 200")
                self.assertIn("text/plain; version=0.0.4", head)
                self.assertIn(f'rank="{rank}"', body)
                check_text(self, body)
            self.assertRegex(http(port, b"GET / HTTP/1.0\r\n\r\n"), r"^HTTP/1.[01] 404")
            self.assertRegex(http(port, b"POST /metrics HTTP/1.0\r\nContent-Length: 4\r\n\r\nxxxx"), r"^HTTP/1.[01] 405")
            http(port, os.urandom(300) + b"\r\n\r\n")  # whatever comes of it,
            self.assertRegex(http(port, b"GET /metrics HTTP/1.0\r\n\r\n"), r"^HTTP/1.[01] 200")  # the next one is served
            self.assertIsNone(job.process.poll())

            seen = top("-n", "2", "-i", "200ms", f"127.0.0.1:{port}-{port + 1}")
            self.assertEqual(seen.returncode, 0, seen.stderr)
            self.assertRegex(seen.stdout, r"0\s+1\s+shm\s+[\d.]+[KM]\s+[\d.]+[MGT]\s+0\s+0")
            self.assertRegex(seen.stdout, r"put [\d.]+ us [\d.]+ us")

    def test_who_holds_connections_keeps_no_other_address_from_its_own(self):
        port = free_ports(2)
        with Job(self.folder, 100000000, WEIR_METRICS_LISTEN=str(port)) as job:
            until(lambda: "shm" in top("--once", f"{port}").stdout)
            held = [socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0)) for _ in range(100)]
            for one in held:
                try:
                    one.sendall(b"GET /me")
                except OSError:  # turned away already
                    pass
            self.assertRegex(http(port, b"GET /metrics HTTP/1.0\r\n\r\n"), r"^HTTP/1.[01] 200")
            self.assertIsNone(job.process.poll())
            for one in held:
                one.close()

    def test_a_port_in_use_is_told_and_stops_nobody(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with Job(self.folder, 100, WEIR_METRICS_LISTEN=str(taken.getsockname()[1])) as job:
                _, errors = job.process.communicate(timeout=60)
                self.assertEqual(job.process.returncode, 0, errors)
        self.assertIn("cannot listen", errors)
        with Job(self.folder, 100, WEIR_METRICS_LISTEN="65535") as job:
            _, errors = job.process.communicate(timeout=60)
            self.assertEqual(job.process.returncode, 0, errors)
        self.assertIn("with the local rank added the port is beyond 65535", errors)

    def test_what_is_no_place_to_listen_is_refused(self):
        with Job(self.folder, 100, WEIR_METRICS_LISTEN="nonsense") as job:
            _, errors = job.process.communicate(timeout=60)
            self.assertNotEqual(job.process.returncode, 0)
        self.assertIn("WEIR_METRICS_LISTEN=nonsense: not a place to listen; use e.g. 9400", errors)

    def test_a_folder_that_is_not_there_is_told_and_stops_nobody(self):
        with Job(self.folder, 100, WEIR_METRICS_FILE="no/folder/m", WEIR_TRACE="no/folder/t.json") as job:
            _, errors = job.process.communicate(timeout=60)
            self.assertEqual(job.process.returncode, 0, errors)
        self.assertIn("WEIR_METRICS_FILE=no/folder/m.0: No such file", errors)
        self.assertIn("WEIR_TRACE=no/folder/t.0.json: No such file", errors)

    def test_trace_has_operations_and_collectives(self):
        env = {**os.environ, "WEIR_TRANSPORT": "shm", "WEIR_TRACE": self.path("t.json")}
        subprocess.run([PERF, "allreduce", "-s", "1M", "-n", "50"], env=env, check=True, timeout=60, stdout=subprocess.DEVNULL)
        for rank in (0, 1):
            events = json.loads(self.read(f"t.{rank}.json"))
            spans = [event for event in events if event["ph"] == "X"]
            self.assertTrue(all(event["pid"] == rank and event["dur"] >= 0 for event in spans))
            self.assertLess(abs(spans[-1]["ts"] / 1e6 - time.time()), 60)  # real time
            reduced = [event for event in spans if event["name"] == "allreduce"]
            self.assertGreaterEqual(len(reduced), 50)
            self.assertEqual(reduced[0]["args"], {"count": 262144, "status": "success"})
            put = next(event for event in spans if event["name"] == "put_signal")
            self.assertEqual((put["cat"], put["args"]["peer"]), ("shm", 1 - rank))
            inside = any(one["ts"] <= put["ts"] and put["ts"] + put["dur"] <= one["ts"] + one["dur"]
                         for one in spans if one["cat"] == "collective")
            self.assertTrue(inside)

    def test_trace_of_a_killed_process_can_be_read(self):
        with Job(self.folder, 100000000, WEIR_TRACE="t.%r.json"):
            until(lambda: os.path.exists(self.path("t.0.json")) and os.path.getsize(self.path("t.0.json")) > 1 << 20)
        text = self.read("t.0.json")
        if not text.endswith("]\n"):  # killed as it wrote: all but the last event are whole
            text = text[:text.rindex("\n,{")] + "\n]"
        self.assertGreater(len(json.loads(text)), 1000)

    def test_top_reads_what_others_write_and_survives_nonsense(self):
        lines = ['weir_operations_total{rank="3",peer="4",transport="verbs",operation="put"} 1e3 1395066363000',
                 '  weir_operation_bytes_total { rank = "3" , peer="4",transport="verbs" } 2000000', "other_metric 5",
                 'weir_operations_total{rank="3"', 'weir_operations_total{rank="3",peer=4} 9', "weir_{}", "{", "weir_x{} NaN",
                 'weir_operations_total{' + ",".join(f'l{i}="{i}"' for i in range(99)) + "} 1", "weir_a" * 50 + " 1",
                 'weir_sleeps_total{rank="\x1b[31mred"} 1', 'weir_sleeps_total{rank="' + "x" * 500 + '"} 1']
        with open(self.path("odd"), "wb") as file:
            file.write("\n".join(lines).encode() + b"\n" + os.urandom(5000) + b"\0weir_sleeps_total{ra")
        seen = top("--once", self.path("odd"))
        self.assertEqual(seen.returncode, 0, seen.stderr)
        self.assertRegex(seen.stdout, r"3\s+4\s+verbs\s+1.0K\s+2.0M")
        self.assertNotIn("\x1b", seen.stdout)

    def test_top_says_what_is_wrong(self):
        for arguments, status, text in ((["--once", "/nonexistent/m"], 1, "No such file"), ([], 2, "no SOURCE"),
                                        (["--interval", "x", "1"], 2, "not an interval"), (["9-3"], 2, "range"),
                                        (["-n", "0", "1"], 2, "not a number"), (["--bogus"], 2, "unrecognized")):
            seen = top(*arguments)
            self.assertEqual(seen.returncode, status, seen)
            self.assertIn(text, seen.stderr)
        self.assertIn("usage: weir top", top("--help").stdout)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
