/*
 * Credits: senders of signals and messages stop before a target's receive queue is empty, so the device never turns one
 * away (RNR NAK), as its own counters tell. Needs a device (soft-RoCE will do); exit status 77: there is none.
 */
#include "harness.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum {
    SENDERS = 3,
    RECEIVES = 64,
    SIGNALS = 300, /* of each sender: more than all receives */
    ASLEEP_US = 1500000,
};

/* All RNR counters of all devices together; -1: no device counts them. */
static long rnr_count(void)
{
    static const char *const names[] = {"rcvd_rnr_err", "send_rnr_err", "rnr_nak_retry_err", "out_of_buffer"};
    DIR *devices = opendir("/sys/class/infiniband");
    struct dirent *device;
    long sum = -1;
    while (devices && (device = readdir(devices))) {
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
            char path[400];
            long value = 0;
            snprintf(path, sizeof(path), "/sys/class/infiniband/%s/ports/1/hw_counters/%s", device->d_name, names[i]);
            FILE *file = fopen(path, "r");
            if (file && fscanf(file, "%ld", &value) == 1)
                sum = (sum < 0 ? 0 : sum) + value;
            if (file)
                fclose(file);
        }
    }
    if (devices)
        closedir(devices);
    return sum;
}

/* Rank 0 sleeps, makes no progress; all others send. Then it takes everything. */
static void asleep_body(struct rank *r)
{
    setenv("WEIR_VERBS_RECEIVES", "64", 1);
    rank_open_all(r);
    uint64_t total = 0;
    uint32_t signal = signal_open(r, 0);
    uint64_t *sent = &r->board->number[r->rank][1];
    barrier(r);
    long rnr = rnr_count();
    if (r->rank == 0) {
        sleep_us(ASLEEP_US);
        for (int i = 1; i < r->count; i++)
            total += __atomic_load_n(&r->board->number[i][1], __ATOMIC_ACQUIRE);
        CHECK(total > 0 && total <= RECEIVES);
        CHECK_OK(weir_signal_wait(r->ctx, signal, SENDERS * SIGNALS, -1));
        CHECK(weir_signal_read(r->ctx, signal) == SENDERS * SIGNALS);
    } else {
        for (int i = 0; i < SIGNALS; i++) {
            CHECK_OK(weir_put_signal(r->ep[0], NULL, NULL, 0, 0, NULL, signal_of(r, 0, 0), NULL));
            __atomic_add_fetch(sent, 1, __ATOMIC_RELEASE);
        }
        flush(r, r->ep[0]);
    }
    barrier(r);
    CHECK(rnr_count() == rnr);
    rank_close(r);
}

static void test_target_asleep(void **state)
{
    (void)state;
    if (rnr_count() < 0)
        print_message("the device does not count RNR NAKs\n");
    job_run(&(struct job){.count = SENDERS + 1, .body = asleep_body});
}

/* A target that never makes progress: an error in time, of the operation, not of the endpoint; then all goes on. */
static void stuck_body(struct rank *r)
{
    setenv("WEIR_VERBS_RECEIVES", "64", 1);
    rank_open_all(r);
    uint32_t signal = signal_open(r, 0);
    barrier(r);
    uint32_t theirs = signal_of(r, 1, 0), sent = 0;
    if (r->rank == 0) {
        weir_status status = WEIR_OK;
        for (; status == WEIR_OK && sent < 10000; sent += status == WEIR_OK)
            status = weir_put_signal(r->ep[1], NULL, NULL, 0, 0, NULL, theirs, NULL);
        CHECK(status == WEIR_ERR_TIMEOUT && sent > 0);
        CHECK_OK(weir_ep_status(r->ep[1]));
        r->board->number[0][1] = sent;
        barrier(r);
        CHECK_OK(weir_put_signal(r->ep[1], NULL, NULL, 0, 0, NULL, theirs, NULL));
        flush(r, r->ep[1]);
    } else {
        while (__atomic_load_n(&r->board->number[0][1], __ATOMIC_ACQUIRE) == 0)
            sleep_us(1000);
        barrier(r);
        CHECK_OK(weir_signal_wait(r->ctx, signal, r->board->number[0][1] + 1, -1));
    }
    barrier(r);
    rank_close(r);
}

static void test_target_stuck(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = stuck_body, .timeout = "2s"});
}

static long receives_low(struct rank *r)
{
    static char text[1 << 18];
    size_t len = sizeof(text);
    CHECK_OK(weir_metrics_text(r->ctx, text, &len));
    const char *line = strstr(text, "\nweir_receives_low_total{");
    CHECK(line && strchr(line, '}'));
    return atol(strchr(line, '}') + 1);
}

/*
 * So many connections that their least credits fill most of rank 0's receive queue while it sleeps: it is told, and told
 * again the next time.
 */
static void low_body(struct rank *r)
{
    enum { CONNECTIONS = 60, TIMES = 3 };
    setenv("WEIR_VERBS_RECEIVES", "64", 1);
    rank_open_all(r);
    weir_ep *more[CONNECTIONS];
    uint32_t signal = signal_open(r, 0);
    barrier(r);
    for (int i = 0; r->rank == 1 && i < CONNECTIONS; i++) {
        CHECK_OK(weir_ep_create(r->ctx, r->board->address[0], r->board->address_len[0], &more[i]));
        CHECK_OK(weir_ep_wait_ready(more[i], -1));
    }
    for (int time = 1; time <= TIMES; time++) {
        barrier(r);
        CHECK(r->rank == 1 || receives_low(r) == time - 1);
        for (int i = 0; r->rank == 1 && i < CONNECTIONS; i++)
            CHECK_OK(weir_put_signal(more[i], NULL, NULL, 0, 0, NULL, signal_of(r, 0, 0), NULL));
        for (int i = 0; r->rank == 1 && i < CONNECTIONS; i++)
            flush(r, more[i]);
        if (r->rank == 1)
            __atomic_store_n(&r->board->number[1][1], (uint64_t)time, __ATOMIC_RELEASE);
        while (__atomic_load_n(&r->board->number[1][1], __ATOMIC_ACQUIRE) < (uint64_t)time)
            sleep_us(1000); /* makes no progress */
        if (r->rank == 0)
            CHECK_OK(weir_signal_wait(r->ctx, signal, (uint64_t)time * CONNECTIONS, -1));
        for (uint64_t end = now_ns() + 10000000000u; r->rank == 0 && receives_low(r) < time && now_ns() < end;)
            weir_ctx_block(r->ctx, 10);
        CHECK(r->rank == 1 || receives_low(r) == time);
    }
    barrier(r);
    rank_close(r);
}

static void test_receives_low(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 2, .body = low_body});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_target_asleep),
        cmocka_unit_test(test_target_stuck),
        cmocka_unit_test(test_receives_low),
    };
    setenv("WEIR_TRANSPORT", "verbs", 1);
    setenv("WEIR_INTRANODE", "off", 1);
    if (transport_is_missing())
        return 77;
    return cmocka_run_group_tests_name("verbs credits", tests, NULL, NULL);
}
