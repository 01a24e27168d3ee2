/* Two doctors meet at a store, connect over the transport chosen, and measure: the stages, and what is said of them. */
#include "peer.h"
#include "rdma.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- What both tell each other ----------------------------------------------------------------------------------- */

weir_status peer_error(struct peer *peer, weir_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(peer->mine.text, sizeof(peer->mine.text), format, arguments);
    va_end(arguments);
    return status;
}

/* Both give `len` bytes; the peer may take twice the bound of a wait to come here. */
static weir_status exchange(struct peer *peer, const char *name, const void *mine, void *theirs, size_t len)
{
    char key[64];
    size_t got = len;
    snprintf(key, sizeof(key), "doctor/%s/%d", name, !peer->serves);
    weir_status status = weir_boot_put(peer->boot, key, mine, len);
    snprintf(key, sizeof(key), "doctor/%s/%d", name, peer->serves);
    if (status == WEIR_OK)
        status = weir_boot_get(peer->boot, key, theirs, &got, 2 * peer->timeout_ms + 10000);
    if (status == WEIR_OK && got != len)
        status = peer_error(peer, WEIR_ERR_MISMATCH, "the peer's doctor is of another version");
    return status;
}

/* What the peer says of the stage, made such that it can be used. */
static void mend_outcome(struct peer_outcome *theirs)
{
    theirs->text[sizeof(theirs->text) - 1] = '\0';
    for (size_t i = 0; i < sizeof(theirs->value) / sizeof(theirs->value[0]); i++)
        if (!isfinite(theirs->value[i]))
            theirs->value[i] = 0;
}

/* ---- Stages ------------------------------------------------------------------------------------------------------ */

static weir_status compare_versions(struct peer *peer)
{
    struct peer_about *here = &peer->here, *there = &peer->there;
    snprintf(here->version, sizeof(here->version), "%s", weir_version());
    snprintf(here->transport, sizeof(here->transport), "%s", peer->doctor->transport);
    (void)gethostname(here->host, sizeof(here->host) - 1);
    here->pid = (int32_t)getpid();
    weir_status status = exchange(peer, "about", here, there, sizeof(*here));
    there->version[sizeof(there->version) - 1] = there->transport[sizeof(there->transport) - 1] = '\0';
    there->host[sizeof(there->host) - 1] = '\0';
    const char *dot = strrchr(here->version, '.');
    size_t same = dot ? (size_t)(dot - here->version) : strlen(here->version);
    if (status == WEIR_OK && strncmp(here->version, there->version, same + 1) != 0)
        status = peer_error(peer, WEIR_ERR_MISMATCH, "libweir is %s on %s and %s on %s; install the same version", here->version,
                            here->host, there->version, there->host);
    return status;
}

static weir_status open_transport(struct peer *peer)
{
    weir_ctx_params params = {.size = sizeof(params), .id = (uint64_t)weir_boot_rank(peer->boot)};
    params.bind_address = weir_boot_local_address(peer->boot);
    params.exchange = weir_boot_exchange(peer->boot);
    weir_status status = weir_ctx_create(&params, &peer->ctx);
    if (status == WEIR_OK)
        status = weir_boot_attend(peer->boot, weir_ctx_attend, peer->ctx);
    if (status == WEIR_OK)
        status = weir_pool_create(peer->ctx, 0, &peer->pool);
    if (status == WEIR_OK)
        status = weir_pool_alloc(peer->pool, PEER_ROOM, (void **)&peer->window, &peer->mem);
    if (status == WEIR_OK)
        status = weir_pool_alloc(peer->pool, PEER_ROOM, (void **)&peer->source, &peer->source_mem);
    if (status == WEIR_OK)
        status = weir_signal_create(peer->ctx, &peer->signal);
    if (status != WEIR_OK)
        return status;
    weir_ctx_attr attr;
    weir_ctx_query(peer->ctx, &attr);
    memset(peer->window, 0, PEER_ROOM);
    snprintf(peer->mine.text, sizeof(peer->mine.text), "%s on %s",
             strcmp(attr.network, "none") == 0 ? attr.intranode : attr.network, attr.device[0] ? attr.device : "this host");
    return WEIR_OK;
}

/* What it takes to reach a doctor. */
struct reach {
    unsigned char address[WEIR_ADDRESS_MAX], key[WEIR_RKEY_MAX];
    uint64_t address_len, key_len, window;
    uint32_t signal, pad;
};

