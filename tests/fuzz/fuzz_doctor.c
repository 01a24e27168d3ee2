/*
 * Fuzzes what `weir doctor` reads: files of /sys and /proc, the answer of the kernel about priorities, the packet
 * filter's rules, and another doctor. Whatever comes, what is said is text that a terminal may be given.
 */
#include "bytes_of.h"
#include "tools/doctor/dcb.h"
#include "tools/doctor/doctor.h"
#include "tools/doctor/peer.h"
#include "tools/doctor/rdma.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static struct bytes_of input;

/* ---- Files: each that is read has the next bytes ----------------------------------------------------------------- */

/* As read.c does it: cut to fit, printable. False: it is not there. */
static bool next_text(char *text, size_t size)
{
    uint8_t how = take_byte(&input);
    size_t len = how % 64;
    text[0] = '\0';
    errno = ENOENT;
    if (how >= 224)
        return false;
    const uint8_t *bytes = take_bytes(&input, &len);
    len = len < size - 1 ? len : size - 1;
    for (size_t i = 0; i < len; i++)
        text[i] = (char)(bytes[i] < ' ' || bytes[i] >= 0x7f ? '?' : bytes[i]);
    text[len] = '\0';
    return true;
}

bool read_text(const char *root, char *text, size_t size, const char *format, ...)
{
    (void)root, (void)format;
    return next_text(text, size);
}

bool read_number(const char *root, long *number, const char *format, ...)
{
    char text[64], *end;
    (void)root, (void)format;
    if (!next_text(text, sizeof(text)))
        return false;
    *number = strtol(text, &end, 0);
    return end != text;
}

bool path_exists(const char *root, const char *format, ...)
{
    (void)root, (void)format;
    return take_byte(&input) % 4; /* zeros at the end: what is counted ends */
}

bool read_link_name(const char *root, char *name, size_t size, const char *format, ...)
{
    (void)root, (void)format;
    return next_text(name, size);
}

size_t list_folder(const char *root, char names[][READ_NAME], size_t room, const char *format, ...)
{
    size_t count = take_byte(&input) % 4;
    (void)root, (void)format;
    count = count < room ? count : room;
    for (size_t i = 0; i < count; i++)
        next_text(names[i], READ_NAME);
    return count;
}

void append(char *text, size_t size, const char *format, ...)
{
    size_t len = strlen(text);
    check(len < size);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + len, size - len, format, arguments);
    va_end(arguments);
}

void doctor_variable(const char *name, char *value, size_t size)
{
    (void)name;
    next_text(value, size);
}

uint64_t doctor_size_variable(const char *name)
{
    (void)name;
    return take_word(&input);
}

/* ---- The packet filter ------------------------------------------------------------------------------------------- */

FILE *popen(const char *command, const char *type)
{
    size_t len = input.left;
    (void)command, (void)type;
    const uint8_t *rules = take_bytes(&input, &len);
    return len > 0 ? fmemopen((void *)(uintptr_t)rules, len, "r") : NULL;
}

int pclose(FILE *file)
{
    fclose(file);
    return 0;
}

/* ---- Another doctor: what it says are the next bytes, and all else works or fails as they say -------------------- */

static weir_status next_status(void)
{
    uint8_t byte = take_byte(&input);
    return byte >= 250 ? (weir_status)(byte - 250 + WEIR_ERR_INVALID) : WEIR_OK;
}

weir_status weir_boot_create(const weir_boot_params *params, weir_boot **boot)
{
    (void)params;
    *boot = (weir_boot *)(void *)&input;
    return WEIR_OK;
}

weir_status weir_boot_put(weir_boot *boot, const char *key, const void *value, size_t len)
{
    (void)boot, (void)key;
    char *copy = malloc(len); /* the sanitizer sees what is beyond */
    memcpy(copy, value, len);
    free(copy);
    return next_status();
}

