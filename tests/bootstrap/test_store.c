/* The table of keys: values are written once, waiters are told once. */
#include "bootstrap/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void many_keys_are_kept(void **state)
{
    struct wi_store store = {0};
    struct wi_span value;
    char key[32];
    (void)state;
    for (int i = 0; i < 5000; i++) {
        snprintf(key, sizeof(key), "key %d", i);
        assert_int_equal(wi_store_put(&store, wi_span_text(key), (struct wi_span){&i, sizeof(i)}), WEIR_OK);
    }
    for (int i = 0; i < 5000; i++) {
        snprintf(key, sizeof(key), "key %d", i);
        assert_true(wi_store_get(&store, wi_span_text(key), &value));
        assert_int_equal(value.len, sizeof(i));
        assert_memory_equal(value.data, &i, sizeof(i));
    }
    assert_false(wi_store_get(&store, wi_span_text("key 5000"), &value));
    assert_int_equal(wi_store_put(&store, wi_span_text("key 7"), (struct wi_span){0}), WEIR_ERR_MISMATCH);
    wi_store_fini(&store);
    assert_false(wi_store_get(&store, wi_span_text("key 7"), &value));
}

static void waiters_are_told_in_order(void **state)
{
    struct wi_store store = {0};
    struct wi_link first;
    struct wi_link second;
    struct wi_span value;
    void *owner;
    uint32_t request;
    struct wi_span key = wi_span_text("key");
    (void)state;
    wi_link_init(&first);
    wi_link_init(&second);
    assert_int_equal(wi_store_wait(&store, key, &first, &first, 1), WEIR_OK);
    assert_int_equal(wi_store_wait(&store, key, &second, &second, 2), WEIR_OK);
    assert_int_equal(wi_store_wait(&store, key, &first, &first, 3), WEIR_OK);
    assert_int_equal(wi_store_wait(&store, wi_span_text("other"), &first, &first, 4), WEIR_OK);
    assert_false(wi_store_get(&store, key, &value)); /* waited for is not stored */
    wi_store_forget(&second);
    assert_int_equal(wi_store_put(&store, key, (struct wi_span){0}), WEIR_OK);
    assert_true(wi_store_get(&store, key, &value));
    assert_int_equal(value.len, 0);
    for (uint32_t expected = 1; expected <= 3; expected += 2) {
        assert_true(wi_store_next_waiter(&store, key, &owner, &request));
        assert_ptr_equal(owner, &first);
        assert_int_equal(request, expected);
    }
    assert_false(wi_store_next_waiter(&store, key, &owner, &request));
    wi_store_fini(&store); /* with a waiter left */
    assert_ptr_equal(first.next, &first);
}

/* Who has come counts, also when it does not wait any more; all who wait are told when the last one comes. */
static void meetings_are_complete_with_the_last_one(void **state)
{
    struct wi_store store = {0};
    struct wi_link owners[3];
    void *owner;
    uint32_t request;
    struct wi_span key = wi_span_text("meeting"), none = wi_span_text("");
    (void)state;
    for (int i = 0; i < 3; i++)
        wi_link_init(&owners[i]);
    assert_int_equal(wi_store_meet(&store, key, 0, 3, none, &owners[0], &owners[0], 10), WEIR_ERR_AGAIN);
    assert_int_equal(wi_store_meet(&store, key, 1, 3, none, &owners[1], &owners[1], 11), WEIR_ERR_AGAIN);
    assert_int_equal(wi_store_meet(&store, wi_span_text("other"), 0, 1, none, &owners[1], &owners[1], 9), WEIR_OK);
    wi_store_forget(&owners[0]);
    assert_int_equal(wi_store_meet(&store, key, 2, 3, none, &owners[2], &owners[2], 12), WEIR_OK);
    for (uint32_t i = 1; i < 3; i++) {
        assert_true(wi_store_next_waiter(&store, key, &owner, &request));
        assert_ptr_equal(owner, &owners[i]);
        assert_int_equal(request, 10 + i);
    }
    assert_false(wi_store_next_waiter(&store, key, &owner, &request));
    wi_store_fini(&store);
}

/* By number, whatever their order; who brings what does not fit is told. */
static void meetings_hold_what_was_brought(void **state)
{
    struct wi_store store = {0};
    struct wi_link owners[3];
    struct wi_span key = wi_span_text("meeting");
    uint32_t count;
    static const char *const pieces[] = {"zero", "one", "two"};
    (void)state;
    for (uint32_t i = 0; i < 3; i++)
        wi_link_init(&owners[i]);
    for (uint32_t i = 2; i > 0; i--)
        assert_int_equal(wi_store_meet(&store, key, i, 3, wi_span_text(pieces[i]), &owners[i], &owners[i], i),
                         WEIR_ERR_AGAIN);
    assert_int_equal(wi_store_meet(&store, key, 2, 3, wi_span_text("again"), NULL, &owners[0], 9), WEIR_ERR_MISMATCH);
    assert_int_equal(wi_store_meet(&store, key, 3, 3, wi_span_text("more"), NULL, &owners[0], 9), WEIR_ERR_MISMATCH);
    assert_int_equal(wi_store_meet(&store, key, 0, 4, wi_span_text("four"), NULL, &owners[0], 9), WEIR_ERR_MISMATCH);
    assert_true(wi_store_pieces(&store, key, &count)[0].data == NULL && count == 3);
    assert_null(wi_store_pieces(&store, wi_span_text("none"), &count));
    assert_int_equal(wi_store_meet(&store, key, 0, 3, wi_span_text(pieces[0]), &owners[0], &owners[0], 0), WEIR_OK);
    const struct wi_span *all = wi_store_pieces(&store, key, &count);
    for (int i = 0; i < 3; i++)
        assert_true(all[i].len == strlen(pieces[i]) && memcmp(all[i].data, pieces[i], all[i].len) == 0);
    wi_store_fini(&store);
}

static void queues_are_in_order(void **state)
{
    struct wi_store store = {0};
    char at[WEIR_BOOT_KEY_MAX + 1], name[WEIR_BOOT_KEY_MAX + 1] = "";
    struct wi_span value;
    (void)state;
    assert_int_equal(wi_store_put(&store, wi_span_text("q/1"), wi_span_text("in the way")), WEIR_OK);
    assert_int_equal(wi_store_append(&store, wi_span_text("q"), wi_span_text("a"), at), WEIR_OK);
    assert_string_equal(at, "q/0");
    assert_int_equal(wi_store_append(&store, wi_span_text("q"), wi_span_text("b"), at), WEIR_OK);
    assert_string_equal(at, "q/2");
    assert_true(wi_store_get(&store, wi_span_text("q/2"), &value) && value.len == 1 && !memcmp(value.data, "b", 1));
    assert_int_equal(wi_store_append(&store, wi_span_text("r"), wi_span_text("c"), at), WEIR_OK);
    assert_string_equal(at, "r/0");
    memset(name, 'n', sizeof(name) - 2);
    assert_int_equal(wi_store_append(&store, wi_span_text(name), wi_span_text("d"), at), WEIR_ERR_RANGE);
    wi_store_fini(&store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_keys_are_kept),
        cmocka_unit_test(waiters_are_told_in_order),
        cmocka_unit_test(meetings_are_complete_with_the_last_one),
        cmocka_unit_test(meetings_hold_what_was_brought),
        cmocka_unit_test(queues_are_in_order),
    };
    return cmocka_run_group_tests_name("bootstrap: store", tests, NULL, NULL);
}