/* Bytes that a packet of the port at the head of an endpoint's path can carry; 0: not an Ethernet port, or none. */
static unsigned port_mtu(const struct doctor *doctor, const char *path)
{
    struct rdma_port ports[RDMA_PORTS_MAX];
    size_t count = rdma_list_ports(doctor->root, ports, RDMA_PORTS_MAX);
    for (size_t i = 0; i < count; i++) {
        char name[READ_NAME + 16];
        long mtu = 0;
        snprintf(name, sizeof(name), "%s:%u,", ports[i].device, ports[i].number);
        if (strncmp(path, name, strlen(name)) == 0 && strcmp(ports[i].link_layer, "Ethernet") == 0 &&
            read_number(doctor->root, &mtu, "/sys/class/net/%s/mtu", ports[i].netdev))
            return rdma_mtu_over(mtu);
    }
    return 0;
}

static weir_status connect_both(struct peer *peer)
{
    struct reach mine = {.address_len = WEIR_ADDRESS_MAX, .key_len = WEIR_RKEY_MAX, .signal = peer->signal}, theirs;
    size_t len = sizeof(mine.address);
    weir_status status = weir_ctx_address(peer->ctx, mine.address, &len);
    mine.address_len = len;
    mine.window = (uintptr_t)peer->window;
    len = sizeof(mine.key);
    if (status == WEIR_OK)
        status = weir_mem_export(peer->mem, peer->window, PEER_ROOM, mine.key, &len);
    mine.key_len = len;
    if (status == WEIR_OK)
        status = exchange(peer, "reach", &mine, &theirs, sizeof(mine));
    if (status == WEIR_OK && (theirs.address_len > sizeof(theirs.address) || theirs.key_len > sizeof(theirs.key)))
        status = peer_error(peer, WEIR_ERR_PROTOCOL, "the peer's doctor says what cannot be right");
    if (status == WEIR_OK)
        status = weir_ep_create(peer->ctx, theirs.address, theirs.address_len, &peer->ep);
    if (status == WEIR_OK)
        status = weir_ep_wait_ready(peer->ep, -1);
    if (status == WEIR_OK)
        status = weir_rkey_import(peer->ep, theirs.key, theirs.key_len, &peer->rkey);
    if (status != WEIR_OK)
        return status;
    peer->remote = theirs.window;
    peer->remote_signal = theirs.signal;
    weir_ep_attr attr;
    char path[128];
    weir_ep_query(peer->ep, &attr);
    weir_ep_path(peer->ep, path, sizeof(path));
    const char *mtu = strstr(path, "MTU ");
    peer->mine.value[0] = mtu ? atof(mtu + 4) : 0;
    peer->mine.value[1] = port_mtu(peer->doctor, path);
    snprintf(peer->mine.text, sizeof(peer->mine.text), "%s by %s", attr.transport, path);
    return WEIR_OK;
}

/* ---- What is said of them ---------------------------------------------------------------------------------------- */

static void say_versions(struct peer *peer)
{
    doctor_say(peer->doctor, DOCTOR_OK, "process %d on %s, libweir %s, WEIR_TRANSPORT=%s", (int)peer->there.pid,
               peer->there.host, peer->there.version, peer->there.transport);
    if (strcmp(peer->here.transport, peer->there.transport) != 0)
        doctor_say(peer->doctor, DOCTOR_WARN, "WEIR_TRANSPORT is %s here and %s there -> set the same on all hosts",
                   peer->here.transport, peer->there.transport);
}

static void say_both(struct peer *peer)
{
    doctor_say(peer->doctor, DOCTOR_OK, "here %s; there %s", peer->mine.text, peer->theirs.text);
}

static void say_connect(struct peer *peer)
{
    double here = peer->mine.value[1], there = peer->theirs.value[1];
    say_both(peer);
    if (here > 0 && there > 0 && here != there)
        doctor_say(peer->doctor, DOCTOR_WARN,
                   "packets carry %.0f bytes, as many as the port %s takes; the one %s would take %.0f -> give both "
                   "interfaces, and the switches between them, the same MTU",
                   peer->mine.value[0], here < there ? "here" : "there", here < there ? "there" : "here",
                   here < there ? there : here);
    if (strncmp(peer->mine.text, "shm", 3) == 0)
        doctor_say(peer->doctor, DOCTOR_NOTE, "both are on one host, so the network is not tried -> WEIR_INTRANODE=off on both "
                                              "sides");
}

static void say_latency(struct peer *peer)
{
    const double *value = peer->serves ? peer->theirs.value : peer->mine.value;
    doctor_say(peer->doctor, DOCTOR_OK, "8 B put %.2f us in the median of %.0f (half of there and back), %.2f us at best",
               value[0], value[2], value[1]);
    peer->doctor->latency_us = value[0];
}

static void say_write(struct peer *peer, bool out)
{
    const double *value = out ? peer->mine.value : peer->theirs.value;
    doctor_say(peer->doctor, DOCTOR_OK, "1 MiB puts %s %.3f GB/s, %.0f MiB; the last of each was compared byte by byte",
               out ? "to the peer" : "from the peer", value[0], value[1] / (1 << 20));
    if (out)
        peer->doctor->to_gb_s = value[0];
    else
        peer->doctor->from_gb_s = value[0];
}

