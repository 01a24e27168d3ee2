/* Put before libweir with LD_PRELOAD, it makes the version another one than that of everybody else. */
#include <weir/config.h>

const char *weir_version(void)
{
    return "99.0.0";
}
