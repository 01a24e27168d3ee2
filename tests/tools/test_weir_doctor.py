#!/usr/bin/env python3
"""`weir doctor` on a host: what must be mended is made for real (limits, firewall, interfaces, /proc), in namespaces of the
test's own; adapters that are not here come as a tree of files like theirs. Those of soft-RoCE: doctor_guest.py."""
import errno
import functools
import os
import pathlib
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

import doctor as shared

TOOL, OTHER_VERSION = sys.argv.pop(1), sys.argv.pop(1)
doctor = functools.partial(shared.doctor, TOOL)


def free_port():
    """Free on all addresses, as the store binds to all, and none of those that the kernel gives to connections and listeners of
    other tests meanwhile, nor to the connection itself, which then is one with itself."""
    both = socket.has_dualstack_ipv6()
    while True:
        try:
            with socket.create_server(("", random.randrange(10000, 32000)), family=socket.AF_INET6 if both else socket.AF_INET,
                                      dualstack_ipv6=both) as server:
                return server.getsockname()[1]
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise


def namespaces_work():
    return os.geteuid() == 0 and subprocess.run(["unshare", "-nm", "true"], capture_output=True).returncode == 0


def in_namespace(script, *arguments, **variables):
    """The doctor in network and mount namespaces of its own, after `script` has set them up."""
    prefix = ["unshare", "-nm", "sh", "-ec", script + '\nexec "$@"', "sh"]
    return doctor(*arguments, prefix=prefix, **variables)


NETWORK = "mount -t sysfs none /sys; ip link set lo up; ip tuntap add eth7 mode tap; ip addr add 10.78.0.1/24 dev eth7; ip link set eth7 up"


