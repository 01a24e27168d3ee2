/* Sizes and durations as people write them. Pure, exact, and the same in every locale. */
#include "core/config.h"
#include "core/error.h"

#include <string.h>
#include <strings.h>

struct unit {
    const char *name;
    uint64_t factor;
};

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define TIB (UINT64_C(1) << 40)

static const struct unit size_units[] = {
    {"", 1},    {"b", 1},    {"k", KIB},   {"kb", KIB}, {"kib", KIB}, {"m", MIB},   {"mb", MIB}, {"mib", MIB},
    {"g", GIB}, {"gb", GIB}, {"gib", GIB}, {"t", TIB},  {"tb", TIB},  {"tib", TIB}, {NULL, 0},
};

static const struct unit duration_units[] = {
    {"", 1000000000},    {"ns", 1},          {"us", 1000},         {"ms", 1000000},      {"s", 1000000000},
    {"sec", 1000000000}, {"m", 60000000000}, {"min", 60000000000}, {"h", 3600000000000}, {NULL, 0},
};

/* More digits than this after the point would not fit in 64 bits, and none of the units needs them. */
enum { FRACTION_DIGITS_MAX = 18 };

/* Reads digits at `*text` and moves it behind them. False: they do not fit. */
static bool parse_digits(const char **text, uint64_t *value)
{
    *value = 0;
    for (; **text >= '0' && **text <= '9'; (*text)++)
        if (__builtin_mul_overflow(*value, 10, value) ||
            __builtin_add_overflow(*value, (uint64_t)(**text - '0'), value))
            return false;
    return true;
}

static const struct unit *find_unit(const struct unit *units, const char *name)
{
    for (; units->name; units++)
        if (strcasecmp(name, units->name) == 0)
            return units;
    return NULL;
}

/* A plain decimal number, then a unit: no sign, exponent, blank. What is left below one
 * byte or nanosecond is cut off. */
static bool parse_with_unit(const char *text, const struct unit *units, uint64_t *result)
{
    const char *rest = text;
    uint64_t whole, fraction = 0, scale = 1;
    if (!parse_digits(&rest, &whole))
        return false;
    size_t digits = (size_t)(rest - text);
    if (*rest == '.') {
        const char *point = rest++;
        if (!parse_digits(&rest, &fraction) || rest - point - 1 > FRACTION_DIGITS_MAX)
            return false;
        for (const char *digit = point + 1; digit < rest; digit++)
            scale *= 10;
        digits += (size_t)(rest - point - 1);
    }
    const struct unit *unit = find_unit(units, rest);
    if (digits == 0 || !unit || __builtin_mul_overflow(whole, unit->factor, &whole))
        return false;
    fraction = (uint64_t)((unsigned __int128)fraction * unit->factor / scale);
    return !__builtin_add_overflow(whole, fraction, result);
}

bool wi_parse_size(const char *text, uint64_t *bytes)
{
    return parse_with_unit(text, size_units, bytes);
}

bool wi_parse_duration(const char *text, uint64_t *ns)
{
    return parse_with_unit(text, duration_units, ns);
}

weir_status weir_parse_size(const char *text, uint64_t *bytes)
{
    if (text && wi_parse_size(text, bytes))
        return WEIR_OK;
    return wi_error(WEIR_ERR_INVALID, "'%.64s': not a size; use e.g. 64K", text ? text : "");
}

weir_status weir_parse_duration(const char *text, uint64_t *ns)
{
    if (text && wi_parse_duration(text, ns))
        return WEIR_OK;
    return wi_error(WEIR_ERR_INVALID, "'%.64s': not a duration; use e.g. 500ms", text ? text : "");
}
