/* Names and sizes of types and operations. */
#include <weir/collectives.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[] = {
    [WEIR_F32] = {"f32", 4}, [WEIR_F64] = {"f64", 8}, [WEIR_F16] = {"f16", 2}, [WEIR_BF16] = {"bf16", 2},
    [WEIR_I8] = {"i8", 1},   [WEIR_I16] = {"i16", 2}, [WEIR_I32] = {"i32", 4}, [WEIR_I64] = {"i64", 8},
    [WEIR_U8] = {"u8", 1},   [WEIR_U16] = {"u16", 2}, [WEIR_U32] = {"u32", 4}, [WEIR_U64] = {"u64", 8},
};

static const char *const redops[] = {
    [WEIR_SUM] = "sum", [WEIR_PROD] = "prod", [WEIR_MIN] = "min", [WEIR_MAX] = "max", [WEIR_AVG] = "avg",
};

_Static_assert(sizeof(dtypes) / sizeof(dtypes[0]) == WEIR_DTYPES, "each type has a name");
_Static_assert(sizeof(redops) / sizeof(redops[0]) == WEIR_REDOPS, "each operation has a name");

size_t weir_dtype_size(weir_dtype dtype)
{
    return (unsigned)dtype < WEIR_DTYPES ? dtypes[dtype].size : 0;
}

const char *weir_dtype_name(weir_dtype dtype)
{
    return (unsigned)dtype < WEIR_DTYPES ? dtypes[dtype].name : NULL;
}

const char *weir_redop_name(weir_redop op)
{
    return (unsigned)op < WEIR_REDOPS ? redops[op] : NULL;
}