class Called(unittest.TestCase):
    def run_tool(self, *arguments, **variables):
        return subprocess.run([TOOL, "doctor", *arguments], env=shared.environment(**variables), capture_output=True,
                              encoding="utf-8", timeout=60)

    def test_help(self):
        result = self.run_tool("--help")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertIn("usage: weir doctor", result.stdout)

    def test_wrong_calls_give_2(self):
        for arguments, why in ((["--nonsense"], "unknown option '--nonsense'"), (["--to"], "--to needs a value"),
                               (["--port", "0"], "--port 0: not a port"), (["--port", "x"], "--port x: not a port"),
                               (["--peer", "a:0"], "--peer a:0: not a host and port"),
                               (["--peer", "[::1"], "--peer [::1: not a host and port"),
                               (["--serve", "--peer", "a"], "exclude each other")):
            result = self.run_tool(*arguments)
            self.assertEqual(result.returncode, 2)
            self.assertIn(why, result.stderr)

    def test_a_bad_variable_is_told(self):
        for name, value, complaint in (("WEIR_CHUNK", "12Q", "not a size; use e.g. 256K"),
                                       ("WEIR_NUMA", "foo", "not a choice; use auto, off or the number of a node"),
                                       ("WEIR_METRICS_LISTEN", "::1:9400", "not a place to listen; use e.g. 9400, "
                                                                           "0.0.0.0:9400 or [::]:9400")):
            result = self.run_tool("--no-trial", **{name: value})
            self.assertEqual(result.returncode, 1)
            self.assertEqual(result.stderr, f"weir doctor: {name}={value}: {complaint}\n")
            report = doctor("--no-trial", **{name: value})
            self.assertEqual((report.level("values"), report.status), ("fail", 1))
            self.assertIn(f"{name}={value}: {complaint}", report.text("values"))

    def test_names_that_lead_nowhere_are_told(self):
        report = doctor("--no-trial", WEIR_MASTER_ADDR="nonsense.invalid")
        self.assertEqual((report.level("master"), report.status), ("fail", 1))
        self.assertIn("the name nonsense.invalid cannot be resolved", report.text("master"))
        self.assertIn("a host is wanted here, without a port", doctor("--no-trial", "--to", "127.0.0.1:80").text("route"))
        with tempfile.TemporaryDirectory() as empty:
            report = doctor("--root", empty, WEIR_DEVICE="mlx5_0:1", WEIR_TRANSPORT="auto")
            self.assertEqual(report.level("devices"), "warn")
            self.assertIn("WEIR_DEVICE=mlx5_0:1 names one", report.text("devices"))

    def test_values_that_fail_in_use_are_told(self):
        with tempfile.TemporaryDirectory() as folder:
            secret = pathlib.Path(folder, "secret")
            for text, mode, level in (("x" * 32, 0o600, "ok"), ("x" * 32, 0o644, "warn"), ("x" * 32, 0o602, "fail"),
                                      ("short", 0o600, "fail"), ("x" * 15 + "\n" * 5, 0o600, "fail"), (None, 0, "fail")):
                secret.unlink(missing_ok=True)
                if text:
                    secret.write_text(text, encoding="ascii")
                    secret.chmod(mode)
                report = doctor("--no-trial", WEIR_SECRET_FILE=str(secret), WEIR_TRANSPORT="shm")
                self.assertEqual((report.level("secret"), report.status), (level, level == "fail"), report.text("secret"))
            self.assertIn("No such file or directory -> ", report.text("secret"))
            secret.write_text("x" * 32, encoding="ascii")
            secret.chmod(0o600)
            report = doctor("--no-trial", WEIR_SECRET_FILE=str(secret), WEIR_TRANSPORT="ucx")
            self.assertEqual((report.level("secret"), report.status), ("note", 0), report.text("secret"))
            self.assertIn("UCX's own TCP ports ask nobody for the secret", report.text("secret"))
        for value, level in (("999", "fail"), ("0", "ok"), ("off", None)):
            self.assertEqual(doctor("--no-trial", WEIR_NUMA=value).level("numa"), level, value)

    def test_text_has_the_lines_of_the_json(self):
        text, report = self.run_tool("--no-trial"), doctor("--no-trial")
        self.assertEqual(text.returncode, report.status)
        self.assertNotIn("\033", text.stdout)
        for finding in report.findings:
            if finding["check"] == "clock": # has a measurement in it
                continue
            mend = f" -> {finding['mend']}" if finding["mend"] else ""
            self.assertIn(f"  {finding['level']:4}  {finding['check']:11} {finding['text']}{mend}\n", text.stdout)

    def test_every_fail_and_warn_says_what_to_do(self):
        for transport in ("auto", "verbs", "ucx", "shm"):
            report = doctor("--no-trial", WEIR_TRANSPORT=transport)
            for finding in report.findings:
                if finding["level"] in ("warn", "fail") and finding["area"] != "transports":
                    self.assertTrue(finding["mend"], finding)


class Transports(unittest.TestCase):
    def test_shm_and_ucx_are_tried(self):
        report = doctor(WEIR_TRANSPORT="ucx")
        self.assertIn("works on this host", report.text("shm"))
        self.assertIn("wrote 256 KiB", report.text("ucx"))

    @unittest.skipIf(os.path.isdir("/sys/class/infiniband"), "there are devices here")
    def test_ucx_over_ipv6_ends_with_a_word(self):
        """UCX 1.13 wrote behind the end of its memory where it listens on IPv6 and the interface has IPv4, too."""
        trial = subprocess.run([TOOL, "doctor", "--trial"], capture_output=True, text=True, timeout=60,
                               env=shared.environment(WEIR_TRANSPORT="ucx", WEIR_INTRANODE="off", WEIR_INTERFACE="::1"))
        self.assertEqual(trial.returncode, 0, trial.stderr)
        self.assertRegex(trial.stdout, "^(ok|fail) ")

    def test_no_device_is_a_note_unless_verbs_was_asked_for(self):
        report = doctor("--no-trial")
        self.assertEqual((report.level("devices"), report.level("verbs"), report.status), ("note", "note", 0))
        report = doctor("--no-trial", WEIR_TRANSPORT="verbs")
        self.assertEqual((report.level("devices"), report.level("verbs"), report.status), ("fail", "fail", 1))
        self.assertIn("modprobe rdma_rxe", report.text("devices"))
        self.assertEqual(report.all["worst"], "fail")

    def test_a_transport_that_cannot_start_is_told_with_its_reason(self):
        report = doctor(WEIR_TRANSPORT="ucx", UCX_TLS="nonsense")
        self.assertEqual((report.level("ucx"), report.status), ("fail", 1))
        self.assertEqual(doctor(WEIR_TRANSPORT="shm", UCX_TLS="nonsense").status, 0)