static void say_write_to(struct peer *peer)
{
    say_write(peer, !peer->serves);
}

static void say_write_from(struct peer *peer)
{
    say_write(peer, peer->serves);
}

static void say_clock(struct peer *peer)
{
    const double *value = peer->serves ? peer->theirs.value : peer->mine.value;
    double ahead_us = peer->serves ? -value[0] : value[0];
    bool off = ahead_us > 1e6 || ahead_us < -1e6;
    doctor_say(peer->doctor, off ? DOCTOR_WARN : DOCTOR_OK, "the peer's time of day is %.1f us %s, give or take %.1f us%s",
               ahead_us < 0 ? -ahead_us : ahead_us, ahead_us < 0 ? "behind" : "ahead", value[1],
               off ? " -> run chrony on both hosts" : "");
    peer->doctor->clock_offset_us = ahead_us;
}

/* ---- The table --------------------------------------------------------------------------------------------------- */

struct stage {
    const char *name;
    weir_status (*run)(struct peer *peer);
    void (*say)(struct peer *peer);
    const char *verbs_mend, *other_mend; /* for errors whose sentence leaves it open */
};

static const struct stage stages[] = {
    {"version", compare_versions, say_versions, "run the same version on both sides", "run the same version on both sides"},
    {"transport", open_transport, say_both, "weir doctor on that host says more",
     "weir doctor on that host says more"},
    {"connect", connect_both, say_connect,
     "are both ports on one RDMA network (subnet, VLAN), does --to name the right GID on either side, may UDP port 4791 (RoCE "
     "v2) pass? WEIR_DEVICE and WEIR_INTERFACE choose others",
     "let the TCP ports of the transport pass between the hosts (UCX takes free ones), or choose another interface with "
     "WEIR_INTERFACE"},
    {"latency", peer_latency, say_latency, "the connection is there but its packets get lost: look at the counters of ports "
                                           "and switches (rdma statistic show, ethtool -S)",
     "look at the network between the hosts"},
    {"write", peer_write_to, say_write_to,
     "small writes arrive and large ones do not: compare the MTU of both interfaces and of the switches between them",
     "small writes arrive and large ones do not: compare the MTU on the way"},
    {"write", peer_write_from, say_write_from,
     "small writes arrive and large ones do not: compare the MTU of both interfaces and of the switches between them",
     "small writes arrive and large ones do not: compare the MTU on the way"},
    {"time", peer_clock, say_clock, "look at the network between the hosts", "look at the network between the hosts"},
};

enum { STAGE_COUNT = sizeof(stages) / sizeof(stages[0]) };

static void say_failure(struct peer *peer, const struct stage *stage, const char *where, const struct peer_outcome *outcome)
{
    weir_ctx_attr attr = {.network = ""};
    if (peer->ctx)
        weir_ctx_query(peer->ctx, &attr);
    const char *mend = strcmp(attr.network, "verbs") == 0 ? stage->verbs_mend : stage->other_mend;
    if (strstr(outcome->text, "no transport in common"))
        mend = "the same WEIR_TRANSPORT and WEIR_INTRANODE on both sides";
    doctor_say(peer->doctor, DOCTOR_FAIL, "%s: %s -> %s", where,
               outcome->text[0] ? outcome->text : weir_status_string((weir_status)outcome->status), mend);
}

/* Runs a stage and tells the peer; false: it failed on either side, which was said. */
static bool run_stage(struct peer *peer, int number)
{
    const struct stage *stage = &stages[number];
    char name[32];
    peer->doctor->check = stage->name;
    memset(&peer->mine, 0, sizeof(peer->mine));
    memset(&peer->theirs, 0, sizeof(peer->theirs));
    peer->mine.stage = number;
    peer->mine.status = stage->run(peer);
    if (peer->mine.status != WEIR_OK && !peer->mine.text[0])
        snprintf(peer->mine.text, sizeof(peer->mine.text), "%s", weir_last_error());
    snprintf(name, sizeof(name), "%d", number);
    weir_status told = exchange(peer, name, &peer->mine, &peer->theirs, sizeof(peer->mine));
    mend_outcome(&peer->theirs);
    if (told == WEIR_OK && peer->mine.status == WEIR_OK && peer->theirs.status == WEIR_OK) {
        stage->say(peer);
        return true;
    }
    if (peer->mine.status != WEIR_OK)
        say_failure(peer, stage, "here", &peer->mine);
    if (peer->theirs.status != WEIR_OK)
        say_failure(peer, stage, peer->there.host[0] ? peer->there.host : "at the peer", &peer->theirs);
    if (told != WEIR_OK && peer->mine.status == WEIR_OK)
        doctor_say(peer->doctor, DOCTOR_FAIL, "the peer does not tell how it went: %s -> see what it says itself",
                   weir_last_error());
    return false;
}

