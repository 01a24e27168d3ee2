/*
 * One of two ranks that connect and then do nothing; from outside their network is taken away (test_idle.py).
 *
 *   idle DIR RANK
 *
 * Lines: "idle DESCRIPTORS" when it is connected and has sent and got a message; "failed MS STATUS SENTENCE", the time
 * being that since standard input said that the cable is cut; "left DESCRIPTORS" when its peer's connection has gone as
 * well or 10 s later; with TRAFFIC_LINGER set, when standard input ends. With TRAFFIC_ONE_WAY set rank 1 makes no
 * endpoint: it is a target alone.
 */
#include "../support/descriptors.h"

#include <weir/weir.h>

#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct card {
    size_t len;
    unsigned char address[WEIR_ADDRESS_MAX];
};

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

static void must(weir_status status, const char *what)
{
    if (status == WEIR_OK)
        return;
    printf("broken %s: %s: %s\n", what, weir_status_string(status), weir_last_error());
    exit(1);
}

/* True: there is a line on standard input, or its end; `*end` tells which. */
static bool told_something(bool *end)
{
    char line[64];
    struct pollfd fd = {.fd = 0, .events = POLLIN};
    if (poll(&fd, 1, 0) <= 0)
        return false;
    *end = read(0, line, sizeof(line)) <= 0;
    return true;
}

static void leave_card(const char *dir, int rank, const struct card *card)
{
    char path[512], part[520];
    snprintf(path, sizeof(path), "%s/card.%d", dir, rank);
    snprintf(part, sizeof(part), "%s.part", path);
    int fd = open(part, O_WRONLY | O_CREAT, 0644);
    if (fd < 0 || write(fd, card, sizeof(*card)) != (ssize_t)sizeof(*card) || close(fd) || rename(part, path))
        exit(2);
}

static void find_card(weir_ctx *ctx, const char *dir, int rank, struct card *card)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/card.%d", dir, rank);
    int fd;
    while ((fd = open(path, O_RDONLY)) < 0)
        weir_ctx_block(ctx, 10);
    if (read(fd, card, sizeof(*card)) != (ssize_t)sizeof(*card))
        exit(2);
    close(fd);
}

/* A message each way, so that all of a connection is there. */
static void greet(weir_ctx *ctx, weir_ep *ep, bool expects)
{
    char text[8];
    size_t len = sizeof(text);
    weir_comp comp = WEIR_COMP_INIT;
    if (ep) {
        must(weir_send(ep, "hello", 5), "send");
        must(weir_flush(ep, &comp), "flush");
        must(weir_wait(ctx, &comp, -1), "wait");
    }
    while (expects && weir_recv(ctx, text, &len, NULL) == WEIR_ERR_AGAIN)
        weir_ctx_block(ctx, 10);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    int rank = atoi(argv[2]);
    bool lingers = getenv("TRAFFIC_LINGER") != NULL;
    bool one_way = getenv("TRAFFIC_ONE_WAY") != NULL;
    weir_ctx_params params = {
        .size = sizeof(params), .id = (uint64_t)rank, .bind_address = getenv("TRAFFIC_ADDRESS"), .signals = 64};
    weir_ctx *ctx;
    weir_ep *ep = NULL;
    struct card mine = {.len = WEIR_ADDRESS_MAX}, theirs;
    setvbuf(stdout, NULL, _IOLBF, 0);
    must(weir_ctx_create(&params, &ctx), "context");
    must(weir_ctx_address(ctx, mine.address, &mine.len), "address");
    int alone = descriptors();
    leave_card(argv[1], rank, &mine);
    find_card(ctx, argv[1], !rank, &theirs);
    if (!(one_way && rank == 1))
        must(weir_ep_create(ctx, theirs.address, theirs.len, &ep), "endpoint");
    greet(ctx, ep, !(one_way && rank == 0));
    printf("idle %d\n", descriptors());

    uint64_t cut_ms = 0, end_ms = UINT64_MAX;
    while (now_ms() < end_ms) {
        weir_ctx_block(ctx, 20);
        bool end = false, told = told_something(&end);
        if (told && !end && !cut_ms) {
            cut_ms = now_ms();
            end_ms = cut_ms + 60000;
        }
        if (end && lingers)
            break;
        if (ep && weir_ep_status(ep) != WEIR_OK) {
            printf("failed %lld %s: %s\n", cut_ms ? (long long)(now_ms() - cut_ms) : -1ll,
                   weir_status_string(weir_ep_status(ep)), weir_last_error());
            weir_ep_close(ep);
            ep = NULL;
            end_ms = now_ms() + 10000;
        }
        if (cut_ms && !ep && !lingers && descriptors() <= alone)
            break;
    }
    if (ep)
        printf("unnoticed for %llu ms\n", (unsigned long long)(now_ms() - cut_ms));
    printf("left %d of %d after %llu ms\n", descriptors() - alone, alone, (unsigned long long)(cut_ms ? now_ms() - cut_ms : 0));
    weir_ctx_destroy(ctx);
    return 0;
}
