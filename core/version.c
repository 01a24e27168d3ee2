/* What this library is: its version and how it was built. */
#include <weir/config.h>

#ifndef WEIR_VERSION
#define WEIR_VERSION "unknown"
#endif

#ifdef __clang__
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

#if defined(__x86_64__)
#define MACHINE "x86-64"
#elif defined(__aarch64__)
#define MACHINE "aarch64"
#else
#define MACHINE "other processor"
#endif

const char *weir_version(void)
{
    return WEIR_VERSION;
}

const char *weir_build_options(void)
{
    return MACHINE ", " COMPILER
#ifdef WEIR_BUILD_TYPE
                   ", " WEIR_BUILD_TYPE
#endif
#ifdef WEIR_SANITIZERS
                   ", sanitizers " WEIR_SANITIZERS
#endif
#ifdef WEIR_WITH_VERBS
                   ", verbs"
#endif
#ifdef WEIR_WITH_UCX
                   ", ucx"
#endif
                   ", shm";
}
