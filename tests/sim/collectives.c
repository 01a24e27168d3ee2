/* Collectives over the simulated network: on every rank the right result, or an error; nobody hangs. */
#include "boot.h"
#include "seeds.h"

static struct boot_job job;

enum { COUNT_MAX = 3000 };

static uint64_t draw_shared(const struct run *run, int call, uint64_t low, uint64_t high)
{
    uint64_t state = wi_sim_mix(run->seed * 64 + (uint64_t)call);
    return wi_sim_between(&state, low, high);
}

/* An all-reduce of numbers that are exact in f32, and its result. */
static bool reduce(struct node *n, weir_comm *comm, int call)
{
    size_t count = draw_shared(n->run, call, 0, COUNT_MAX);
    float *numbers = (float *)(void *)n->local;
    uint64_t since_ns = wi_sim_now(n->run->world);
    float factor = (float)(n->run->ranks * (n->run->ranks + 1) / 2);
    for (size_t i = 0; i < count; i++)
        numbers[i] = (float)((n->rank + 1) * (int)(i % 100 + (size_t)call));
    weir_status status = weir_allreduce(comm, numbers, numbers, count, WEIR_F32, WEIR_SUM);
    if (!wait_ok(n, "all-reduce", status, since_ns))
        return false;
    for (size_t i = 0; i < count; i++) {
        if (numbers[i] == factor * (float)(i % 100 + (size_t)call))
            continue;
        run_failed(n->run, "rank %d: all-reduce %d: element %zu of %zu is %g", n->rank, call, i, count,
                   (double)numbers[i]);
        return false;
    }
    return true;
}

static bool broadcast(struct node *n, weir_comm *comm, int call)
{
    size_t count = draw_shared(n->run, call, 1, COUNT_MAX);
    int root = (int)draw_shared(n->run, call + 32, 0, (uint64_t)n->run->ranks - 1);
    float *numbers = (float *)(void *)n->local;
    uint64_t since_ns = wi_sim_now(n->run->world);
    for (size_t i = 0; i < count; i++)
        numbers[i] = n->rank == root ? (float)(i + (size_t)call) : -1;
    if (!wait_ok(n, "broadcast", weir_broadcast(comm, numbers, count, WEIR_F32, root), since_ns))
        return false;
    for (size_t i = 0; i < count; i++)
        if (numbers[i] != (float)(i + (size_t)call)) {
            run_failed(n->run, "rank %d: broadcast %d: element %zu is %g", n->rank, call, i, (double)numbers[i]);
            return false;
        }
    return true;
}

void collectives_body(struct node *n)
{
    weir_ctx_params params = {.size = sizeof(params), .id = (uint64_t)n->rank, .transport = "sim", .signals = 64};
    weir_comm_params comm_params = {.size = sizeof(comm_params), .chunk = 4096};
    weir_boot boot = {&job, n->rank};
    weir_comm *comm = NULL;
    uint64_t since_ns = wi_sim_now(n->run->world);
    bool good = call_ok(n, "context", weir_ctx_create(&params, &n->ctx));
    if (good && wi_sim_between(&n->random, 0, 1)) /* else it is ordinary memory */
        good = call_ok(n, "register", weir_mem_register(n->ctx, n->local, AREA, &n->local_mem));
    good = good && wait_ok(n, "communicator", weir_comm_create(n->ctx, &boot, &comm_params, &comm), since_ns);
    for (int call = 1, calls = (int)draw_shared(n->run, 0, 1, 5); good && call <= calls; call++) {
        uint64_t kind = draw_shared(n->run, call + 40, 0, 2);
        since_ns = wi_sim_now(n->run->world);
        if (kind == 0)
            good = wait_ok(n, "barrier", weir_barrier(comm), since_ns);
        else
            good = kind == 1 ? reduce(n, comm, call) : broadcast(n, comm, call);
        if (good && wi_sim_between(&n->random, 0, 3) == 0)
            wi_sim_sleep(n->run->world, wi_sim_between(&n->random, 0, 300000));
    }
    weir_comm_destroy(comm);
    weir_ctx_destroy(n->ctx);
}

void collectives_begin(struct run *run)
{
    boot_begin(&job, run, 0);
}