weir_status weir_boot_get(weir_boot *boot, const char *key, void *value, size_t *len, int timeout_ms)
{
    (void)boot, (void)key, (void)timeout_ms;
    uint8_t how = take_byte(&input), fill = take_byte(&input);
    size_t given = how % 64, size = how >= 224 ? given : *len;
    const uint8_t *bytes = take_bytes(&input, &given);
    if (size > *len)
        return WEIR_ERR_RANGE;
    memset(value, how & 64 ? fill : 0, size);
    memcpy(value, bytes, given < size ? given : size);
    *len = size;
    return next_status();
}

weir_status weir_ctx_create(const weir_ctx_params *params, weir_ctx **ctx)
{
    (void)params;
    *ctx = (weir_ctx *)(void *)&input;
    return next_status();
}

weir_status weir_pool_alloc(weir_pool *pool, size_t size, void **memory, weir_mem **mem)
{
    static unsigned char *kept;
    (void)pool;
    if (!kept)
        kept = malloc(size);
    *memory = kept;
    *mem = NULL;
    return next_status();
}

weir_status weir_ctx_address(weir_ctx *ctx, void *address, size_t *len)
{
    (void)ctx;
    memset(address, 1, *len);
    return next_status();
}

weir_status weir_mem_export(weir_mem *mem, const void *at, size_t len, void *blob, size_t *blob_len)
{
    (void)mem, (void)at, (void)len;
    memset(blob, 1, *blob_len);
    return next_status();
}

static void read_all(const void *bytes, size_t len)
{
    char *copy = malloc(len + 1);
    memcpy(copy, bytes, len);
    free(copy);
}

weir_status weir_ep_create(weir_ctx *ctx, const void *address, size_t len, weir_ep **ep)
{
    (void)ctx;
    check(len <= WEIR_ADDRESS_MAX);
    read_all(address, len);
    *ep = (weir_ep *)(void *)&input;
    return next_status();
}

weir_status weir_rkey_import(weir_ep *ep, const void *blob, size_t len, weir_rkey **rkey)
{
    (void)ep;
    check(len <= WEIR_RKEY_MAX);
    read_all(blob, len);
    *rkey = NULL;
    return next_status();
}

void weir_ctx_query(const weir_ctx *ctx, weir_ctx_attr *attr)
{
    (void)ctx;
    memset(attr, 0, sizeof(*attr));
    attr->network = take_byte(&input) % 2 ? "verbs" : "ucx";
    attr->intranode = "shm";
    next_text(attr->device, sizeof(attr->device));
}

void weir_ep_query(const weir_ep *ep, weir_ep_attr *attr)
{
    (void)ep;
    memset(attr, 0, sizeof(*attr));
    attr->transport = take_byte(&input) % 2 ? "verbs" : "shm";
}

void weir_ep_path(const weir_ep *ep, char *path, size_t size)
{
    (void)ep;
    next_text(path, size);
}

/* What has nothing to say. */
const char *weir_boot_local_address(const weir_boot *boot)
{
    (void)boot;
    return NULL;
}
const weir_exchange *weir_boot_exchange(weir_boot *boot)
{
    (void)boot;
    return NULL;
}
int weir_boot_rank(const weir_boot *boot)
{
    (void)boot;
    return 0;
}
void weir_boot_destroy(weir_boot *boot)
{
    (void)boot;
}
void weir_boot_unattend(weir_boot *boot, weir_attend_fn *attend, void *arg)
{
    (void)boot, (void)attend, (void)arg;
}
int weir_ctx_attend(void *ctx, int fd, int timeout_ms)
{
    (void)ctx, (void)fd, (void)timeout_ms;
    return 0;
}
void weir_ctx_destroy(weir_ctx *ctx)
{
    (void)ctx;
}
void weir_ep_close(weir_ep *ep)
{
    (void)ep;
}
void weir_rkey_destroy(weir_rkey *rkey)
{
    (void)rkey;
}
const char *weir_version(void)
{
    return "0.1.0";
}

weir_status weir_boot_attend(weir_boot *boot, weir_attend_fn *attend, void *arg)
{
    (void)boot, (void)attend, (void)arg;
    return WEIR_OK;
}

