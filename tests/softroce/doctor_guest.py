#!/usr/bin/env python3
"""`weir doctor` where there are two RDMA devices on one link (scripts/softroce --nodes 2): each case breaks something for
real, looks at what the doctor says, and mends it again. As root, in the guest: what it breaks is the machine's."""
import contextlib
import ctypes
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))
import doctor as shared # noqa: E402

TOOL, SCRIPTS = sys.argv.pop(1), sys.argv.pop(1)
NODE0, NODE1 = os.environ.get("WEIR_SOFTROCE_NODE0"), os.environ.get("WEIR_SOFTROCE_NODE1")
doctor = functools.partial(shared.doctor, TOOL, WEIR_TRANSPORT="verbs")
look = functools.partial(doctor, "--no-trial")


def shell(script):
    subprocess.run(["sh", "-ec", script], check=True, stdout=subprocess.DEVNULL)


def net(script):
    """With the functions that made the devices."""
    shell(f". {SCRIPTS}/lib/softroce/net.sh; {script}")


FINIT_MODULE, DELETE_MODULE = 313, 176


def module_call(number, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *arguments) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def load(module):
    """The guest has no modprobe."""
    path = next(pathlib.Path("/lib/modules").glob(f"{os.uname().release}/kernel/{module}.ko*"))
    with open(path, "rb") as file:
        module_call(FINIT_MODULE, file.fileno(), b"", 0)


@contextlib.contextmanager
def other_network(script, back="rxe_remove; rxe_pair 4200"):
    """Whatever a case does to the devices, the next one finds two whole ones."""
    net(script)
    try:
        yield
    finally:
        net(back)


class Devices(unittest.TestCase):
    def expect(self, report, check, text, level="fail"):
        self.assertEqual(report.level(check), level, report.findings)
        self.assertRegex(report.text(check), text)
        self.assertEqual(report.status, int(level == "fail"), report.findings)

    def test_all_is_well(self):
        report = doctor("--to", NODE1)
        self.assertEqual(report.status, 0, report.findings)
        for check in ("devices", "modules", "files", "port", "gid", "mtu", "verbs"):
            self.assertEqual(report.level(check), "ok", report.findings)
        self.assertIn("rdma_rxe", report.text("modules"))
        self.assertRegex(report.text("gid"), rf"rxe0:1: \d+ = {NODE0} \(RoCE v2\) would be used to {NODE1}; also ")
        self.assertIn("works on rxe0:1", report.text("verbs"))

    def test_no_device(self):
        with other_network("rdma link del rxe0; rdma link del rxe1",
                           "rdma link add rxe0 type rxe netdev weirv0; rdma link add rxe1 type rxe netdev weirv1"):
            self.expect(look(), "devices", "none: .* -> load the adapter's driver")

    def test_port_down(self):
        with other_network("ip link set weirv0 down; ip link set weirv1 down"):
            report = look()
            self.expect(report, "port", r"rxe0:1 is DOWN, physically \w+ \(Ethernet, weirv0\) -> ip link set weirv0 up")
            self.assertEqual(report.level("verbs"), "fail")
            self.assertIn("no port of", report.text("verbs"))

    def test_only_link_local_gids(self):
        with other_network(f"ip addr flush dev weirv0 scope global; ip addr flush dev weirv1 scope global; "
                           "ip addr add fe80::7/64 dev weirv0 nodad"):
            report = look()
            self.expect(report, "gid", r"rxe0:1 has no GID of an IP address that can be routed \(there are: \d+ = fe80::.*\) -> "
                                       "give weirv0 one: ip addr add")

    def test_route_that_leads_elsewhere(self):
        with other_network("ip link add weirv2 type dummy; ip addr add 10.79.0.1/24 dev weirv2; ip link set weirv2 up",
                           "ip link del weirv2"):
            self.expect(look("--to", "10.79.0.2"), "gid", "the route to 10.79.0.2 leads out of weirv2, which is no active RDMA port")


