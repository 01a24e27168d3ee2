/* Checks of programs without a test framework. The program has fail(), which says what is not so, and ends. */
#ifndef TESTS_SUPPORT_CHECK_H
#define TESTS_SUPPORT_CHECK_H

static void fail(int line, const char *what);

#define CHECK(_cond)                                                                                                   \
    do {                                                                                                               \
        if (!(_cond))                                                                                                  \
            fail(__LINE__, #_cond);                                                                                    \
    } while (0)
#define CHECK_OK(_call) CHECK((_call) == WEIR_OK)

#endif