/* ---- Meeting ----------------------------------------------------------------------------------------------------- */

/* Somebody listens: nothing else is said of it, weir_boot_create() does the rest. */
static bool check_peer_port(struct doctor *doctor)
{
    const char *name = doctor->to;
    int error = ECONNREFUSED;
    for (int i = 0; i < 30 && error == ECONNREFUSED; i++) { /* a doctor that serves opens its port anew now and then */
        if (i)
            nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        error = doctor_try_connect(&doctor->to_ip, doctor->port, 5000);
    }
    if (error == 0) {
        doctor_say(doctor, DOCTOR_OK, "port %d of %s answers", doctor->port, name);
        return true;
    }
    if (error == ECONNREFUSED)
        doctor_say(doctor, DOCTOR_FAIL,
                   "%s answers, but refuses port %d: nobody serves it, or a firewall rejects it -> there: weir doctor --serve "
                   "--port %d; let the port in",
                   name, doctor->port, doctor->port);
    else if (error == ETIMEDOUT)
        doctor_say(doctor, DOCTOR_FAIL,
                   "%s does not answer on port %d within 5 s -> is it up (ping %s)? let TCP port %d in, there and in between",
                   name, doctor->port, name, doctor->port);
    else
        doctor_say(doctor, DOCTOR_FAIL, "%s port %d: %s -> look at the route (weir doctor --to %s) and at firewalls", name,
                   doctor->port, strerror(error), name);
    return false;
}

static weir_status meet(struct peer *peer)
{
    struct doctor *doctor = peer->doctor;
    weir_boot_params params = {.size = sizeof(params), .world_size = 2, .servers = 0, .master_port = doctor->port};
    char master[256];
    doctor_variable("WEIR_MASTER_ADDR", master, sizeof(master));
    params.rank = params.local_rank = !peer->serves;
    if (!peer->serves)
        params.master_addr = doctor->to_numeric;
    else if (strcmp(master, "127.0.0.1") == 0 && doctor->local.text[0]) /* nobody said where to serve */
        params.master_addr = doctor->local.text;
    weir_status status;
    do {
        status = weir_boot_create(&params, &peer->boot);
    } while (peer->serves && status == WEIR_ERR_TIMEOUT); /* nobody has come so far */
    return status;
}

static void announce(const struct doctor *doctor, bool quiet)
{
    char host[256] = "HOST";
    (void)gethostname(host, sizeof(host) - 1);
    FILE *out = quiet ? stderr : stdout;
    fprintf(out, "\nserving port %d; on the other host run: weir doctor --peer %s%s%s:%d\n", doctor->port,
            strchr(doctor->local.text, ':') ? "[" : "", doctor->local.text[0] ? doctor->local.text : host,
            strchr(doctor->local.text, ':') ? "]" : "", doctor->port);
    fflush(out);
}

static void part(struct peer *peer)
{
    weir_rkey_destroy(peer->rkey);
    weir_ep_close(peer->ep);
    if (peer->boot && peer->ctx)
        weir_boot_unattend(peer->boot, weir_ctx_attend, peer->ctx);
    weir_ctx_destroy(peer->ctx);
    weir_boot_destroy(peer->boot);
}

static int timeout_ms(void)
{
    char text[64];
    uint64_t ns = 0;
    doctor_variable("WEIR_TIMEOUT", text, sizeof(text));
    return weir_parse_duration(text, &ns) == WEIR_OK ? (int)(ns / 1000000) : 30000;
}

void doctor_meet_peer(struct doctor *doctor, bool serve, bool quiet, const char **area)
{
    struct peer peer = {.doctor = doctor, .serves = serve, .timeout_ms = timeout_ms()};
    size_t said = doctor->count;
    doctor->area = "peer";
    doctor->check = "port";
    if (serve)
        announce(doctor, quiet);
    if (serve || (doctor->to_numeric[0] && check_peer_port(doctor))) {
        doctor->check = "meeting";
        bool good = meet(&peer) == WEIR_OK;
        if (!good)
            doctor_say(doctor, DOCTOR_FAIL, "%s", weir_last_error());
        for (int i = 0; i < STAGE_COUNT && good; i++) {
            good = run_stage(&peer, i);
            if (!quiet)
                doctor_print_findings(doctor, said, area);
            said = doctor->count;
        }
    }
    part(&peer);
    if (!quiet)
        doctor_print_findings(doctor, said, area);
}
