/*
 * What Weir sets for UCX. Settings for transports that are not on this host are no complaint, though UCX says so, and nobody is
 * to be alarmed. And UCX makes no shared memory that nobody uses.
 */
#include "transport/ucx/ucx.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static int log_fd;

static void open_and_close(void)
{
    weir_ctx *ctx;
    weir_ctx_params params = {.size = sizeof(params), .transport = "ucx", .bind_address = "127.0.0.1"};
    if (weir_transport_probe("ucx", NULL, 0) != WEIR_OK)
        skip();
    assert_int_equal(weir_ctx_create(&params, &ctx), WEIR_OK);
    weir_ctx_destroy(ctx);
}

/* Over TCP alone nothing reads the settings for RDMA devices, whether there are some or not. */
static void test_log_at_info_is_calm(void **state)
{
    (void)state;
    char text[4096] = "";
    open_and_close();
    assert_true(pread(log_fd, text, sizeof(text) - 1, 0) > 0);
    assert_non_null(strstr(text, "transport ucx on "));
    assert_null(strstr(text, "invalid"));
    assert_null(strstr(text, "FORK_INIT"));
}

static void test_errors_do_not_quote_it(void **state)
{
    (void)state;
    open_and_close();
    assert_int_equal(wi_ucx_error(UCS_ERR_NO_MEMORY, "trying"), WEIR_ERR_NO_MEMORY);
    assert_string_equal(weir_last_error(), "UCX: trying: Out of memory; UCX_TLS=tcp,self");
}

/* Do mappings of this process have names with this in it? */
static bool maps(const char *what)
{
    char line[512];
    bool found = false;
    FILE *file = fopen("/proc/self/maps", "re");
    assert_non_null(file);
    while (!found && fgets(line, sizeof(line), file))
        found = strstr(line, what);
    fclose(file);
    return found;
}

static void test_no_shared_memory(void **state)
{
    (void)state;
    weir_ctx *ctx;
    weir_ctx_params params = {.size = sizeof(params), .transport = "ucx", .bind_address = "127.0.0.1"};
    unsetenv("UCX_TLS");
    assert_int_equal(weir_ctx_create(&params, &ctx), WEIR_OK);
    assert_false(maps("ucx_shm_posix") || maps("/SYSV"));
    weir_ctx_destroy(ctx);
    setenv("UCX_POSIX_ERROR_HANDLING", "y", 1);
    assert_int_equal(weir_ctx_create(&params, &ctx), WEIR_OK);
    assert_true(maps("ucx_shm_posix"));
    weir_ctx_destroy(ctx);
    unsetenv("UCX_POSIX_ERROR_HANDLING");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_log_at_info_is_calm),
        cmocka_unit_test(test_errors_do_not_quote_it),
        cmocka_unit_test(test_no_shared_memory),
    };
    char path[64];
    log_fd = memfd_create("log", 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", log_fd);
    setenv("WEIR_LOG", "info", 1);
    setenv("WEIR_LOG_FILE", path, 1);
    setenv("UCX_TLS", "tcp,self", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