class Info(unittest.TestCase):
    """`weir info` lists the same devices."""

    def ports(self, **variables):
        run = functools.partial(subprocess.run, env=shared.environment(**variables), capture_output=True, encoding="utf-8",
                                timeout=60, check=True)
        text = run([TOOL, "info"]).stdout
        ports = {port["device"]: port for port in json.loads(run([TOOL, "info", "--json"]).stdout)["rdma"]}
        for name, port in ports.items():
            mark = r"\*" if port["used"] else " "
            self.assertRegex(text, rf"(?m)^{mark} {name}:1 +{port['state']}, {port['link_layer']} on {port['interface']}, "
                                   rf"{re.escape(port['rate'])}, MTU {port['mtu']}$")
            for gid in port["gids"]:
                mark = r"\*" if gid["used"] else " "
                self.assertRegex(text, rf"(?m)^  {mark}   GID {gid['index']:<3} {gid['address']}, {gid['type']}, {gid['interface']}$")
        return ports

    def test_as_the_device_says(self):
        ports = self.ports()
        self.assertEqual(sorted(port["used"] for port in ports.values()), [False, True])
        for name, node in (("rxe0", NODE0), ("rxe1", NODE1)):
            told = subprocess.run(["ibv_devinfo", "-v", "-d", name], capture_output=True, encoding="utf-8", check=True).stdout
            self.assertEqual(int(re.search(r"active_mtu:\s+(\d+)", told).group(1)), ports[name]["mtu"])
            self.assertIn(f"PORT_{ports[name]['state']}", told)
            gids = {int(index): gid for index, gid in re.findall(r"GID\[ *(\d+)\]:\s+([0-9a-f:.]+)", told)}
            self.assertEqual(sorted(gids), [gid["index"] for gid in ports[name]["gids"]])
            self.assertIn(node, [gid["address"] for gid in ports[name]["gids"]])

    def test_what_would_be_used(self):
        """As WEIR_DEVICE and WEIR_INTERFACE ask for, however connections are made; link-local GIDs never."""
        for variables, used in (({"WEIR_DEVICE": "rxe1"}, {"rxe1"}), ({"WEIR_DEVICE": "rxe0,rxe1"}, {"rxe0", "rxe1"}),
                                ({"WEIR_INTERFACE": "weirv1", "WEIR_VERBS_CONNECT": "store"}, {"rxe1"}),
                                ({"WEIR_DEVICE": "rxe7"}, set())):
            ports = self.ports(**variables)
            self.assertEqual({name for name, port in ports.items() if port["used"]}, used, variables)
            for name, port in ports.items():
                marked = {gid["address"] for gid in port["gids"] if gid["used"]}
                own = {NODE0, "fd77::1"} if name == "rxe0" else {NODE1, "fd77::2"}
                self.assertEqual(marked, own if name in used else set())

    def test_port_down_and_smaller_mtu(self):
        with other_network("ip link set weirv1 mtu 1500", "ip link set weirv1 mtu 4200"):
            self.assertEqual([port["mtu"] for port in self.ports().values()], [4096, 1024])
        with other_network("ip link set weirv0 down; ip link set weirv1 down"):
            self.assertEqual([(port["state"], port["used"]) for port in self.ports().values()], [("DOWN", False)] * 2)


class Process(unittest.TestCase):
    def test_little_memory_to_lock(self):
        weak = ["prlimit", "--memlock=65536:65536", "setpriv", "--bounding-set=-ipc_lock"]
        report = doctor(prefix=weak)
        self.assertEqual((report.level("memlock"), report.level("verbs"), report.status), ("fail", "fail", 1))
        self.assertRegex(report.text("memlock"), "^64 KiB can be registered.* -> ulimit -l unlimited")
        self.assertIn("memlock", report.text("verbs"))

    def test_files_that_may_not_be_opened(self):
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        os.chmod("/dev/infiniband/uverbs0", 0o600)
        try:
            report = look(prefix=nobody)
        finally:
            os.chmod("/dev/infiniband/uverbs0", 0o666)
        self.assertEqual((report.level("files"), report.status), ("fail", 1))
        self.assertRegex(report.text("files"), r"uverbs0: Permission denied \(mode 600 of root:root\) -> chmod 0666")

    def test_files_that_are_missing(self):
        """As in a container without --device=/dev/infiniband."""
        bare = ["unshare", "-m", "sh", "-ec", 'mount -t tmpfs none /dev/infiniband; exec "$@"', "sh"]
        report = look(prefix=["unshare", "-p", "-f", "--mount-proc", *bare])
        self.assertEqual(report.level("files"), "fail")
        self.assertIn("/dev/infiniband/rdma_cm is missing", report.text("files"))
        self.assertRegex(report.text("files"), "--device=/dev/infiniband|pass /dev/infiniband into the container|device plugin")

    def test_module_that_is_not_loaded(self):
        module_call(DELETE_MODULE, b"rdma_ucm", os.O_NONBLOCK)
        try:
            report = look()
        finally:
            load("drivers/infiniband/core/rdma_ucm")
            os.chmod("/dev/infiniband/rdma_cm", 0o666)
        self.assertEqual((report.level("modules"), report.status), ("fail", 1))
        self.assertRegex(report.text("modules"), "not loaded: rdma_ucm -> modprobe -a rdma_ucm")