class Limits(unittest.TestCase):
    def limited(self, *limits, drop=False, **variables):
        prefix = ["prlimit", *limits]
        if drop and os.geteuid() == 0:
            prefix += ["setpriv", "--bounding-set=-ipc_lock"]
        return doctor("--no-trial", prefix=prefix, **variables)

    def test_few_files(self):
        report = self.limited("--nofile=64:64")
        self.assertEqual((report.level("open files"), report.status), ("fail", 1))
        self.assertRegex(report.text("open files"), "^64 can be open.* -> ulimit -n 4096")
        self.assertEqual(self.limited("--nofile=1000:1000").level("open files"), "warn")
        self.assertEqual(self.limited("--nofile=1000:1000", WEIR_WORLD_SIZE="512").level("open files"), "fail")
        self.assertEqual(self.limited("--nofile=4096:4096").level("open files"), "ok")

    def test_little_memory_to_lock(self):
        levels = {"verbs": "fail", "ucx": "note", "shm": "note"}
        for transport, level in levels.items():
            report = self.limited("--memlock=65536:65536", drop=True, WEIR_TRANSPORT=transport)
            self.assertEqual(report.level("memlock"), level)
        self.assertIn("64 KiB can be registered", report.text("memlock"))
        self.assertIn("ulimit -l unlimited", report.text("memlock"))
        for slab, level in (("2M", "warn"), ("4M", "fail")):
            report = self.limited("--memlock=7340032:7340032", drop=True, WEIR_TRANSPORT="verbs", WEIR_POOL_SLAB=slab)
            self.assertEqual(report.level("memlock"), level)

    @unittest.skipIf(os.geteuid() != 0, "needs root")
    def test_the_capability_lifts_the_limit(self):
        report = self.limited("--memlock=65536:65536", WEIR_TRANSPORT="verbs")
        self.assertEqual(report.level("memlock"), "ok")


