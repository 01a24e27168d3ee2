/*
 * The send queue when it is full. With libstrict_device.so preloaded soft-RoCE is taken for an adapter, whose queues have as
 * many places as words for results. Needs a device (soft-RoCE will do); exit status 77: there is none.
 */
#include "harness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Far more fetch_adds than fit, into memory that is not registered: each gets its own result. */
static void results_body(struct rank *r)
{
    enum { COUNT = 2000 };
    static uint64_t result[COUNT];
    struct area word;
    uint64_t remote;
    rank_open_all(r);
    area_make(r, &word, sizeof(uint64_t), true);
    memset(word.ptr, 0, word.len);
    publish(r, 0, word.mem, word.ptr, word.len);
    barrier(r);
    weir_rkey *rkey = import(r, 0, 0, &remote);
    weir_comp *comp = comp_new(r);
    for (int i = 0; i < COUNT; i++)
        CHECK_OK(weir_fetch_add(r->ep[0], 1, &result[i], NULL, remote, rkey, comp));
    CHECK_OK(weir_wait(r->ctx, comp, -1));
    for (uint64_t i = 0; i < COUNT; i++)
        CHECK(result[i] == i);
    weir_rkey_destroy(rkey);
    rank_close(r);
}

static void test_results_of_a_full_queue(void **state)
{
    (void)state;
    job_run(&(struct job){.count = 1, .body = results_body});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_results_of_a_full_queue),
    };
    setenv("WEIR_TRANSPORT", "verbs", 1);
    setenv("WEIR_INTRANODE", "off", 1);
    setenv("WEIR_VERBS_DEPTH", "16", 1);
    if (transport_is_missing())
        return 77;
    return cmocka_run_group_tests_name("verbs queue", tests, NULL, NULL);
}
