#!/usr/bin/env python3
"""Random fault schedules: traffic between ranks (traffic.c) on a network that loses, delays, reorders and doubles packets
or goes away, with ranks that die, stop, or run out of descriptors or memory.

  faults.py --traffic PROGRAM --wire PROGRAM [--seeds 100] [--first 1] [--only SEED...] [--jobs 4]
            [--where namespaces|wire] [--faults FAULT...] [--replay SEED]

A schedule follows from its seed. Under a mild one (nothing that a network does not do by itself) the traffic must
succeed. Under a severe one each rank ends in success or in one clear error within the bound. Under both, data that is
wrong or was acknowledged and then lost, a crash, and a hang are failures; the seed is printed, --replay runs it again and
tells all.

namespaces: ranks in network namespaces of this host that wire.c joins, over UCX's TCP. wire: two RDMA devices on one
link, as scripts/softroce --nodes 2 makes them, over verbs. Needs root. Exit status 77: it cannot run here.
"""
import argparse
import concurrent.futures
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

MILD_TIMEOUT_S, SEVERE_TIMEOUT_S = 30, 3
SLACK_S = 15        # what a loaded machine may add to the bound of an error
WATCHDOG_S = 150    # a rank that lives longer hangs
OUTAGE_MAX_S = 1.2  # what connections survive; a loaded machine may take longer to bring the link up again
PROGRESS = 10       # schedules between two lines that tell how far it is
STAGES = {"pair": ["start", "created", "addressed", "connecting", "ready", "half", "flush", "done"],
          "job": ["start", "joined", "created", "half", "done"]}
FAULTS = ["kill", "kill-stage", "stop", "stop-stage", "cut", "files"]


def run(*command, check=True):
    return subprocess.run(command, check=check, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL if not check else None).returncode


