/*
 * The conformance suite: what every transport must do, through the public API.
 *
 * WEIR_TRANSPORT chooses the transport (default shm); network transports are run with WEIR_INTRANODE=off, so that they
 * are not bypassed. CONFORMANCE_SCALE (default 1) scales the numbers of rounds for slow machines. An argument runs only
 * the tests whose name matches it ('*' and '?'). Exit status 77: the transport cannot be used here, the reason is said.
 */
#include "harness.h"
#include "suite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put),
        cmocka_unit_test(test_get),
        cmocka_unit_test(test_put_signal),
        cmocka_unit_test(test_fetch_add),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_message_sizes),
        cmocka_unit_test(test_no_signal),
        cmocka_unit_test(test_empty_operations),
        cmocka_unit_test(test_many_outstanding),
        cmocka_unit_test(test_signal_after_data),
        cmocka_unit_test(test_signal_after_earlier_puts),
        cmocka_unit_test(test_sleeping_ping_pong),
        cmocka_unit_test(test_sleeping_messages),
        cmocka_unit_test(test_self),
        cmocka_unit_test(test_all_to_all),
        cmocka_unit_test(test_connect_at_once),
        cmocka_unit_test(test_two_endpoints),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_map_peer),
        cmocka_unit_test(test_contexts_of_threads),
        cmocka_unit_test(test_lazy),
        cmocka_unit_test(test_range),
        cmocka_unit_test(test_damaged_keys),
        cmocka_unit_test(test_damaged_addresses),
        cmocka_unit_test(test_stale_key),
        cmocka_unit_test(test_foreign_key),
        cmocka_unit_test(test_unexport),
        cmocka_unit_test(test_unexport_under_way),
        cmocka_unit_test(test_killed_while_idle),
        cmocka_unit_test(test_killed_before_import),
        cmocka_unit_test(test_killed_during_puts),
        cmocka_unit_test(test_killed_before_connecting),
        cmocka_unit_test(test_killed_during_messages),
        cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_close_with_outstanding),
        cmocka_unit_test(test_destroy_with_all_open),
        cmocka_unit_test(test_peer_closes_context),
    };
    if (!suite_may_run(argc, argv))
        return 77;
    return cmocka_run_group_tests_name(transport_name(), tests, NULL, NULL);
}
