/* `weir doctor`: is everything there that the chosen transport needs, and does it work with a peer? */
#include "doctor/doctor.h"
#include "weir_tool.h"

#include <weir/config.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: weir doctor [OPTION...]\n"
    "\n"
    "Looks at everything that the transport of WEIR_TRANSPORT needs, a line each: ok, note, warn (works, but slowly or not\n"
    "always) or fail, and what to do about it. Set the variables and limits as the job will have them.\n"
    "  --to HOST            also which interface, RDMA port and GID lead to this host\n"
    "  --serve              then wait for the doctor of another host ...\n"
    "  --peer HOST[:PORT]   ... which goes there: connects over the transport, compares data, measures latency and bandwidth\n"
    "  --json               the same as JSON\n"
    "  --port N             the store's port (default: WEIR_MASTER_PORT, else 29400)\n"
    "  --no-trial           look only; start no transport\n"
    "  --root DIR           take /sys, /proc and /dev from below DIR, e.g. a copy of another machine's\n"
    "  --help               this text\n"
    "\n"
    "Status: 0 when nothing stands in the way, 1 when something must be mended, 2 when called the wrong way.\n";

struct check {
    const char *area, *name;
    void (*run)(struct doctor *doctor);
    bool trial; /* uses this machine, so it says nothing of a copied tree */
};

static const struct check checks[] = {
    {"host", "container", check_container, false},
    {"host", "processes", check_processes, false},
    {"host", "sharing", check_sharing, true},
    {"host", "clock", check_clock, false},
    {"host", "time", check_time, true},
    {"limits", "memlock", check_memlock, false},
    {"limits", "open files", check_files, false},
    {"limits", "huge pages", check_huge_pages, false},
    {"network", "interface", check_interface, false},
    {"network", "route", check_route, false},
    {"network", "port", check_store_port, true},
    {"network", "firewall", check_firewall, true},
    {"rdma", "devices", check_devices, false},
    {"rdma", "modules", check_modules, false},
    {"rdma", "files", check_device_files, false},
    {"rdma", "port", check_ports, false},
    {"rdma", "gid", check_gids, false},
    {"rdma", "mtu", check_mtu, false},
    {"rdma", "traffic", check_traffic, false},
    {"variables", "master", check_master, true},
    {"variables", "secret", check_secret, true},
    {"variables", "numa", check_numa, false},
    {"transports", "shm", check_shm, true},
    {"transports", "verbs", check_verbs, true},
    {"transports", "ucx", check_ucx, true},
};

struct options {
    bool json;
    bool trial;
    bool serve;
    const char *peer;
    char peer_host[256]; /* without its port */
};

/* Runs the table; text is printed as it comes, since a trial may take seconds. */
static void run_checks(struct doctor *doctor, bool quiet, const char **area)
{
    for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
        size_t first = doctor->count;
        if (checks[i].trial && doctor->root[0])
            continue;
        doctor->area = checks[i].area;
        doctor->check = checks[i].name;
        checks[i].run(doctor);
        if (!quiet)
            doctor_print_findings(doctor, first, area);
    }
}

/* Nothing can be examined then. */
static int bad_variable(struct doctor *doctor, bool json)
{
    if (!json) {
        fprintf(stderr, "weir doctor: %s\n", weir_last_error());
        return 1;
    }
    doctor->area = "variables";
    doctor->check = "values";
    doctor_say(doctor, DOCTOR_FAIL, "%s -> `weir info --env` tells what each variable takes", weir_last_error());
    doctor_print_findings_json(doctor);
    printf("\n}\n");
    return 1;
}

static int examine(struct doctor *doctor, const struct options *options)
{
    const char *area = NULL;
    if (weir_config_load() != WEIR_OK)
        return bad_variable(doctor, options->json);
    doctor_read_choice(doctor);
    doctor_find_container(doctor);
    doctor_find_local(doctor);
    if (!options->json)
        doctor_print_heading(doctor);
    run_checks(doctor, options->json, &area);
    if (options->serve || options->peer)
        doctor_meet_peer(doctor, options->serve, options->json, &area);
    if (options->json) {
        doctor_print_findings_json(doctor);
        if (doctor->latency_us > 0)
            printf(",\n  \"latency_us\": %.3f,\n  \"to_peer_gb_s\": %.4f,\n  \"from_peer_gb_s\": %.4f,\n"
                   "  \"clock_offset_us\": %.1f",
                   doctor->latency_us, doctor->to_gb_s, doctor->from_gb_s, doctor->clock_offset_us);
        printf("\n}\n");
    } else {
        doctor_print_end(doctor);
    }
    return doctor_worst(doctor) == DOCTOR_FAIL;
}