class Peers(unittest.TestCase):
    """Two doctors, one on each device: what they say to each other crosses the link."""

    def meet(self, serve_variables=None, peer_variables=None, peer=NODE1, **both):
        both = {"WEIR_TRANSPORT": "verbs", "WEIR_INTRANODE": "off", "WEIR_TIMEOUT": "2s", **both}
        return shared.meeting(TOOL, peer, 29400,
                              {**both, "WEIR_DEVICE": "rxe1", "WEIR_INTERFACE": NODE1, **(serve_variables or {})},
                              {**both, "WEIR_DEVICE": "rxe0", "WEIR_INTERFACE": NODE0, **(peer_variables or {})})

    def test_end_to_end(self):
        serve, came = self.meet(WEIR_TIMEOUT="20s")
        self.assertEqual((serve.status, came.status), (0, 0), (serve.findings, came.findings))
        self.assertRegex(came.text("connect"), rf"here verbs by rxe0:1, GID \d+ {NODE0}, MTU 4096; "
                                               rf"there verbs by rxe1:1, GID \d+ {NODE1}, MTU 4096")
        self.assertGreater(came.all["latency_us"], 0)
        self.assertEqual(came.all["to_peer_gb_s"], serve.all["from_peer_gb_s"])

    def test_mtus_that_differ(self):
        """Both sides keep to the smaller one, however they connect and whosever it is: what is long arrives too."""
        for small, way in (("weirv1", "cm"), ("weirv0", "store")):
            with self.subTest(small=small, way=way):
                with other_network(f"ip link set {small} mtu 1500", f"ip link set {small} mtu 4200"):
                    serve, came = self.meet(WEIR_VERBS_CONNECT=way, WEIR_TIMEOUT="20s")
                self.assertEqual((serve.status, came.status), (0, 0), (serve.findings, came.findings))
                self.assertEqual((serve.level("connect"), came.level("connect")), ("warn", "warn"))
                self.assertIn(f"{small} has MTU 1500, so RDMA packets carry 1024 bytes of at most 4096 -> ip link set {small} "
                              "mtu 4200", (serve if small == "weirv1" else came).text("mtu"))
                self.assertRegex(came.text("connect"), "here verbs by rxe0:1, .*, MTU 1024; there verbs by rxe1:1, .*, MTU 1024")
                near, far = ("there", "here") if small == "weirv1" else ("here", "there")
                self.assertIn(f"packets carry 1024 bytes, as many as the port {near} takes; the one {far} would take 4096",
                              came.text("connect"))
                self.assertIn("compared byte by byte", came.text("write"))

    def test_switch_of_a_smaller_mtu(self):
        """
        Between two ports that take long packets something drops those of 4 KiB: the far end does, as they come in. What a
        queue of the near end refuses soft-RoCE of Linux 6.1 sends again and again, in the kernel, and may not come back.
        """
        for module in ("sch_ingress", "cls_u32", "act_gact"):
            load("net/sched/" + module)
        with other_network("tc qdisc add dev weirv1 ingress; tc filter add dev weirv1 parent ffff: protocol ip "
                           "u32 match u16 0x1000 0x1000 at 2 action drop", "tc qdisc del dev weirv1 ingress"):
            serve, came = self.meet()
        self.assertEqual((serve.status, came.status), (1, 1), (serve.findings, came.findings))
        self.assertEqual((came.level("connect"), came.level("latency"), came.level("write")), ("ok", "ok", "fail"), came.findings)
        self.assertIn("small writes arrive and large ones do not", came.text("write"))

    def test_peer_that_cannot_be_reached(self):
        """The store is reached in another way than the transport, whose link loses everything."""
        with other_network("ip link add weirv2 type dummy; ip addr add 10.79.0.1/24 dev weirv2; ip link set weirv2 up; "
                           "tc qdisc add dev weirv0 root netem loss 100%",
                           "tc qdisc del dev weirv0 root; ip link del weirv2"):
            serve, came = self.meet(peer="10.79.0.1", WEIR_MASTER_ADDR="10.79.0.1")
        for report in (serve, came):
            self.assertEqual((report.level("version"), report.level("transport"), report.level("connect")), ("ok", "ok", "fail"))
            self.assertIn("one RDMA network", report.text("connect"))
        self.assertIn("here: ", came.text("connect"))

    def test_peer_without_a_device(self):
        serve, came = self.meet({"WEIR_DEVICE": "rxe7"})
        self.assertEqual((serve.status, came.status), (1, 1))
        self.assertIn("WEIR_DEVICE=rxe7: there is no such port -> take one of: rxe0:1, rxe1:1", serve.text("port"))
        self.assertRegex(serve.text("transport"), "^here: verbs: WEIR_DEVICE[=:] ?rxe7")
        self.assertRegex(came.text("transport"), "^softroce: verbs: WEIR_DEVICE[=:] ?rxe7")


if __name__ == "__main__":
    unittest.main(verbosity=2)
