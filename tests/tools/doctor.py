"""What the tests of `weir doctor` share: running it, and finding what it said."""
import json
import os
import subprocess


def environment(**variables):
    """This one without anything of Weir's or a launcher's, but what is given."""
    job = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "KUBERNETES_SERVICE_HOST"}
    base = {name: value for name, value in os.environ.items() if not name.startswith("WEIR_") and name not in job}
    return {**base, **variables}


class Report:
    """What one run said, by check."""

    def __init__(self, result):
        self.status, self.stderr = result.returncode, result.stderr
        try:
            # Where /proc is missing, UCX says so on standard output before main() starts.
            self.all = json.loads(result.stdout[result.stdout.find("{\n"):])
        except ValueError as error:
            raise AssertionError(f"not JSON: {result}") from error
        self.findings = self.all["findings"]

    def of(self, check):
        return [finding for finding in self.findings if finding["check"] == check]

    def level(self, check):
        """The worst level of a check's findings."""
        order = ["ok", "note", "warn", "fail"]
        return max((finding["level"] for finding in self.of(check)), key=order.index, default=None)

    def text(self, check):
        return "\n".join(f"{f['text']} -> {f['mend']}" if f["mend"] else f["text"] for f in self.of(check))

    def fails(self):
        return sorted({finding["check"] for finding in self.findings if finding["level"] == "fail"})


def command(tool, *arguments, prefix=()):
    return [*prefix, tool, "doctor", "--json", *arguments]


def doctor(tool, *arguments, prefix=(), timeout=120, **variables):
    """Runs `prefix weir doctor --json arguments` and gives its report."""
    return Report(subprocess.run(command(tool, *arguments, prefix=prefix), env=environment(**variables),
                                 capture_output=True, encoding="utf-8", timeout=timeout))


def meeting(tool, peer, port, serve_variables, peer_variables, prefix=(), timeout=150):
    """Two doctors, of which one serves and one comes to `peer`; gives both reports, the serving one's first."""
    arguments = ["--no-trial", "--port", str(port)]
    server = subprocess.Popen(command(tool, "--serve", *arguments, prefix=prefix), env=environment(**serve_variables),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    try:
        line = server.stderr.readline()
        while line and "serving port" not in line: # it tells before it listens; the one that comes tries for a while
            line = server.stderr.readline()
        came = doctor(tool, "--peer", peer, *arguments, prefix=prefix, timeout=timeout, **peer_variables)
        out, err = server.communicate(timeout=timeout)
        return Report(subprocess.CompletedProcess([], server.returncode, out, err)), came
    finally:
        server.kill()
        server.wait()