@unittest.skipUnless(namespaces_work(), "needs root and namespaces")
class Network(unittest.TestCase):
    def test_all_is_well(self):
        report = in_namespace(NETWORK, "--no-trial")
        self.assertEqual((report.level("interface"), report.level("port")), ("ok", "ok"))
        self.assertIn("eth7 with 10.78.0.1", report.text("interface"))

    def test_no_interface(self):
        report = in_namespace("ip link set lo up", "--no-trial", WEIR_TRANSPORT="ucx")
        self.assertEqual((report.level("interface"), report.status), ("fail", 1))
        report = in_namespace("ip link set lo up", "--no-trial", WEIR_TRANSPORT="shm")
        self.assertEqual((report.level("interface"), report.status), ("note", 0))

    def test_wrong_interface(self):
        for setup, interface, told in (("", "eth8", r"there is no such interface or address -> take one of: eth7"),
                                       ("", "10.78.0.9", r"there is no such interface or address -> take one of: eth7"),
                                       ("; ip link set eth7 down", "eth7", r"it is down -> ip link set eth7 up"),
                                       ("; ip addr flush dev eth7", "eth7", r"it has no IP address -> ip addr add")):
            report = in_namespace(NETWORK + setup, "--no-trial", WEIR_INTERFACE=interface)
            self.assertEqual(report.fails(), ["interface"])
            self.assertRegex(report.text("interface"), rf"^WEIR_INTERFACE={interface}: {told}")

    def test_route_to_a_peer(self):
        report = in_namespace(NETWORK, "--no-trial", "--to", "10.78.0.2")
        self.assertEqual((report.level("route"), report.status), ("ok", 0))
        self.assertIn("out of eth7 with 10.78.0.1, MTU 1500", report.text("route"))
        report = in_namespace(NETWORK, "--no-trial", "--to", "192.168.5.5")
        self.assertEqual(report.fails(), ["route"])
        self.assertRegex(report.text("route"), "no route: .* -> add a route")

    def test_a_connection_with_itself_is_none(self):
        """Where nobody serves, the kernel may give a connection the very port that it goes to: here it has no other."""
        narrow = "; echo '29400 29400' > /proc/sys/net/ipv4/ip_local_port_range"
        report = in_namespace(NETWORK + narrow, "--no-trial", "--peer", "10.78.0.1:29400")
        self.assertEqual(report.fails(), ["port"])
        self.assertIn("refuses port 29400", report.text("port"))

    def test_name_that_is_none(self):
        report = in_namespace(NETWORK, "--no-trial", "--to", "no-such-host.invalid")
        self.assertEqual(report.fails(), ["route"])
        self.assertRegex(report.text("route"), "name no-such-host.invalid cannot be resolved")

    def test_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            report = doctor("--no-trial", "--port", str(port), WEIR_INTERFACE="127.0.0.1")
        self.assertEqual(report.level("port"), "note")
        self.assertIn(f"port {port} is in use", report.text("port"))

    @unittest.skipUnless(shutil.which("nft") or os.path.exists("/usr/sbin/nft"), "needs nft")
    def test_firewall(self):
        chain = NETWORK + "; nft 'add table inet f; add chain inet f in { type filter hook input priority 0; policy %s; }'; "
        closed = chain % "accept" + "nft add rule inet f in tcp dport %s %s"
        for port, verdict, why in (("29400", "drop", "timed out"), ("29000-30000", "drop", "timed out"),
                                   ("29400", "reject with tcp reset", "refused"), ("{ 80, 29400 }", "reject", "refused")):
            report = in_namespace(closed % (f"'{port}'", verdict), "--no-trial")
            self.assertEqual(report.fails(), ["port"])
            self.assertRegex(report.text("port"), f"{why}; a firewall is in between -> let TCP port 29400 in on eth7")
            self.assertEqual(report.level("firewall"), "warn")
            self.assertIn("inet f in: tcp dport", report.text("firewall"))
        report = in_namespace(closed % ("2222", "drop"), "--no-trial")
        self.assertEqual((report.level("port"), report.level("firewall")), ("ok", "ok"))
        self.assertIn("1 rule for other ports", report.text("firewall"))
        report = in_namespace(chain % "drop" + "nft add rule inet f in iif lo accept", "--no-trial")
        self.assertEqual((report.level("port"), report.level("firewall")), ("ok", "warn"))
        self.assertIn("inet f in drops what no rule accepts", report.text("firewall"))
        report = in_namespace(NETWORK + "; nft 'add table inet f; add chain inet f out { type filter hook output priority 0; "
                              "policy drop; }'", "--no-trial")
        self.assertEqual(report.level("firewall"), "ok")


@unittest.skipUnless(namespaces_work(), "needs root and namespaces")
class Host(unittest.TestCase):
    @unittest.skipIf(b"__asan_init" in pathlib.Path(TOOL).read_bytes(), "AddressSanitizer itself needs /proc")
    def test_without_proc(self):
        report = in_namespace(NETWORK + "; mount -t tmpfs none /proc", "--no-trial", WEIR_TRANSPORT="shm")
        self.assertEqual((report.level("processes"), report.level("sharing"), report.status), ("fail", "fail", 1))
        self.assertIn("mount -t proc", report.text("processes"))
        report = in_namespace(NETWORK + "; mount -t tmpfs none /proc", "--no-trial", WEIR_TRANSPORT="ucx", WEIR_INTRANODE="off")
        self.assertEqual((report.level("processes"), report.level("sharing")), ("note", "note"))

    def test_pid_namespace_of_its_own(self):
        report = doctor("--no-trial", prefix=["unshare", "-p", "-f", "--mount-proc"])
        self.assertEqual((report.level("processes"), report.level("sharing")), ("note", "ok"))

    def test_user_namespace(self):
        if subprocess.run(["unshare", "-Ur", "true"], capture_output=True).returncode:
            self.skipTest("no user namespaces here")
        report = doctor("--no-trial", prefix=["prlimit", "--memlock=65536:65536", "unshare", "-Ur"], WEIR_TRANSPORT="verbs")
        self.assertIn("user namespace", report.text("container"))
        self.assertEqual(report.level("memlock"), "fail")


