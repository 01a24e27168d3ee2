/* WEIR_INTERFACE as a name, as an address, and as neither. */
#include "core/error.h"
#include "transport/context.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void test_names_and_addresses(void **state)
{
    (void)state;
    char address[64];
    assert_int_equal(wi_interface_address("lo", address, sizeof(address)), WEIR_OK);
    assert_string_equal(address, "127.0.0.1");
    assert_int_equal(wi_interface_address("127.1.2.3", address, sizeof(address)), WEIR_OK);
    assert_string_equal(address, "127.1.2.3");
}

static void test_what_is_not_there_is_told(void **state)
{
    (void)state;
    char address[64];
    assert_int_equal(wi_interface_address("ib99", address, sizeof(address)), WEIR_ERR_CONFIG);
    assert_non_null(strstr(weir_last_error(), "WEIR_INTERFACE=ib99: there is no such interface; there are"));
    assert_non_null(strstr(weir_last_error(), " lo"));
    const char *const not_ours[] = {"192.0.2.1", "2001:db8::1"}; /* for documentation: nobody's */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(wi_interface_address(not_ours[i], address, sizeof(address)), WEIR_ERR_CONFIG);
        assert_non_null(strstr(weir_last_error(), not_ours[i]));
    }
    assert_non_null(strstr(weir_last_error(), "this host"));
    assert_int_equal(wi_interface_address("10.1.2", address, sizeof(address)), WEIR_ERR_CONFIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_and_addresses),
        cmocka_unit_test(test_what_is_not_there_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