/* ---- Options ----------------------------------------------------------------------------------------------------- */

static int complain(const char *format, const char *word)
{
    fprintf(stderr, "weir doctor: ");
    fprintf(stderr, format, word);
    fprintf(stderr, "\n%s", usage);
    return WEIR_TOOL_USAGE;
}

static bool read_port(const char *text, int *port)
{
    char *end;
    long number = strtol(text, &end, 10);
    *port = (int)number;
    return *text && !*end && number >= 1 && number <= 65535;
}

/* Splits "host", "host:port", "[2001:db8::1]:port", "2001:db8::1". */
static bool split_peer(struct doctor *doctor, struct options *options)
{
    const char *text = options->peer, *colon = strrchr(text, ':');
    size_t len = strlen(text);
    if (text[0] == '[') {
        const char *end = strchr(++text, ']');
        if (!end || (end[1] != '\0' && end[1] != ':'))
            return false;
        len = (size_t)(end - text);
        colon = end[1] ? end + 1 : NULL;
    } else if (colon && strchr(text, ':') != colon) {
        colon = NULL; /* an IPv6 address by itself */
    } else if (colon) {
        len = (size_t)(colon - text);
    }
    if (len == 0 || len >= sizeof(options->peer_host) || (colon && !read_port(colon + 1, &doctor->port)))
        return false;
    snprintf(options->peer_host, sizeof(options->peer_host), "%.*s", (int)len, text);
    doctor->to = options->peer_host;
    doctor->visits = true;
    return true;
}

/* The value of option argv[*i], or NULL. */
static const char *value_of(int argc, char **argv, int *i)
{
    return *i + 1 < argc ? argv[++*i] : NULL;
}

/* Options without a value. */
static bool parse_flag(const char *option, struct doctor *doctor, struct options *options)
{
    if (strcmp(option, "--json") == 0)
        options->json = true;
    else if (strcmp(option, "--trial") == 0)
        options->trial = true;
    else if (strcmp(option, "--serve") == 0)
        options->serve = true;
    else if (strcmp(option, "--no-trial") == 0)
        doctor->trials = false;
    else
        return false;
    return true;
}

/* 0: go on; else the status to end with. */
static int parse(int argc, char **argv, struct doctor *doctor, struct options *options)
{
    for (int i = 1; i < argc; i++) {
        const char *option = argv[i], *value;
        if (parse_flag(option, doctor, options))
            continue;
        if (strcmp(option, "--to") && strcmp(option, "--peer") && strcmp(option, "--root") && strcmp(option, "--port"))
            return complain("unknown option '%s'", option);
        if (!(value = value_of(argc, argv, &i)))
            return complain("%s needs a value", option);
        if (strcmp(option, "--to") == 0)
            doctor->to = value;
        else if (strcmp(option, "--root") == 0)
            doctor->root = value;
        else if (strcmp(option, "--peer") == 0)
            options->peer = value;
        else if (!read_port(value, &doctor->port))
            return complain("--port %s: not a port; use 1..65535", value);
    }
    if (options->peer && !split_peer(doctor, options))
        return complain("--peer %s: not a host and port; use e.g. node1:29400", options->peer);
    if (options->serve + (options->peer != NULL) + (doctor->root[0] != '\0') > 1)
        return complain("%s", "--serve, --peer and --root exclude each other");
    return 0;
}

int weir_doctor_main(int argc, char **argv)
{
    struct options options = {0};
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        printf("%s", usage);
        return 0;
    }
    struct doctor *doctor = calloc(1, sizeof(*doctor));
    if (!doctor) {
        fprintf(stderr, "weir doctor: out of memory\n");
        return 1;
    }
    doctor->root = "";
    doctor->trials = true;
    int status = parse(argc, argv, doctor, &options);
    if (status == 0)
        status = options.trial ? doctor_trial_main() : examine(doctor, &options);
    free(doctor);
    return status;
}
