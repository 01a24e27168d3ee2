/* The benchmark: what its files share. Uses the public API alone, as any program would. */
#ifndef WEIR_PERF_H
#define WEIR_PERF_H

#include <weir/weir.h>

#include <stdbool.h>

enum { SIZES_MAX = 64, RANKS_MAX = 256 /* and as many servers */, WAYS_MAX = 64 };

#define GID_BY_ROUTE SIZE_MAX

struct options {
    const struct benchmark *benchmark;
    size_t sizes[SIZES_MAX];
    int size_count;
    bool all;          /* sizes by --all: those that fit */
    size_t iterations; /* 0: chosen by size */
    size_t warmup;     /* 0: a tenth of the iterations */
    size_t window;     /* operations in flight; 0: not said */
    const char *device; /* of -d */
    size_t gid;         /* index of its GID, or GID_BY_ROUTE */
    size_t ways;       /* endpoints to the partner; 0: not said */
    int ranks;         /* local processes to start when no launcher did */
    int servers;
    int threads;       /* pool: at most; 0: 2 */
    bool check;
    bool self_test;        /* spoil one operation of each size: the check must notice */
    bool json;
    bool ordinary;         /* ordinary memory instead of the pool's */
    bool unregistered;     /* and not registered by us: the library does what it needs */
    bool both;             /* bandwidth: both sides of a pair send at once */
    bool compare;          /* beside another program: perf/compare does it */
    double duration_s;     /* bandwidth: measure for so long; 0: by iterations */
    const char *operation; /* ps: push, pull, push_pull; allreduce: the name of a type */
};

/* One process of the benchmark. */
struct process {
    const struct options *options;
    weir_boot *boot;
    weir_ctx *ctx;
    weir_pool *pool;
    int rank, ranks;
};

/* An endpoint to the partner, with a key of its own. */
struct way {
    weir_ep *ep;
    weir_rkey *rkey;
};

/* The two ends of a point-to-point benchmark: rank i of the first half is paired with i of the second. */
struct pair {
    weir_ep *ep;     /* of the first way */
    weir_rkey *rkey;
    struct way ways[WAYS_MAX], *way; /* -q: streams take one after the other; the next one */
    uint64_t remote;       /* the partner's buffer */
    unsigned char *buffer; /* ours: first half is written to by the partner, second half is what we send */
    unsigned char *source;
    unsigned char *unregistered; /* `source`, where it is memory of its own; NULL otherwise */
    weir_mem *mem, *source_mem; /* of the buffer; of `source`, NULL: the library looks itself */
    size_t room; /* bytes of each half */
    uint32_t signal, partner_signal;
    int partner;
    bool first; /* the side that starts and measures */
    uint64_t posted; /* operations of a stream, ours, over all sizes */
    uint64_t came;   /* messages of the partner's stream */
    bool shares_memory; /* the partner writes with a core of this host */
};

/* What was measured at one size. Times are those of one operation; bandwidth counts payload bytes. */
struct result {
    size_t size, iterations;
    double min_us, median_us, p99_us, gb_s;
    double bus_gb_s; /* collectives: scaled to the load of the links; 0: not of this benchmark */
    double total_gb_s, total_mops; /* bandwidth: of all senders together, with millions of operations a second; 0: not so */
};

struct benchmark {
    const char *name, *help;
    size_t default_sizes[8]; /* ends with the first 0 after index 0 */
    int ranks, servers;      /* when started by hand */
    size_t unit, size_max;   /* sizes are multiples of it, and at most so many bytes; 0: any */
    bool pairs;              /* of ranks */
    weir_status (*run)(struct process *process);
};

extern const struct benchmark benchmarks[]; /* ends with an entry without name */

/* Do they fit the benchmark and this host? Told on standard error if not (fit.c). */
bool options_fit(struct options *options);

/* -x: has the library use the GID of this index, of `device` (NULL: WEIR_DEVICE's). 0, or 2 when it has said why not. */
int choose_gid(const char *device, size_t index);

/* Parses the command line. 0: go on; 1: help was printed; 2: bad, told on standard error. */
int options_parse(int argc, char **argv, struct options *options);

/* The type of this name, WEIR_DTYPES if there is none. */
weir_dtype dtype_named(const char *name);

/*
 * Started by hand, without a launcher: forks `ranks + servers` local processes and waits for them, then returns their
 * worst exit status in `*exit_status` with true. False: this is one of the processes, go on.
 */
bool launch_local(const struct options *options, int *exit_status);

/* Becomes perf/compare, or its installed copy, for this benchmark and these sizes. Returns an exit status if it cannot. */
int compare_instead(const struct options *options);
bool compares(const struct benchmark *benchmark); /* there is a peer that does the same */

/* Samples are seconds of `per_sample` operations each; sorts them. */
void result_from_samples(double *samples, size_t count, size_t per_sample, size_t size, struct result *result);

/* Prints the heading, one line a result, and the end, as a table or as JSON. Call on one process only. */
void report_begin(const struct process *process);
void report_result(const struct process *process, const struct result *result);
void report_end(const struct process *process);

weir_status pair_init(struct pair *pair, struct process *process);
void pair_fini(struct pair *pair, struct process *process);

/*
 * Returns when the partner has called it too. Makes progress meanwhile, unlike a wait in the bootstrap: the partner may
 * need it to connect, to flush, and for what a transport emulates.
 */
weir_status pair_meet(struct pair *pair, struct process *process);

/* How many iterations for a size. */
size_t iterations_for(const struct options *options, size_t size);

/* ---- check.c: each tells on standard error what is wrong, and gives WEIR_ERR_PROTOCOL ---- */

/* The data at byte `at` that arrived is not what was sent. */
weir_status check_failed(const struct process *process, size_t size, size_t at);

/* Data of `size` bytes: makes them at the sender, compares them at the receiver. */
void check_fill(const struct process *process, unsigned char *data, size_t size);
weir_status check_data(const struct process *process, const unsigned char *data, size_t size);

/* Numbers a message, which check_fill() has made; compares number, length, and mostly the rest. */
void check_stamp(unsigned char *message, size_t size, uint64_t number);
weir_status check_message(const struct process *process, const unsigned char *message, size_t len, size_t size,
                          uint64_t number);

/* Have as many come as were sent? */
weir_status check_count(const struct process *process, const char *what, uint64_t came, uint64_t due);

/* A clock, in ticks of the processor's counter where there is one, and in seconds. */
uint64_t now_ticks(void);
double ticks_s(uint64_t ticks);
double now_s(void);

weir_status run_put_lat(struct process *process);
weir_status run_put_signal_lat(struct process *process);
weir_status run_put_bw(struct process *process);
weir_status run_put_signal_bw(struct process *process);
weir_status run_get_bw(struct process *process);
weir_status run_fetch_add_bw(struct process *process);
weir_status run_send_bw(struct process *process);
weir_status run_get_lat(struct process *process);
weir_status run_fetch_add_lat(struct process *process);
weir_status run_send_lat(struct process *process);
weir_status run_allreduce(struct process *process);
weir_status run_ps(struct process *process);
weir_status run_pool(struct process *process);

#endif
