/*
 * Ranks of one test, and a channel beside the transport by which they give each other addresses and keys and meet at
 * barriers. Ranks are forked processes that share anonymous memory, or threads of one (harness_processes.c), or fibers
 * of a simulated world (harness_sim.c). The parent never calls the library: each job starts fresh, with its own
 * environment.
 *
 * A failed CHECK says where, and ends the rank with status 1; the parent then fails the test. Every rank has a
 * watchdog.
 */
#ifndef TESTS_TRANSPORT_HARNESS_H
#define TESTS_TRANSPORT_HARNESS_H

#include <weir/weir.h>

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

enum {
    RANKS_MAX = 16,
    HELPERS_MAX = 8, /* of a rank, besides the first */
    NOTICES = 8192,
    KEYS_MAX = 4,    /* keys that a rank can publish at a time */
};

/* A value of the exchange; see harness_exchange.c. */
struct notice {
    uint32_t state, len;
    char key[WEIR_EXCHANGE_KEY_MAX + 1];
    uint8_t value[256];
};

/* What ranks tell each other beside the transport. */
struct bulletin {
    uint32_t arrived[RANKS_MAX]; /* barriers each rank has come to */
    int32_t pid[RANKS_MAX];
    uint8_t address[RANKS_MAX][WEIR_ADDRESS_MAX];
    uint32_t address_len[RANKS_MAX];
    uint8_t key[RANKS_MAX][KEYS_MAX][WEIR_RKEY_MAX];
    uint32_t key_len[RANKS_MAX][KEYS_MAX];
    uint64_t number[RANKS_MAX][16]; /* free for the test */
    struct notice notice[NOTICES];
};

struct rank {
    int rank, count;
    struct bulletin *board;
    uint32_t barriers;
    weir_ctx *ctx;
    weir_pool *pool;
    weir_ep *ep[RANKS_MAX]; /* to each rank, oneself included */
    weir_exchange own_exchange;
    const weir_exchange *exchange; /* what rank_open() gives the context; NULL: board_exchange() */
};

/* A test's ranks: `body` runs in each. */
struct job {
    int count;
    void (*body)(struct rank *r);
    const char *timeout; /* WEIR_TIMEOUT, NULL: 30s */
    const char *spin;    /* WEIR_SPIN, NULL: the default */
    unsigned killed;     /* bit mask of ranks that are killed on purpose: their end is not checked */
    bool threads;        /* ranks are threads of one process, each with contexts of its own */
};

/* Runs the job and fails the cmocka test unless every rank ended well. */
void job_run(const struct job *job);

/* Number of rounds, scaled by CONFORMANCE_SCALE (e.g. 0.02 under emulation), at least `least`. */
int rounds(int usual, int least);

/* The transport under test. */
const char *transport_name(void);
bool transport_is(const char *name);

/* Prints "skipped: why" and returns true where the transport cannot be used. To be called in the parent. */
bool transport_is_missing(void);

/* At the start of a suite's main: settles transport and filter (the only argument); false if the suite is skipped. */
bool suite_may_run(int argc, char **argv);

void check_failed(const struct rank *r, const char *file, int line, const char *what, weir_status status)
    __attribute__((noreturn));

#define CHECK(_cond)                                                                                                   \
    do {                                                                                                               \
        if (!(_cond))                                                                                                  \
            check_failed(r, __FILE__, __LINE__, #_cond, WEIR_OK);                                                      \
    } while (0)
#define CHECK_OK(_call) CHECK_STATUS(_call, WEIR_OK)
#define CHECK_STATUS(_call, _expected)                                                                                 \
    do {                                                                                                               \
        weir_status status_ = (_call);                                                                                 \
        if (status_ != (_expected))                                                                                    \
            check_failed(r, __FILE__, __LINE__, #_call, status_);                                                      \
    } while (0)

/* -- in a rank -- */

/* An exchange among the ranks. */
weir_exchange board_exchange(struct rank *r);

/* Makes context (flags as weir_ctx_params) and pool, and publishes the address. */
void rank_open(struct rank *r, unsigned flags);

/* Makes an endpoint to `peer` and waits until it is ready. */
void rank_connect(struct rank *r, int peer);

/* rank_open(), then endpoints from every rank to every rank, itself included. */
void rank_open_all(struct rank *r);

void rank_close(struct rank *r);

/* Memory of either kind. */
struct area {
    unsigned char *ptr;
    size_t len;
    weir_mem *mem;
    bool pooled;
};

void area_make(struct rank *r, struct area *area, size_t len, bool pooled);
void area_free(struct rank *r, struct area *area);

/* Meets all ranks; makes progress meanwhile. Also for one that is not there: the mask names ranks to wait for. */
void barrier(struct rank *r);
void barrier_with(struct rank *r, unsigned mask);

/* Exports memory under a slot of the bulletin. */
void publish(struct rank *r, int slot, weir_mem *mem, void *ptr, size_t len);

/* Imports what `peer` published, after a barrier; *addr (may be NULL) is its first address there. */
weir_rkey *import(struct rank *r, int peer, int slot, uint64_t *addr);

/* Of two ranks: each publishes the whole area (slot 0), they meet, and each imports the other's. */
weir_rkey *swap_keys(struct rank *r, const struct area *area, uint64_t *addr);

/* Makes a signal and tells its number on the board, in number[r->rank][slot]. */
uint32_t signal_open(struct rank *r, int slot);

/* The signal that `peer` told of, after a barrier. */
uint32_t signal_of(const struct rank *r, int peer, int slot);

/* Puts the right checksum behind a blob that was changed, so that the change gets past that check to the backend's own. */
void mend_checksum(uint8_t *blob, size_t len);

/* Flushes the endpoint and waits for it; both must succeed. */
void flush(struct rank *r, weir_ep *ep);

/*
 * A completion that may be left pending, after a wait that timed out: the library goes on using it until its endpoint
 * is closed, so it cannot lie on the stack.
 */
weir_comp *comp_new(struct rank *r);

/* Byte `i` of pattern `seed`. */
static inline unsigned char pattern(unsigned seed, size_t i)
{
    return (unsigned char)((i * 31 + seed * 101 + (i >> 8) * 7 + 1) ^ (i >> 16));
}

void pattern_fill(unsigned char *ptr, size_t len, unsigned seed);

/* Index of the first byte that differs, `len` where none does. */
size_t pattern_differs(const unsigned char *ptr, size_t len, unsigned seed);
size_t bytes_differ(const unsigned char *ptr, size_t len, unsigned char value);

uint64_t now_ns(void);
void sleep_us(unsigned us);

/* Puts the TCP ports on which this process listens on the board, as numbers from `first` on, at most `room` (real processes
 * alone). */
void publish_ports(struct rank *r, int first, int room);

/* One turn of waiting for another rank. */
void give_way(void);

/* This rank's end by SIGKILL; or it stops as by SIGSTOP, and lives no longer if it goes on. */
void rank_die(struct rank *r) __attribute__((noreturn));
void rank_stop(struct rank *r) __attribute__((noreturn));

/* The same for another rank: kills it; waits until it is dead. */
void rank_kill(struct rank *r, int peer);
void rank_await_death(struct rank *r, int peer);

/* Runs main(args[i]) in as many threads of this rank, and waits until all have returned. */
void rank_threads(struct rank *r, int count, void (*main)(void *arg), void **args);

#endif
