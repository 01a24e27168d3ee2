#!/usr/bin/env python3
"""Every benchmark runs with its data checked, options do what they say, plots are well formed. usage: test_weir_perf.py WEIR_PERF COMPARE"""
import json
import os
import socket
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
import xml.dom.minidom

PERF, COMPARE = sys.argv[1:3]
PAIRS = ["put_lat", "put_signal_lat", "send_lat", "get_lat", "fetch_add_lat", "put_bw", "put_signal_bw", "get_bw",
         "fetch_add_bw", "send_bw"]


def perf(*arguments, **env):
    return subprocess.run([PERF, *arguments], env={**os.environ, "WEIR_TRANSPORT": "shm", **env}, timeout=100, text=True,
                          capture_output=True)


class WeirPerf(unittest.TestCase):
    def result(self, *arguments, **env):
        done = perf(*arguments, "--json", **env)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_every_benchmark(self):
        for benchmark in PAIRS:
            sizes = "8" if benchmark.startswith("fetch_add") else "1,8,4096"
            result = self.result(benchmark, "-n", "300", "-s", sizes)
            self.assertEqual(result["benchmark"], benchmark)
            self.assertEqual([row["bytes"] for row in result["results"]], [int(size) for size in sizes.split(",")])
            for row in result["results"]:
                self.assertGreater(row["median_us"], 0)
                self.assertLessEqual(row["min_us"], row["median_us"])
                if benchmark.endswith("_bw"):
                    self.assertGreater(row["total_mops"], 0)

    def test_what_is_spoilt_is_noticed(self):
        for benchmark in PAIRS + ["allreduce", "ps"]:
            ways = [[]] if not benchmark.endswith("_bw") or benchmark == "send_bw" else [[], ["-b"]]
            for way in ways:
                done = perf(benchmark, "-n", "200", "-s", "8", "--self-test", *way)
                self.assertEqual(done.returncode, 1, benchmark)
                self.assertRegex(done.stderr, "wrong data|came of|not what came")

    def test_results_that_nobody_takes(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([PERF, "put_lat", "-s", "8", "-n", "10", "--json"], stdout=full, stderr=subprocess.PIPE,
                                  env={**os.environ, "WEIR_TRANSPORT": "shm"}, timeout=100)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"cannot be written", done.stderr)
        # Longer than the test's patience: the other rank must not wait for the one that SIGPIPE ends.
        process = subprocess.Popen([PERF, "put_lat", "-s", "8,16,32", "-n", "10"], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE,
                                   env={**os.environ, "WEIR_TRANSPORT": "shm", "WEIR_TIMEOUT": "10m"})
        process.stdout.close()
        try:
            status = process.wait(timeout=90)
            self.assertEqual(status, 128 + signal.SIGPIPE, process.stderr.read())
        finally:
            process.kill()
            process.wait()
            process.stderr.close()

    def test_every_message_is_counted(self):
        for arguments in (["-n", "5000"], ["-n", "3", "-w", "2"], ["-D", "100ms"]):
            self.result("send_bw", "-s", "1,8,4096", *arguments)
            self.result("fetch_add_bw", *arguments)
            self.result("fetch_add_bw", "-b", *arguments)

    def test_several_endpoints(self):
        for benchmark in ("put_bw", "put_signal_bw", "get_bw", "fetch_add_bw"):
            for arguments in (["-q", "2"], ["-q", "64", "-t", "8", "-b"]): # more than there are operations in flight
                done = perf(benchmark, "-n", "1000", "-s", "8", "--json", *arguments)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(json.loads(done.stdout)["endpoints"], int(arguments[1]))
        self.assertIn("2 endpoints a pair", perf("put_bw", "-n", "10", "-s", "8", "-q", "2").stdout)

    def test_iterations(self):
        for count in (1, 2, 100, 1000):
            row = self.result("put_bw", "-s", "8", "-n", str(count))["results"][0]
            self.assertGreaterEqual(row["iterations"], count)
            self.assertLess(row["iterations"], max(count + 64, 3))

    def test_all_sizes_that_fit(self):
        sizes = {benchmark: [row["bytes"] for row in self.result(benchmark, "-a", "-n", "2")["results"]]
                 for benchmark in ("fetch_add_lat", "send_lat", "allreduce")}
        self.assertEqual(sizes["fetch_add_lat"], [8])
        self.assertEqual(sizes["send_lat"], [1 << power for power in range(13)])
        self.assertEqual(sizes["allreduce"], [1 << power for power in range(2, 23)])

    def test_what_is_asked_for_in_vain(self):
        for arguments, env, complaint in (
                (["put_lat", "-s", "8.."], {}, "-s 8..: a range has two sizes"),
                (["put_lat", "-s", "4M..8"], {}, "-s 4M..8: a range has two sizes"),
                (["put_bw", "-d", "mlx5_0:1"], {"WEIR_TRANSPORT": "shm"}, "WEIR_TRANSPORT is set to another transport"),
                (["allreduce", "-s", "8", "--compare"], {}, "--compare has peers for put_lat")):
            done = perf(*arguments, **env)
            self.assertEqual(done.returncode, 2)
            self.assertIn(complaint, done.stderr)
        done = perf("put_lat", "-s", "8", RANK="1", WORLD_SIZE="2", WEIR_TIMEOUT="1s", MASTER_PORT="1")
        self.assertRegex(done.stderr, "^weir_perf: peer unreachable: no store")

    def test_other_arguments_on_another_rank(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        env = {**os.environ, "WEIR_TRANSPORT": "shm", "WORLD_SIZE": "2", "MASTER_PORT": port}
        ranks = [subprocess.Popen([PERF, benchmark, "-s", "8"], env={**env, "RANK": str(rank)}, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                 for rank, benchmark in enumerate(("put_lat", "put_bw"))]
        errors = [rank.communicate(timeout=60)[1] for rank in ranks]
        self.assertEqual([rank.returncode for rank in ranks], [1, 1])
        self.assertIn("rank 1 has other arguments than rank 0", errors[1])
        self.assertIn("ranks disagree", errors[0])

    def test_what_is_measured_is_told(self):
        self.assertIn("it is shared memory that is measured", perf("put_lat", "-s", "8", "-n", "9", WEIR_TRANSPORT="ucx").stdout)
        self.assertNotIn("shared memory", perf("put_lat", "-s", "8", "-n", "9", WEIR_TRANSPORT="shm").stdout)

    def test_types(self):
        for name in ("f32", "f64", "f16", "bf16", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"):
            self.assertEqual(self.result("allreduce", "-o", name, "-s", "6K", "-n", "20", "-r", "3")["results"][0]["bytes"], 6144)
            self.assertEqual(perf("allreduce", "-o", name, "-s", "64", "-n", "3", "--self-test").returncode, 1)
        done = perf("allreduce", "-o", "f8")
        self.assertEqual(done.returncode, 2)
        self.assertIn("use f32, f64, f16, bf16", done.stderr)

    def test_a_device_means_verbs(self):
        env = {name: value for name, value in os.environ.items() if not name.startswith("WEIR_")}
        done = subprocess.run([PERF, "put_lat", "-d", "no_such_device"], env=env, capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, 1)
        self.assertIn("verbs", done.stderr)

    def test_a_device_that_is_not_used_is_told(self):
        done = perf("put_lat", "-n", "10", "-s", "8", WEIR_TRANSPORT="auto", WEIR_DEVICE="no_such_device0")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr, r"WARN WEIR_DEVICE=no_such_device0 is not used: verbs: ")

    def test_over_a_network(self):
        for benchmark in PAIRS:
            window = ["-t", "8", "-q", "3"] if benchmark.endswith("_bw") else []
            if benchmark == "send_bw":
                window = window[:2]
            self.result(benchmark, "-n", "40", "-s", "8", *window, WEIR_TRANSPORT="ucx", WEIR_INTRANODE="off", UCX_TLS="tcp,self")

    def test_many_pairs_and_both_sides_are_summed(self):
        for arguments in (["-r", "4"], ["-b"], ["-r", "4", "-b"]):
            for benchmark in ("put_bw", "get_bw", "fetch_add_bw"):
                row = self.result(benchmark, "-n", "500", "-s", "8", *arguments)["results"][0]
                self.assertGreater(row["total_gb_s"], 0)
                self.assertAlmostEqual(row["total_gb_s"], row["total_mops"] * 8 / 1e3, delta=0.01 * row["total_gb_s"] + 0.001)

    def test_memory(self):
        for option in ("--ordinary", "--unregistered"):
            for benchmark in ("put_bw", "get_bw", "put_lat", "put_signal_bw"):
                self.result(benchmark, "-n", "100", "-s", "8,64K", option)

    def test_duration(self):
        row = self.result("put_bw", "-s", "64K", "-D", "300ms")["results"][0]
        moved_s = row["iterations"] * row["bytes"] / 1e9 / row["gb_s"]
        self.assertGreater(moved_s, 0.29)

    def test_wrong_options_are_explained(self):
        for arguments, text in ((["put_bw", "-x", "1"], "name the GID's device"), (["put_bw", "-D", "0"], "duration"),
                                (["send_bw", "-s", "8K"], "at most 4096"), (["send_bw", "-b", "-n", "10"], "takes them"),
                                (["fetch_add_lat", "-s", "16"], "have 8 bytes"), (["bogus"], "there is no benchmark"),
                                (["put_bw", "-s", ""], "no size"), (["put_bw", "-s", "4M..8"], "smaller one first"),
                                (["put_bw", "-s", "64G", "-r", "64"], "this host has"), (["put_bw", "-i", "1"], "-d mlx5_0:1"),
                                (["-s", "8", "put_bw"], "comes first"), (["put_bw", "otherhost"], "launcher"),
                                (["ps", "-s", "6"], "multiples of 4"), (["put_bw", "--compare", "-b"], "--compare takes"),
                                (["put_bw", "--bogus"], "unrecognized"), ([], "no benchmark given"),
                                (["put_bw", "-s", "12Q"], "not a size"), (["put_bw", "-r", "3"], "even number"),
                                (["put_lat", "-D", "1s"], "*_bw"), (["get_lat", "-b"], "*_bw"), (["get_lat", "-q", "8"], "*_bw"),
                                (["get_lat", "-t", "8"], "*_bw"), (["send_bw", "-q", "2"], "one endpoint"), (["put_bw", "-q", "65"], "1 to 64"),
                                (["put_lat", "-x", "a"], "use a number"), (["put_lat", "-x", "1", "-d", "a:1,b:1"], "one device"),
                                (["put_lat", "-x", "1", "-d", "no_such_device"], "no such GID")):
            done = perf(*arguments, WEIR_TRANSPORT="auto" if "-d" in arguments else "shm")
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn(text, done.stderr)
            self.assertEqual(done.stdout, "")
        self.assertEqual(perf("put_bw", "-F", "-n", "10", "-s", "8").returncode, 0)
        for benchmark in PAIRS:
            self.assertIn(benchmark, perf("--help").stdout)

    @unittest.skipUnless(shutil.which("ucx_perftest"), "ucx_perftest is not installed")
    def test_compare_and_plot(self):
        with tempfile.TemporaryDirectory() as folder:
            svg, rows = os.path.join(folder, "p.svg"), os.path.join(folder, "p.json")
            build = os.path.dirname(os.path.dirname(os.path.abspath(PERF)))
            done = subprocess.run([sys.executable, COMPARE, "sizes", "--benchmark", "put_lat", "--sizes", "8,4K", "--rounds", "1",
                                   "--build", build, "--plot", svg, "--json", rows], text=True, capture_output=True, timeout=100)
            self.assertEqual(done.returncode, 0, done.stderr)
            for size in ("8 B", "4 KiB"): # every figure with its unit
                self.assertRegex(done.stdout, rf"(?m)^put_lat {size} +[\d.]+ us +ucx_perftest +[\d.]+ us +ratio +[\d.]+$")
            lines = xml.dom.minidom.parse(svg).getElementsByTagName("polyline")
            self.assertEqual(len(lines), 2)
            for arguments, text in ((["--rounds", "0"], "above 0"), (["--plot", "/nowhere/p.svg"], "No such file"),
                                    (["--sizes", "8..4"], "smaller size first"), (["--sizes", ""], "not a size")):
                done = subprocess.run([sys.executable, COMPARE, "sizes", *arguments], text=True, capture_output=True)
                self.assertEqual(done.returncode, 2)
                self.assertIn(text, done.stderr)
            with open(rows, encoding="utf-8") as file:
                self.assertEqual([row["size"] for row in json.load(file)], [8, 4096])

    def test_compare_where_it_is_installed(self):
        """It takes the weir_perf beside it; and tells of a row that is none, and of results that are lost."""
        with tempfile.TemporaryDirectory() as folder:
            script = shutil.copy(COMPARE, os.path.join(folder, "weir_perf_compare"))
            os.symlink(os.path.abspath(PERF), os.path.join(folder, "weir_perf"))
            done = subprocess.run([sys.executable, script, "ps", "--only", "no such row"], text=True, capture_output=True, timeout=100)
            self.assertEqual(done.returncode, 1)
            self.assertIn("no row of ps", done.stderr)
            with open("/dev/full", "wb") as full:
                done = subprocess.run([sys.executable, script, "ps", "--only", "no such row"], stdout=full, stderr=subprocess.PIPE,
                                      text=True, timeout=100)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, r"^compare: .*No space left")

    @unittest.skipUnless(shutil.which("ucx_perftest"), "ucx_perftest is not installed")
    def test_compare_from_the_benchmark(self):
        done = perf("get_bw", "-s", "4K", "-n", "2000", "--compare")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"get_bw 4 KiB +[\d.]+ GB/s +ucx_perftest +[\d.]+ GB/s +ratio +[\d.]+")
        self.assertIn("put_lat", perf("send_lat", "--compare").stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