class Peers(unittest.TestCase):
    """Two doctors on this host."""

    def meet(self, serve_variables=None, peer_variables=None, **both):
        both = {"WEIR_TIMEOUT": "20s", "WEIR_INTERFACE": "127.0.0.1", **both}
        return shared.meeting(TOOL, "127.0.0.1", free_port(), {**both, **(serve_variables or {})},
                              {**both, **(peer_variables or {})})

    def expect_measured(self, reports):
        for report in reports:
            self.assertEqual(report.status, 0, report.findings)
            for check in ("version", "connect", "latency", "write", "time"):
                self.assertIn(report.level(check), ("ok", "note"), report.findings)
            self.assertGreater(report.all["latency_us"], 0)
            self.assertLess(abs(report.all["clock_offset_us"]), 1e6)
        serve, came = reports
        self.assertEqual(serve.all["latency_us"], came.all["latency_us"])
        self.assertEqual(serve.all["to_peer_gb_s"], came.all["from_peer_gb_s"])
        self.assertEqual(serve.all["from_peer_gb_s"], came.all["to_peer_gb_s"])

    def test_over_shared_memory(self):
        reports = self.meet(WEIR_TRANSPORT="shm")
        self.expect_measured(reports)
        self.assertIn("shm by", reports[1].text("connect"))
        self.assertIn("WEIR_INTRANODE=off", reports[1].text("connect"))

    def test_over_ucx(self):
        reports = self.meet(WEIR_TRANSPORT="ucx", WEIR_INTRANODE="off", UCX_TLS="tcp,self")
        self.expect_measured(reports)
        self.assertRegex(reports[1].text("connect"), "here ucx by tcp/.*; there ucx by tcp/")

    def test_transports_that_differ(self):
        serve, came = self.meet({"WEIR_TRANSPORT": "shm"}, {"WEIR_TRANSPORT": "ucx"}, WEIR_INTRANODE="shm")
        self.assertEqual((serve.level("version"), came.level("version")), ("warn", "warn"))
        self.assertIn("WEIR_TRANSPORT is ucx here and shm there", came.text("version"))

    def test_versions_that_differ(self):
        serve, came = self.meet({"LD_PRELOAD": OTHER_VERSION, "ASAN_OPTIONS": "verify_asan_link_order=0"})
        for report in (serve, came):
            self.assertEqual(report.status, 1)
            self.assertEqual(report.level("version"), "fail")
            self.assertRegex(report.text("version"), r"libweir is \d+\.\S+ on .* and \d+\.\S+ on .*; install the same version")
            self.assertIn("99.0.0", report.text("version"))
            self.assertFalse(report.of("connect"))

    def test_a_transport_that_only_the_peer_lacks(self):
        serve, came = self.meet({"UCX_TLS": "nonsense"}, WEIR_TRANSPORT="ucx", WEIR_INTRANODE="off")
        self.assertEqual((serve.status, came.status), (1, 1))
        self.assertRegex(serve.text("transport"), "^here: UCX")
        self.assertRegex(came.text("transport"), f"^{re.escape(socket.gethostname())}: UCX")
        self.assertNotIn("here:", came.text("transport"))

    def test_nobody_serves(self):
        port = free_port()
        report = doctor("--no-trial", "--peer", f"127.0.0.1:{port}")
        self.assertEqual(report.fails(), ["port"])
        self.assertIn(f"refuses port {port}", report.text("port"))
        self.assertIn(f"weir doctor --serve --port {port}", report.text("port"))

    def test_a_connection_with_itself_is_none(self):
        """Where nobody serves, the kernel may give a connection the very port that it goes to: here it has no other."""
        narrow = "; echo '29400 29400' > /proc/sys/net/ipv4/ip_local_port_range"
        report = in_namespace(NETWORK + narrow, "--no-trial", "--peer", "10.78.0.1:29400")
        self.assertEqual(report.fails(), ["port"])
        self.assertIn("refuses port 29400", report.text("port"))

    def test_name_that_is_none(self):
        report = doctor("--no-trial", "--peer", "no-such-host.invalid:1234")
        self.assertEqual(report.fails(), ["route"])
        self.assertFalse([finding for finding in report.findings if finding["area"] == "peer"])

    def test_something_else_listens(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            def answer():
                while True:
                    try:
                        connection, _ = server.accept()
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" * 4)
                        connection.close()
                    except OSError:
                        return
            threading.Thread(target=answer, daemon=True).start()
            report = doctor("--no-trial", "--peer", f"127.0.0.1:{server.getsockname()[1]}", WEIR_TIMEOUT="3s")
            server.shutdown(socket.SHUT_RDWR)
        self.assertEqual(report.fails(), ["meeting"])

    def test_another_job_is_there(self):
        port = free_port()
        job = subprocess.Popen([TOOL, "doctor", "--serve", "--no-trial", "--port", str(port)], stdout=subprocess.PIPE,
                               env=shared.environment(WEIR_JOB_ID="one", WEIR_INTERFACE="127.0.0.1"))
        try:
            report = doctor("--no-trial", "--peer", f"127.0.0.1:{port}", WEIR_JOB_ID="two", WEIR_TIMEOUT="5s")
        finally:
            job.kill()
            job.communicate()
        self.assertEqual(report.fails(), ["meeting"])
        self.assertIn("WEIR_JOB_ID", report.text("meeting"))

    @unittest.skipUnless(namespaces_work() and os.path.exists("/usr/sbin/nft"), "needs root, namespaces and nft")
    def test_firewall_in_between(self):
        setup = (NETWORK + "; nft 'add table inet f; add chain inet f in { type filter hook input priority 0; }; add rule inet f "
                 "in ip daddr 10.78.0.1 tcp dport 29400 drop'")
        report = in_namespace(setup, "--no-trial", "--peer", "10.78.0.1")
        self.assertEqual(report.fails(), ["port"])
        self.assertIn("does not answer on port 29400 within 5 s", report.text("port"))


class Adapters(unittest.TestCase):
    """Trees of files as adapters show them in /sys, for what no machine of the tests has."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        self.write("proc/self/status", "")
        self.link("proc/self/ns/pid", "pid:[4026531836]")

    def write(self, path, text):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text + "\n", encoding="utf-8")

    def link(self, path, target):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).symlink_to(target)

    def port(self, device="mlx5_0", number=1, state="4: ACTIVE", physical="5: LinkUp", layer="Ethernet", netdev="ens1",
             gids=("fe80::1", "::ffff:10.0.0.5"), mtu=9000):
        port = f"sys/class/infiniband/{device}/ports/{number}/"
        for name, text in (("state", state), ("phys_state", physical), ("link_layer", layer),
                           ("rate", "100 Gb/sec (4X EDR)")):
            self.write(port + name, text)
        for index, gid in enumerate([*gids, "::"]):
            raw = socket.inet_pton(socket.AF_INET6, gid).hex()
            self.write(port + f"gids/{index}", ":".join(raw[i:i + 4] for i in range(0, 32, 4)))
            self.write(port + f"gid_attrs/types/{index}", "RoCE v2" if layer == "Ethernet" else "IB/RoCE v1")
            self.write(port + f"gid_attrs/ndevs/{index}", netdev)
        self.write(f"sys/class/net/{netdev}/mtu", str(mtu))
        self.write(f"sys/class/net/{netdev}/operstate", "up" if state == "4: ACTIVE" else "down")
        self.write("sys/class/infiniband_verbs/abi_version", "6")
        self.write("sys/class/infiniband_verbs/uverbs0/ibdev", device)
        self.write("sys/class/misc/rdma_cm/dev", "10:1")
        self.write(f"sys/class/infiniband/{device}/fw_ver", "20.31.1014")
        for name in ("rdma_cm", "uverbs0"):
            self.write("dev/infiniband/" + name, "")

    def examine(self, *arguments, transport="verbs", **variables):
        return doctor("--root", str(self.root), *arguments, WEIR_TRANSPORT=transport, **variables)

    def test_all_is_well(self):
        self.port()
        report = self.examine()
        self.assertIn("mlx5_0 (firmware 20.31.1014)", report.text("devices"))
        self.assertIn("mlx5_0:1 is ACTIVE, LinkUp, Ethernet on ens1, 100 Gb/sec", report.text("port"))
        self.assertIn("mlx5_0:1: 1 = 10.0.0.5 (RoCE v2)", report.text("gid"))
        self.assertIn("0 = fe80::1", report.text("gid"))
        self.assertIn("carry 4096 bytes", report.text("mtu"))
        self.assertFalse({"devices", "modules", "port", "gid", "mtu"} & set(report.fails()))

    def test_two_ports_of_which_one_is_down(self):
        self.port()
        self.port(number=2, state="1: DOWN", physical="3: Disabled", netdev="ens2")
        report = self.examine()
        self.assertEqual(report.level("port"), "note")
        self.assertIn("mlx5_0:2 is DOWN, physically Disabled (Ethernet, ens2) -> ip link set ens2 up", report.text("port"))
        report = self.examine(WEIR_DEVICE="mlx5_0:2")
        self.assertEqual(report.level("port"), "fail")
        report = self.examine(WEIR_DEVICE="mlx5_1,mlx5_0:3")
        self.assertIn("WEIR_DEVICE=mlx5_1,mlx5_0:3: there is no such port -> take one of: mlx5_0:1, mlx5_0:2",
                      report.text("port"))

    def test_subnet_manager_is_missing(self):
        self.port(state="2: INIT", layer="InfiniBand", netdev="ib0", gids=("fe80::2:c903:0:1",))
        report = self.examine()
        self.assertEqual(report.level("port"), "fail")
        self.assertIn("start a subnet manager", report.text("port"))

    def test_infiniband_takes_the_ports_own_gid(self):
        self.port(layer="InfiniBand", netdev="ib0", gids=("fe80::2:c903:0:1",), mtu=2044)
        report = self.examine()
        self.assertEqual((report.level("gid"), report.level("mtu")), ("ok", "ok"))

    def test_only_link_local_gids(self):
        self.port(gids=("fe80::1", "fe80::2"))
        report = self.examine()
        self.assertEqual(report.level("gid"), "fail")
        self.assertIn("no GID of an IP address that can be routed (there are: 0 = fe80::1, 1 = fe80::2) -> give ens1 one: "
                      "ip addr add ADDRESS/LENGTH dev ens1", report.text("gid"))
        self.assertEqual(self.examine(transport="auto").level("gid"), "warn")

    def test_mtu(self):
        for mtu, level, payload in ((1500, "warn", 1024), (1000, "warn", 512), (4191, "warn", 2048), (4192, "ok", 4096),
                                    (300, "fail", None)):
            self.port(mtu=mtu)
            report = self.examine()
            self.assertEqual(report.level("mtu"), level)
            self.assertIn(f"carry {payload} bytes" if payload else "too small", report.text("mtu"))

    def test_adapter_without_driver(self):
        for name, text in (("vendor", "0x15b3"), ("class", "0x020000")):
            self.write("sys/bus/pci/devices/0000:3b:00.0/" + name, text)
        report = self.examine(transport="auto")
        self.assertEqual(report.level("devices"), "warn")
        self.assertIn("0000:3b:00.0 is an adapter of Mellanox/NVIDIA -> modprobe mlx5_ib", report.text("devices"))

    def test_missing_modules_and_files(self):
        self.port()
        shutil.rmtree(self.root / "sys/class/misc")
        (self.root / "dev/infiniband/uverbs0").unlink()
        report = self.examine()
        self.assertIn("not loaded: rdma_ucm -> modprobe -a rdma_ucm", report.text("modules"))
        self.assertRegex(report.text("files"), r"/dev/infiniband/uverbs0 is missing -> modprobe -a ib_uverbs rdma_ucm$")

    def test_containers_have_mends_of_their_own(self):
        for kind, marker, device, memlock in (
                ("docker", ".dockerenv", "docker run --device=/dev/infiniband", "docker run --ulimit memlock=-1"),
                ("podman", "run/.containerenv", "podman run --device=/dev/infiniband", "podman run --ulimit memlock=-1"),
                ("kubernetes", "var/run/secrets/kubernetes.io/x", "device plugin", "add: [IPC_LOCK]")):
            with self.subTest(kind):
                self.setUp()
                self.port()
                (self.root / "proc/self/ns/pid").unlink()
                self.link("proc/self/ns/pid", "pid:[4026532999]")
                self.write(marker, "")
                shutil.rmtree(self.root / "dev")
                prefix = ["prlimit", "--memlock=65536:65536"]
                if os.geteuid() == 0:
                    prefix += ["setpriv", "--bounding-set=-ipc_lock"]
                report = self.examine(prefix=prefix)
                self.assertEqual(report.text("container"), kind)
                self.assertIn(device, report.text("files"))
                self.assertIn(memlock, report.text("memlock"))
                self.assertEqual(report.level("processes"), "note")
                self.assertRegex(report.text("processes"), "--pid=host|shareProcessNamespace")

    def test_a_marker_alone_is_no_container(self):
        self.write(".dockerenv", "")
        self.assertEqual(self.examine().text("container"), "none")

    def test_ecn_and_traffic_class_of_an_adapter(self):
        self.port()
        for point in ("roce_np", "roce_rp"):
            for priority in range(8):
                self.write(f"sys/class/net/ens1/ecn/{point}/enable/{priority}", str(int(priority == 3)))
        self.write("sys/class/infiniband/mlx5_0/tc/1/traffic_class", "Global tclass=106")
        report = self.examine()
        self.assertIn("ECN on priorities 3;", report.text("traffic"))
        self.assertIn("Global tclass=106", report.text("traffic"))
        self.assertIn("traffic class 32", self.examine(WEIR_TC="32").text("traffic"))

    def test_clock(self):
        self.write("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet")
        self.assertEqual(self.examine().level("clock"), "warn")

    def test_huge_pages(self):
        pages = "sys/kernel/mm/hugepages/hugepages-2048kB/"
        self.write(pages + "nr_hugepages", "64")
        self.write(pages + "free_hugepages", "48")
        self.assertEqual(self.examine().text("huge pages"), "48 of 64 free, 3 slabs of a pool")
        self.write(pages + "free_hugepages", "3")
        self.assertEqual(self.examine().level("huge pages"), "note")
        self.write("sys/kernel/mm/transparent_hugepage/shmem_enabled", "always within_size [advise] never deny force")
        self.assertIn("advise", self.examine().text("huge pages"))

    def test_garbage_does_no_harm(self):
        self.port()
        for path in sorted(self.root.rglob("*")):
            if path.is_file() and not path.is_symlink() and path.parts[-2] != "infiniband":
                path.write_bytes(b"\xff" * 300 + b":::" * 200)
        report = self.examine()
        self.assertEqual(report.level("port"), "fail")


if __name__ == "__main__":
    unittest.main()
