/* The parts of the conformance suite; each file gives its tests to the one program. */
#ifndef TESTS_TRANSPORT_SUITE_H
#define TESTS_TRANSPORT_SUITE_H

/* test_operations.c */
void test_put(void **state);
void test_get(void **state);
void test_put_signal(void **state);
void test_fetch_add(void **state);
void test_messages(void **state);
void test_message_sizes(void **state);
void test_no_signal(void **state);
void test_empty_operations(void **state);
void test_many_outstanding(void **state);

/* test_ordering.c */
void test_signal_after_data(void **state);
void test_signal_after_earlier_puts(void **state);
void test_sleeping_ping_pong(void **state);
void test_sleeping_messages(void **state);

/* test_peers.c */
void test_self(void **state);
void test_all_to_all(void **state);
void test_connect_at_once(void **state);
void test_two_endpoints(void **state);
void test_threads(void **state);
void test_map_peer(void **state);

/* test_contexts.c */
void test_contexts_of_threads(void **state);

/* test_connections.c */
void test_lazy(void **state);

/* test_keys.c */
void test_range(void **state);
void test_damaged_keys(void **state);
void test_damaged_addresses(void **state);
void test_stale_key(void **state);
void test_foreign_key(void **state);
void test_unexport(void **state);
void test_unexport_under_way(void **state);

/* test_faults.c */
void test_killed_while_idle(void **state);
void test_killed_before_import(void **state);
void test_killed_during_puts(void **state);
void test_killed_before_connecting(void **state);
void test_killed_during_messages(void **state);
void test_stopped(void **state);
void test_close_with_outstanding(void **state);
void test_destroy_with_all_open(void **state);
void test_peer_closes_context(void **state);

#endif