weir_status weir_pool_create(weir_ctx *ctx, size_t slab_size, weir_pool **pool)
{
    (void)ctx, (void)slab_size, (void)pool; /* seldom: what follows clears megabytes */
    return take_byte(&input) % 4 == 1 ? WEIR_OK : WEIR_ERR_NO_MEMORY;
}

weir_status weir_signal_create(weir_ctx *ctx, uint32_t *signal)
{
    (void)ctx;
    *signal = 1;
    return next_status();
}

weir_status weir_ep_wait_ready(weir_ep *ep, int timeout_ms)
{
    (void)ep, (void)timeout_ms;
    return next_status();
}

weir_status weir_parse_duration(const char *text, uint64_t *ns)
{
    (void)text;
    *ns = 1000000000;
    return WEIR_OK;
}

static weir_status measured(struct peer *peer)
{
    peer->mine.value[0] = take_byte(&input);
    return next_status();
}

weir_status peer_latency(struct peer *peer)
{
    return measured(peer);
}
weir_status peer_write_to(struct peer *peer)
{
    return measured(peer);
}
weir_status peer_write_from(struct peer *peer)
{
    return measured(peer);
}
weir_status peer_clock(struct peer *peer)
{
    return measured(peer);
}

int doctor_try_connect(const struct sockaddr_storage *ip, int port, int bound_ms)
{
    static const int errors[] = {0, 0, 0, ETIMEDOUT, ENETUNREACH};
    (void)ip, (void)port, (void)bound_ms;
    return errors[take_byte(&input) % 5];
}

/* ---- What is looked at ------------------------------------------------------------------------------------------- */

static void look_at_reply(void)
{
    unsigned priorities;
    size_t len = input.left;
    const uint8_t *bytes = take_bytes(&input, &len);
    uint8_t *reply = malloc(len + 1); /* aligned, and of exact size */
    memcpy(reply, bytes, len);
    reply = realloc(reply, len ? len : 1);
    (void)dcb_parse_pfc(reply, len, &priorities);
    free(reply);
}

static void meet(struct doctor *doctor, bool serve)
{
    const char *area = NULL;
    doctor->to = "peer";
    snprintf(doctor->to_numeric, sizeof(doctor->to_numeric), "10.0.0.2");
    doctor_meet_peer(doctor, serve, true, &area);
}

static void look(struct doctor *doctor, uint8_t what)
{
    static void (*const checks[])(struct doctor *) = {
        check_ports, check_gids, check_mtu, check_huge_pages, check_firewall, doctor_find_container, check_memlock};
    enum { CHECKS = sizeof(checks) / sizeof(checks[0]) };
    if (what % 16 < CHECKS)
        checks[what % 16](doctor);
    else if (what % 16 == CHECKS)
        look_at_reply();
    else
        meet(doctor, what & 16);
}

static void check_printable(const char *text)
{
    for (; *text; text++)
        check((unsigned char)*text >= ' ' && (unsigned char)*text < 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct doctor doctor;
    input = (struct bytes_of){data, size};
    uint8_t what = take_byte(&input);
    memset(&doctor, 0, offsetof(struct doctor, findings)); /* those that are counted are filled */
    doctor.root = "";
    doctor.port = 4711;
    doctor.area = "area";
    doctor.check = "check";
    doctor.verbs = what >> 5 & 1 ? DOCTOR_NEEDED : DOCTOR_UNUSED;
    snprintf(doctor.transport, sizeof(doctor.transport), "auto");
    look(&doctor, what);
    for (size_t i = 0; i < doctor.count; i++) {
        check_printable(doctor.findings[i].text);
        check_printable(doctor.findings[i].mend);
    }
    check(isfinite(doctor.latency_us) && isfinite(doctor.to_gb_s) && isfinite(doctor.from_gb_s) &&
          isfinite(doctor.clock_offset_us)); /* JSON has no others */
    return 0;
}