class Namespaces:
    """Two network namespaces and a cable between them (wire.c)."""
    transport = {"WEIR_TRANSPORT": "ucx", "WEIR_INTRANODE": "off", "UCX_TLS": "tcp,self"}
    address = ["10.79.0.1", "10.79.0.2"]
    more_faults = ["memory"]
    # Without memory for a connection's first buffers UCX 1.13 tries for ever; Weir looks before it connects, not then.
    spared = {"memory": "connecting"}

    def __init__(self, options, number):
        self.names = [f"weirfault{os.getpid()}.{number}.{side}" for side in (0, 1)]
        for name in self.names:
            run("ip", "netns", "add", name)
        self.cable = subprocess.Popen([options.wire, *self.names, "cable"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      text=True)
        if self.cable.stdout.readline() != "ready\n":
            raise OSError("no cable between the namespaces")
        for name, address in zip(self.names, self.address):
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            run("ip", "-n", name, "link", "set", "cable", "up")

    def close(self):
        self.cable.stdin.close()
        self.cable.wait()
        for name in self.names:
            run("ip", "netns", "del", name, check=False)

    def command(self, side, command):
        return ["ip", "netns", "exec", self.names[side], *command]

    def environment(self, side):
        return {**self.transport, "TRAFFIC_ADDRESS": self.address[side], "MASTER_ADDR": self.address[0]}

    def tell_cable(self, line):
        self.cable.stdin.write(line + "\n")
        self.cable.stdin.flush()

    def shape(self, shape):
        self.tell_cable(f"shape {shape.delay_ms * 1000} {shape.jitter_ms * 1000} {shape.reorder * 10000} "
                        f"{int(shape.loss * 10000)} {shape.duplicate * 10000} {shape.seed}")

    def link(self, state):
        self.tell_cable("join" if state == "up" else "cut")


class Wire:
    """The two soft-RoCE devices of scripts/softroce --nodes 2."""
    more_faults = ["memory", "memlock"]
    spared = {}

    def __init__(self, _options, _number):
        self.address = [os.environ["WEIR_SOFTROCE_NODE0"], os.environ["WEIR_SOFTROCE_NODE1"]]
        self.netem = []

    def close(self):
        self.apply([])

    def command(self, _side, command):
        return command

    def environment(self, side):
        return {"WEIR_TRANSPORT": "verbs", "WEIR_INTRANODE": "off", "WEIR_DEVICE": f"rxe{side}",
                "WEIR_INTERFACE": self.address[side], "TRAFFIC_ADDRESS": self.address[side], "MASTER_ADDR": "127.0.0.1"}

    @staticmethod
    def apply(netem):
        """One process for both: each takes its time under emulation."""
        commands = "".join(f"qdisc replace dev {link} root netem limit 10000 {' '.join(netem)}\n"
                           for link in ("weirv0", "weirv1"))
        subprocess.run(["tc", "-batch", "-"], input=commands, text=True, check=True)

    def shape(self, shape):
        self.netem = shape.netem()
        self.apply(self.netem)

    def link(self, state):
        """
        Down means that nothing gets through, as behind a switch; the ports stay up. tests/softroce/events.sh takes these down.
        It cannot be done here: when the connection manager sends something meanwhile, for which there is no route then, rdma_rxe
        6.1 takes none of its messages any more, for good.
        """
        self.apply(self.netem if state == "up" else ["loss", "100%"])


class Shape:
    """What a network does to packets by itself."""

    def __init__(self, r, delay_ms, reorders):
        reorders = reorders and delay_ms > 0 and r.random() < 0.5
        self.delay_ms = delay_ms
        self.jitter_ms = max(1, delay_ms // 5) if reorders else 0
        self.reorder = r.randint(1, 30) if reorders else 0                               # percent
        self.loss = r.choice([0.1, 0.5, 1, 2, 5]) if r.random() < 0.7 else 0
        self.duplicate = r.randint(1, 5) if r.random() < 0.3 else 0
        self.seed = r.randrange(1 << 30)

    def netem(self):
        words = ["delay", f"{self.delay_ms}ms"]
        if self.jitter_ms:
            words += [f"{self.jitter_ms}ms", "reorder", f"{self.reorder}%"]
        for name in ("loss", "duplicate"):
            if getattr(self, name):
                words += [name, f"{getattr(self, name)}%"]
        return words

    def __str__(self):
        return " ".join(self.netem())


class Schedule:
    """What happens in a run; a pure function of the seed."""

    def __init__(self, seed, where, allowed=None):
        self.allowed = allowed
        r = random.Random(seed)
        self.seed = seed
        self.kind = r.choice(["pair", "pair", "job"])
        self.ranks = 4 if self.kind == "job" and where is Namespaces else 2
        self.mild = r.random() < 0.4
        delay = r.choice([0, 0, 0, 1, 10, 50])
        self.steps = r.randint(20, 60) if delay >= 10 else r.randint(100, 3000)
        if where is Wire: # emulated, and each lost packet costs it a timeout
            self.steps = 10 + self.steps // (2 if delay >= 10 else 10)
        self.connect = "cm" # how verbs connections of a job are made
        # Reliable connections take a packet out of order for a loss and count it as a retry: it is no mild fault to them.
        reorders = where is Namespaces or not self.mild
        self.shape = Shape(r, delay, reorders)
        self.faults = {}    # rank: what strikes it from within
        self.victim = None # a rank that does not end by itself
        self.events = []    # (seconds, what, argument)
        if r.random() < 0.5:
            at = r.uniform(0, 1.5)
            self.events += [(at, "link", "down"), (at + r.uniform(0.05, 1.0), "link", "up")]
        if r.random() < 0.5:
            self.events.append((r.uniform(0, 1.5), "shape", Shape(r, delay, reorders)))
        if not self.mild:
            self.make_severe(r, where)
        self.events.sort(key=lambda event: event[0])
        if where is Wire and self.kind == "job":
            self.connect = r.choice(["cm", "store"])

    def make_severe(self, r, where):
        rank, at = r.randrange(self.ranks), r.uniform(0, 1.5)
        what = r.choice(self.allowed or FAULTS + where.more_faults)
        if what == "cut":
            self.events = [event for event in self.events if event[1] != "link"] + [(at, "link", "down")]
        elif what in ("kill", "stop"):
            self.victim = rank
            self.events.append((at, what, rank))
        else:
            what = what.split("-")[0]
            stages = [stage for stage in STAGES[self.kind] if stage != where.spared.get(what)]
            self.faults[rank] = f"{what}:{r.choice(stages)}"
            if what in ("kill", "stop"):
                self.victim = rank

    @property
    def timeout_s(self):
        return MILD_TIMEOUT_S if self.mild else SEVERE_TIMEOUT_S

    def __str__(self):
        faults = "".join(f"; rank {rank}: {fault}" for rank, fault in self.faults.items())
        events = "".join(f"; {at:.2f} s: {what} {argument}"
                         for at, what, argument in self.events)
        by_store = " connected through the store" if self.connect == "store" else ""
        return (f"seed {self.seed}: {'mild' if self.mild else 'severe'} {self.kind}, {self.ranks} ranks{by_store}, "
                f"{self.steps} steps; {self.shape}{faults}{events}")


class Run:
    """One schedule carried out."""

    def __init__(self, schedule, net, traffic):
        self.schedule, self.net, self.traffic = schedule, net, traffic
        self.dir = tempfile.mkdtemp(prefix="weirfault")
        self.ranks, self.logs = [], []
        self.complaints, self.errors, self.late_s = [], 0, 0.0
        self.start_s = self.down_s = time.monotonic()
        self.outage_s = 0.0
        self.struck = [] # when faults from within came, in seconds

    def start(self):
        s = self.schedule
        self.net.shape(s.shape)
        port = str(20000 + (s.seed * 7 + os.getpid()) % 9000)
        for rank in range(s.ranks):
            side = rank * 2 // s.ranks
            log = open(os.path.join(self.dir, f"log.{rank}"), "w+", encoding="utf-8", errors="replace")
            environment = {**os.environ, **self.net.environment(side), "RANK": str(rank), "WORLD_SIZE": str(s.ranks),
                           "LOCAL_RANK": str(rank % max(1, s.ranks // 2)), "MASTER_PORT": port,
                           "WEIR_TIMEOUT": f"{s.timeout_s}s", "WEIR_VERBS_CONNECT": s.connect}
            if rank in s.faults:
                environment["TRAFFIC_FAULT"] = s.faults[rank]
            command = [self.traffic, s.kind, self.dir, str(rank), str(s.seed), str(s.steps)]
            self.logs.append(log)
            self.ranks.append(subprocess.Popen(self.net.command(side, command), env=environment, stdout=log,
                                               stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL))

    def has_ended(self, rank):
        return self.ranks[rank].poll() is not None or os.path.exists(os.path.join(self.dir, f"ended.{rank}"))

    def end_victim(self, rank):
        """Once the others have ended: a stopped rank is killed, and what it would have left is left for it."""
        self.ranks[rank].send_signal(signal.SIGKILL)
        self.ranks[rank].wait()

    def apply(self, what, argument):
        if what == "link":
            self.down_s = time.monotonic() if argument == "down" else self.down_s
            self.net.link(argument)
            self.outage_s = time.monotonic() - self.down_s
        elif what == "shape":
            self.net.shape(argument)
        else:
            self.ranks[argument].send_signal(signal.SIGKILL if what == "kill" else signal.SIGSTOP)

    def attend(self):
        s, start, events = self.schedule, time.monotonic(), list(self.schedule.events)
        while any(process.poll() is None for process in self.ranks):
            now = time.monotonic() - start
            while events and events[0][0] <= now:
                self.apply(*events.pop(0)[1:])
            for rank, process in enumerate(self.ranks):
                if process.poll() is not None:
                    open(os.path.join(self.dir, f"ended.{rank}"), "a", encoding="utf-8").close()
            if s.victim is not None and self.ranks[s.victim].poll() is None and \
                    all(self.has_ended(rank) for rank in range(s.ranks) if rank != s.victim):
                self.end_victim(s.victim)
            if now > WATCHDOG_S:
                self.complaints.append(f"hangs: {[rank for rank in range(s.ranks) if self.ranks[rank].poll() is None]}")
                self.kill_all()
            time.sleep(0.01)

    def kill_all(self):
        for process in self.ranks:
            if process.poll() is None:
                process.kill()
                process.wait()

    def judge_rank(self, rank, text):
        s, status = self.schedule, self.ranks[rank].returncode
        if status == -signal.SIGKILL and (rank == s.victim or self.complaints):
            return
        outcome = [line for line in text.splitlines() if line.startswith("outcome ")]
        if status != 0 or len(outcome) != 1:
            what = f"signal {-status}" if status < 0 else f"status {status}"
            self.complaints.append(f"rank {rank}: {what}, {len(outcome)} outcomes")
            return
        _, code, milliseconds, sentence = outcome[0].split(" ", 3)
        if code == "0":
            return
        self.errors += 1
        if s.mild and self.outage_s <= OUTAGE_MAX_S:
            self.complaints.append(f"rank {rank} failed without need: {sentence}")
        elif len(sentence) < 20:
            self.complaints.append(f"rank {rank}: no clear error: {sentence}")
        if s.faults and not self.struck:
            return # it had not come yet: the error is the network's, who knows since when
        last_event = max([at for at, _, _ in s.events] + self.struck, default=0)
        late = int(milliseconds) / 1000 - last_event - 2 * s.timeout_s
        self.late_s = max(self.late_s, late)
        if late > SLACK_S:
            self.complaints.append(f"rank {rank}: its error came {late:.1f} s after the bound: {sentence}")

    def carry_out(self):
        try:
            self.start()
            self.attend()
            if any(event[1:] == ("link", "down") for event in self.schedule.events):
                self.net.link("up")
            texts = []
            for log in self.logs:
                log.seek(0)
                texts.append(log.read())
                self.struck += [int(line.split()[2]) / 1000 for line in texts[-1].splitlines() if line.startswith("stage ")]
            for rank, text in enumerate(texts):
                self.judge_rank(rank, text)
        finally:
            self.kill_all()

    def tell(self):
        for rank, log in enumerate(self.logs):
            log.seek(0)
            for line in log.read().splitlines()[-12:]:
                print(f"  [{rank}] {line}")

    def close(self):
        for log in self.logs:
            log.close()
        shutil.rmtree(self.dir, ignore_errors=True)


class Campaign:
    def __init__(self, options):
        self.options, self.lock = options, threading.Lock()
        self.where = Namespaces if options.where == "namespaces" else Wire
        self.seeds = iter(options.only or range(options.first, options.first + options.seeds))
        if options.replay:
            self.seeds = iter([options.replay])
        self.done = self.mild = self.errors = 0
        self.failed, self.late_s, self.start_s = [], 0.0, time.monotonic()
        self.slowest = (0.0, 0) # seconds, seed

    def account(self, run_):
        self.done += 1
        self.mild += run_.schedule.mild
        self.errors += run_.errors > 0
        self.late_s = max(self.late_s, run_.late_s)
        self.slowest = max(self.slowest, (time.monotonic() - run_.start_s, run_.schedule.seed))
        if run_.complaints:
            self.failed.append(run_.schedule.seed)
        if run_.complaints or self.options.replay:
            print(run_.schedule)
            for complaint in run_.complaints:
                print(f"  FAILED: {complaint}")
            run_.tell()
        if self.done % PROGRESS == 0:
            print(f"{self.done} schedules in {time.monotonic() - self.start_s:.0f} s, {self.errors} ended in an error, "
                  f"{len(self.failed)} failed; the slowest so far: seed {self.slowest[1]}, {self.slowest[0]:.0f} s")
        sys.stdout.flush()

    def work(self, number):
        net = self.where(self.options, number)
        try:
            while True:
                with self.lock:
                    seed = next(self.seeds, None)
                if seed is None:
                    return
                run_ = Run(Schedule(seed, self.where, self.options.faults), net, self.options.traffic)
                try:
                    run_.carry_out()
                    with self.lock:
                        self.account(run_)
                finally:
                    run_.close()
        finally:
            net.close()

    def run(self):
        jobs = 1 if self.options.replay or self.where is Wire else self.options.jobs
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            for future in [pool.submit(self.work, number) for number in range(jobs)]:
                future.result()
        print(f"{self.done} schedules in {time.monotonic() - self.start_s:.0f} s: {self.mild} mild, {self.done - self.mild} severe; "
              f"{self.errors} ended in an error, {len(self.failed)} failed; the latest error came "
              f"{max(0.0, self.late_s):.1f} s after twice the timeout")
        if self.failed:
            print("failing seeds:", *sorted(self.failed))
        return 1 if self.failed else 0


def cannot_run(where):
    """The reason, or None."""
    if os.geteuid() != 0:
        return "network namespaces and link faults need root"
    if where == "wire":
        return None if "WEIR_SOFTROCE_NODE1" in os.environ else "run it by scripts/softroce --nodes 2"
    if not os.access("/dev/net/tun", os.W_OK):
        return "there is no /dev/net/tun"
    probe = f"weirprobe{os.getpid()}"
    if run("ip", "netns", "add", probe, check=False) != 0:
        return "network namespaces cannot be made here"
    entered = run("ip", "netns", "exec", probe, "true", check=False) == 0
    run("ip", "netns", "del", probe, check=False)
    return None if entered else "network namespaces cannot be entered here; in a chroot / is no mount point"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traffic", required=True)
    parser.add_argument("--wire", help="the program that joins two namespaces")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="+", help="these seeds")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--where", choices=["namespaces", "wire"], default="namespaces")
    parser.add_argument("--faults", nargs="+", choices=FAULTS + Wire.more_faults, help="severe ones to choose from")
    parser.add_argument("--replay", type=int)
    options = parser.parse_args()
    why = cannot_run(options.where)
    if why:
        print(f"skipped: {why}")
        return 77
    return Campaign(options).run()


if __name__ == "__main__":
    sys.exit(main())
