/* Device memory where no backend reaches it: said in a sentence, whatever the descriptor is. */
#include <weir/weir.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void refused_by(const char *transport, const char *names)
{
    weir_ctx *ctx = NULL;
    weir_mem *mem = NULL;
    weir_ctx_params params = {.size = sizeof(params), .transport = transport};
    if (weir_ctx_create(&params, &ctx) != WEIR_OK) {
        print_message("%s\n", weir_last_error());
        skip();
    }
    assert_int_equal(weir_mem_register_dmabuf(ctx, 0, 0, 4096, NULL, &mem), WEIR_ERR_UNSUPPORTED);
    assert_non_null(strstr(weir_last_error(), names));
    assert_non_null(strstr(weir_last_error(), "WEIR_TRANSPORT=verbs"));
    assert_int_equal(weir_mem_register_dmabuf(ctx, 0, 0, 0, NULL, &mem), WEIR_ERR_INVALID);
    assert_null(mem);
    assert_int_equal(weir_mem_is_device(ctx, &mem, sizeof(mem)), 0);
    weir_ctx_destroy(ctx);
}

static void test_shm(void **state)
{
    (void)state;
    refused_by("shm", "shm");
}

static void test_ucx(void **state)
{
    (void)state;
    setenv("UCX_TLS", "tcp,self", 1);
    refused_by("ucx", "shm and ucx");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shm),
        cmocka_unit_test(test_ucx),
    };
    return cmocka_run_group_tests_name("device memory", tests, NULL, NULL);
}
