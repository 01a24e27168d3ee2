/*
 * UCX and fork(). Its contexts of one process share a thread, which a child does not have: what is made there while the
 * parent's are in use would wait for it for ever.
 */
#include "core/error.h"
#include "transport/ucx/ucx.h"

#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>

static struct {
    pid_t pid;
    unsigned contexts; /* a child's copy counts its parent's */
} user;

weir_status wi_ucx_process_check(void)
{
    if (__atomic_load_n(&user.contexts, __ATOMIC_ACQUIRE) == 0 || __atomic_load_n(&user.pid, __ATOMIC_RELAXED) == getpid())
        return WEIR_OK;
    return wi_error(WEIR_ERR_UNSUPPORTED, "ucx: this process was forked while its parent was using UCX, which does not work "
                                          "here: exec a new program, or fork before the first context is made");
}

void wi_ucx_process_begin(void)
{
    __atomic_store_n(&user.pid, getpid(), __ATOMIC_RELAXED);
    __atomic_add_fetch(&user.contexts, 1, __ATOMIC_RELEASE);
}

void wi_ucx_process_end(void)
{
    __atomic_sub_fetch(&user.contexts, 1, __ATOMIC_RELEASE);
}

/* Linux 5.12: registered pages, huge ones too. */
bool wi_ucx_fork_copies_registered(void)
{
    struct utsname name;
    int major = 0, minor = 0;
    return uname(&name) == 0 && sscanf(name.release, "%d.%d", &major, &minor) == 2 &&
           (major > 5 || (major == 5 && minor >= 12));
}
