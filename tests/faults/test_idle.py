#!/usr/bin/env python3
"""Connections on which nothing happens notice within WEIR_TIMEOUT that the network is gone for ever: initiators by an
error, targets by letting their part go. And a peer that is only stopped is not taken for dead.

  test_idle.py --idle PROGRAM --wire PROGRAM [--where namespaces|wire]

The places are those of faults.py. Exit status 77: it cannot run here.
"""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import faults

TIMEOUT_S = {"namespaces": 3, "wire": 12}  # an emulated device needs patience, and so longer pauses between its tries
IDLE_S = 5   # longer than a peer that is gone goes unnoticed
SLACK_S = 8  # for a loaded machine


class Pair:
    """Two ranks, connected and idle."""

    def __init__(self, net, program, timeout_s, one_way):
        self.net, self.dir = net, tempfile.mkdtemp(prefix="weiridle")
        self.ranks = []
        for side in (0, 1):
            environment = {**os.environ, **net.environment(side), "WEIR_TIMEOUT": f"{timeout_s}s"}
            if one_way:
                environment["TRAFFIC_ONE_WAY"] = "1"
            if one_way and side == 1 and isinstance(net, faults.Wire):
                environment["TRAFFIC_LINGER"] = "1"
            self.ranks.append(subprocess.Popen(net.command(side, [program, self.dir, str(side)]), env=environment,
                                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for rank in self.ranks:
            line = rank.stdout.readline()
            if not line.startswith("idle "):
                raise AssertionError(f"no connection: {line}")

    def cut(self):
        self.net.link("down")
        for rank in self.ranks:
            rank.stdin.write("cut\n")
            rank.stdin.flush()

    def ends(self):
        return [rank.communicate(timeout=150)[0].splitlines() for rank in self.ranks]

    def close(self):
        for rank in self.ranks:
            rank.kill()
            rank.wait()
        self.net.link("up")
        shutil.rmtree(self.dir, ignore_errors=True)


def check_failed(lines, rank, options):
    failed = [line for line in lines if line.startswith("failed ")]
    assert failed, f"rank {rank}: {lines}"
    milliseconds = int(failed[0].split()[1])
    assert 0 <= milliseconds <= (TIMEOUT_S[options.where] + SLACK_S) * 1000, f"rank {rank}: {failed[0]}"
    print(f"rank {rank}: {failed[0]}")


def check_left(lines, rank):
    """The descriptors of connections from a dead peer are closed again, where a transport has any."""
    assert lines and lines[-1].startswith("left "), f"rank {rank}: {lines}"
    print(f"rank {rank}: {lines[-1]}")
    assert int(lines[-1].split()[1]) <= 0, f"rank {rank}: {lines[-1]}"


def queue_pairs(pid):
    text = subprocess.run(["rdma", "-j", "resource", "show", "qp"], check=True, capture_output=True, text=True).stdout
    return sum(entry.get("pid") == pid for entry in json.loads(text))


def check_queue_pairs(pair, options):
    """Over verbs: the target has no queue pair any more, within the bound."""
    end, pid = time.monotonic() + TIMEOUT_S[options.where] + SLACK_S, pair.ranks[1].pid
    assert queue_pairs(pid) > 0, "the target's queue pairs are not seen"
    while queue_pairs(pid) > 0:
        assert time.monotonic() < end, f"the target still has {queue_pairs(pid)} queue pairs"
        time.sleep(0.1)


def test_both(net, options):
    pair = Pair(net, options.idle, TIMEOUT_S[options.where], one_way=False)
    try:
        time.sleep(IDLE_S)
        pair.cut()
        for rank, lines in enumerate(pair.ends()):
            check_failed(lines, rank, options)
            check_left(lines, rank)
    finally:
        pair.close()


def test_target(net, options):
    pair = Pair(net, options.idle, TIMEOUT_S[options.where], one_way=True)
    try:
        pair.cut()
        if options.where == "wire":
            check_queue_pairs(pair, options)
        initiator, target = pair.ends()
        check_failed(initiator, 0, options)
        check_left(target, 1)
    finally:
        pair.close()


def test_stopped(net, options):
    pair = Pair(net, options.idle, TIMEOUT_S[options.where], one_way=False)
    try:
        pair.ranks[1].send_signal(signal.SIGSTOP)
        time.sleep(IDLE_S)
        pair.ranks[1].send_signal(signal.SIGCONT)
        pair.ranks[0].send_signal(signal.SIGKILL)
        lines = pair.ends()
        assert not lines[0], f"rank 0 took its stopped peer for dead: {lines[0]}"
        check_left(lines[1], 1)
    finally:
        pair.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle", required=True)
    parser.add_argument("--wire", help="the program that joins two namespaces")
    parser.add_argument("--where", choices=["namespaces", "wire"], default="namespaces")
    parser.add_argument("tests", nargs="*", default=["both", "target", "stopped"])
    options = parser.parse_args()
    why = faults.cannot_run(options.where)
    if why:
        print(f"skipped: {why}")
        return 77
    net = (faults.Namespaces if options.where == "namespaces" else faults.Wire)(options, 0)
    try:
        for name in options.tests:
            print(f"{name}:", flush=True)
            globals()[f"test_{name}"](net, options)
    finally:
        net.close()
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
