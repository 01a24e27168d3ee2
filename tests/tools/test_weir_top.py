#!/usr/bin/env python3
"""`weir top` in front of what does not mean well: test_weir_top.py WEIR"""
import os
import socket
import subprocess
import sys
import threading
import time
import unittest

WEIR = sys.argv.pop(1)
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Server:
    """Answers one request with pieces, which a function gives."""

    def __init__(self, pieces):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, args=(pieces,), daemon=True)
        self.thread.start()

    def serve(self, pieces):
        with self.listener:
            connection, _ = self.listener.accept()
        with connection:
            try:
                for piece in pieces():
                    connection.sendall(piece)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
            except OSError:
                pass

    def top(self):
        return subprocess.run([WEIR, "top", "--once", str(self.port)], capture_output=True, timeout=60)


class Hostile(unittest.TestCase):
    def test_nothing_reaches_the_terminal_but_text(self):
        line = b'weir_operations_total{rank="\x9b2J",peer="\x1b[2J\xc2\x9b",transport="shm\x7f",operation="put"} 5\n'
        done = Server(lambda: [HEAD + line]).top()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(b"shm?", done.stdout)
        self.assertTrue(all(byte == 10 or 32 <= byte < 127 for byte in done.stdout), done.stdout)

    def test_latencies_are_separated(self):
        text = b"".join(b'weir_operation_seconds_bucket{rank="0",operation="%s",le="%s"} 5\n' % (operation, bound)
                        for operation in (b"get", b"put") for bound in (b"1e-06", b"+Inf"))
        done = Server(lambda: [HEAD + text]).top()
        self.assertIn(b" get 1 us 1 us; put 1 us 1 us\n", done.stdout)

    def test_one_who_answers_without_end_is_given_up(self):
        def trickle():
            yield HEAD
            while True:
                yield b"# so it goes\n"
                time.sleep(0.2)

        start = time.monotonic()
        done = Server(trickle).top()
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"timed out", done.stderr)
        self.assertLess(time.monotonic() - start, 30)

    def test_what_is_not_http_is_told(self):
        for answer in b"", b"HTTP/1.", b"\r\n\r\n", b"HTTP/1.1 404 Not Found\r\n\r\n", b"SSH-2.0\r\n":
            done = Server(lambda answer=answer: [answer]).top()
            self.assertEqual(done.returncode, 1)
            self.assertIn(b"does not serve metrics", done.stderr)

    def test_what_is_no_metrics_is_told(self):
        done = Server(lambda: [b"HTTP/1.0 200 OK\r\n\r\nhello\n"]).top()
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"no metrics of Weir's", done.stderr)
        done = subprocess.run([WEIR, "top", "--once", "/etc/passwd"], capture_output=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"no metrics of Weir's", done.stderr)

    def test_places(self):
        try:
            listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        except OSError as error:
            self.skipTest(f"no IPv6: {error}")
        with listener:
            server = Server.__new__(Server)
            server.listener = listener
            port = listener.getsockname()[1]
            threading.Thread(target=server.serve, args=(lambda: [HEAD, b"weir_messages_received_total 1\n"],), daemon=True).start()
            done = subprocess.run([WEIR, "top", "--once", f"[::1]:{port}"], capture_output=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stderr)
        for port in "0", "65536", "99999999999999999999":
            done = subprocess.run([WEIR, "top", "--once", port], capture_output=True, timeout=60)
            self.assertEqual(done.returncode, 1)
            self.assertIn(b"not a port", done.stderr)

    @unittest.skipUnless(os.path.exists("/dev/full"), "there is no /dev/full")
    def test_what_cannot_be_written_is_no_success(self):
        for arguments in ["--help"], ["info", "--env"], ["top", "--help"]:
            with open("/dev/full", "wb") as full:
                done = subprocess.run([WEIR, *arguments], stdout=full, stderr=subprocess.PIPE, timeout=60)
            self.assertEqual(done.returncode, 1)
            self.assertIn(b"cannot be written", done.stderr)


unittest.main()
