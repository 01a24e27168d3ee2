/*
 * The kernels of one vector width, written with the compiler's vector types. reduce.c includes this once a width, with
 * WIDTH (bytes of a vector), TARGET (the attribute that allows such vectors), LEVEL(name) (the form of names for this width)
 * and, where the processor converts f16, F16_TO_F32 and F32_TO_F16. All widths compute the same pairs in the same way, so
 * results do not depend on the choice, but for which of the NaNs a NaN is.
 *
 * f16 and bf16 are reduced as f32, and each result is rounded to the nearest number of the type, to the even one of two.
 */

typedef float LEVEL(floats) __attribute__((vector_size(WIDTH)));
typedef uint32_t LEVEL(words) __attribute__((vector_size(WIDTH)));
typedef uint16_t LEVEL(halves) __attribute__((vector_size(WIDTH / 2)));

/* Picks x where the comparison holds, else y. */
#define PICK(_vector, _mask, _x, _y)                                                                                   \
    ((_vector)(((__typeof__(_mask))(_x) & (_mask)) | ((__typeof__(_mask))(_y) & ~(_mask))))

/* ---- 16-bit floats ----------------------------------------------------------------------------------------------- */

#ifdef F16_TO_F32
TARGET static inline LEVEL(floats) LEVEL(from_f16)(LEVEL(halves) x)
{
    return F16_TO_F32(x);
}

TARGET static inline LEVEL(halves) LEVEL(to_f16)(LEVEL(floats) x)
{
    return F32_TO_F16(x);
}
#else
/*
 * The exponent moves by 112, the difference of the biases. That of infinities and NaNs has all bits set and moves once more.
 * What is below the normal numbers gets a leading one, and the subtraction takes it off again. Both functions: F. Giesen,
 * "Float->half variants" (2012), without denormal f32, which a program may have switched off.
 */
TARGET static inline LEVEL(floats) LEVEL(from_f16)(LEVEL(halves) x)
{
    LEVEL(words) all = __builtin_convertvector(x, LEVEL(words)), sign = (all & 0x8000) << 16;
    LEVEL(words) bits = (all & 0x7fff) << 13, normal = bits + (112u << 23), one = (LEVEL(words)){0} + (113u << 23);
    LEVEL(words) small = (LEVEL(words))((LEVEL(floats))(bits + one) - (LEVEL(floats))one);
    LEVEL(words) finite = PICK(LEVEL(words), bits < (1u << 23), small, normal);
    return (LEVEL(floats))(PICK(LEVEL(words), bits >= (31u << 23), normal + (112u << 23), finite) | sign);
}

/* Small numbers are rounded by an addition that leaves no room for more of their bits, others by half of what is cut off. */
TARGET static inline LEVEL(halves) LEVEL(to_f16)(LEVEL(floats) x)
{
    LEVEL(words) all = (LEVEL(words))x, bits = all & 0x7fffffff, sign = (all ^ bits) >> 16;
    LEVEL(words) magic = (LEVEL(words)){0} + (126u << 23);
    LEVEL(words) small = (LEVEL(words))((LEVEL(floats))bits + (LEVEL(floats))magic) - magic;
    LEVEL(words) normal = (bits - (112u << 23) + 0xfff + (bits >> 13 & 1)) >> 13;
    LEVEL(words) finite = PICK(LEVEL(words), bits < (113u << 23), small, normal);
    LEVEL(words) special = 0x7c00 | ((LEVEL(words))(bits > (255u << 23)) & 0x200);
    return __builtin_convertvector(PICK(LEVEL(words), bits >= (143u << 23), special, finite) | sign, LEVEL(halves));
}
#endif

/*
 * The bits of an f32 rounded to its upper half, a bf16; what is in the lower half then means nothing. A NaN stays one: that of an
 * operation on bf16, or of infinities, has no bits there, so nothing is carried.
 */
TARGET static inline LEVEL(words) LEVEL(round_bf16)(LEVEL(floats) x)
{
    LEVEL(words) bits = (LEVEL(words))x;
    return bits + 0x7fff + (bits >> 16 & 1);
}

/* ---- Kernels ----------------------------------------------------------------------------------------------------- */

/* A kernel for all bytes, of a function for two parts: vectors of numbers as they are in memory. A rest is computed in a part
 * with zeros behind it. */
#define LOOP(_name, _part)                                                                                             \
    TARGET static void LEVEL(_name)(void *out, const void *left, const void *right, size_t bytes)                      \
    {                                                                                                                  \
        typedef _part loose __attribute__((aligned(1), may_alias));                                                    \
        enum { STEP = sizeof(_part) };                                                                                 \
        unsigned char *to = out;                                                                                       \
        const unsigned char *a = left, *b = right;                                                                     \
        size_t i = 0;                                                                                                  \
        for (; i + 2 * STEP <= bytes; i += 2 * STEP) {                                                                 \
            _part low = LEVEL(_name##_step)(*(const loose *)(a + i), *(const loose *)(b + i));                         \
            _part high = LEVEL(_name##_step)(*(const loose *)(a + i + STEP), *(const loose *)(b + i + STEP));          \
            *(loose *)(to + i) = low;                                                                                  \
            *(loose *)(to + i + STEP) = high;                                                                          \
        }                                                                                                              \
        for (size_t len; i < bytes; i += len) {                                                                        \
            _part x = {0}, y = {0};                                                                                    \
            len = bytes - i < STEP ? bytes - i : STEP;                                                                 \
            memcpy(&x, a + i, len);                                                                                    \
            memcpy(&y, b + i, len);                                                                                    \
            x = LEVEL(_name##_step)(x, y);                                                                             \
            memcpy(to + i, &x, len);                                                                                   \
        }                                                                                                              \
    }

/* `load` turns a part into a vector, x or y, of what is computed with, and `save` turns the result back. */
#define KERNEL(_name, _part, _vector, _load, _save, _result)                                                           \
    TARGET static inline _part LEVEL(_name##_step)(_part a, _part b)                                                   \
    {                                                                                                                  \
        _vector x = _load(a), y = _load(b);                                                                            \
        return _save(_result);                                                                                         \
    }                                                                                                                  \
    LOOP(_name, _part)

/* bf16, two in a word: the one in the lower half is moved up, the other is there already. */
#define KERNEL_BF16(_name, _part, _vector, _load, _save, _result)                                                      \
    TARGET static inline LEVEL(words) LEVEL(_name##_half)(LEVEL(words) a, LEVEL(words) b)                              \
    {                                                                                                                  \
        LEVEL(floats) x = (LEVEL(floats))a, y = (LEVEL(floats))b;                                                      \
        return LEVEL(round_bf16)(_result);                                                                             \
    }                                                                                                                  \
    TARGET static inline LEVEL(words) LEVEL(_name##_step)(LEVEL(words) a, LEVEL(words) b)                              \
    {                                                                                                                  \
        LEVEL(words) low = LEVEL(_name##_half)(a << 16, b << 16);                                                      \
        LEVEL(words) high = LEVEL(_name##_half)(a & 0xffff0000, b & 0xffff0000);                                       \
        return low >> 16 | (high & 0xffff0000);                                                                        \
    }                                                                                                                  \
    LOOP(_name, LEVEL(words))

/* The same for the division of all numbers by one. */
#define LOOP_DIVISION(_name, _part, _number)                                                                           \
    TARGET static void LEVEL(_name)(void *data, size_t bytes, uint32_t divisor)                                        \
    {                                                                                                                  \
        typedef _part loose __attribute__((aligned(1), may_alias));                                                    \
        enum { STEP = sizeof(_part) };                                                                                 \
        unsigned char *at = data, *end = at + bytes;                                                                   \
        _part rest = {0};                                                                                              \
        for (; at + STEP <= end; at += STEP)                                                                           \
            *(loose *)at = LEVEL(_name##_step)(*(const loose *)at, (_number)divisor);                                  \
        memcpy(&rest, at, (size_t)(end - at));                                                                         \
        rest = LEVEL(_name##_step)(rest, (_number)divisor);                                                            \
        memcpy(at, &rest, (size_t)(end - at));                                                                         \
    }

#define DIVISION(_name, _part, _load, _save, _number)                                                                  \
    TARGET static inline _part LEVEL(_name##_step)(_part a, _number divisor)                                           \
    {                                                                                                                  \
        return _save(_load(a) / divisor);                                                                              \
    }                                                                                                                  \
    LOOP_DIVISION(_name, _part, _number)

#define DIVISION_BF16(_name, _part, _load, _save, _number)                                                             \
    TARGET static inline LEVEL(words) LEVEL(_name##_step)(LEVEL(words) a, float divisor)                               \
    {                                                                                                                  \
        LEVEL(words) low = LEVEL(round_bf16)((LEVEL(floats))(a << 16) / divisor);                                      \
        LEVEL(words) high = LEVEL(round_bf16)((LEVEL(floats))(a & 0xffff0000) / divisor);                              \
        return low >> 16 | (high & 0xffff0000);                                                                        \
    }                                                                                                                  \
    LOOP_DIVISION(_name, LEVEL(words), float)

#define AS_IT_IS(_x) (_x)

/* In a comparison a NaN is picked, on whichever side it stands. `form`: empty, or _BF16. */
#define FLOATS(_form, _type, _part, _vector, _load, _save, _number)                                                    \
    KERNEL##_form(sum_##_type, _part, _vector, _load, _save, (x + y))                                                  \
    KERNEL##_form(prod_##_type, _part, _vector, _load, _save, (x * y))                                                 \
    KERNEL##_form(min_##_type, _part, _vector, _load, _save, PICK(_vector, (x < y) | (x != x), x, y))                  \
    KERNEL##_form(max_##_type, _part, _vector, _load, _save, PICK(_vector, (x > y) | (x != x), x, y))                  \
    DIVISION##_form(divide_##_type, _part, _load, _save, _number)

/* Sums and products of signed numbers are those of unsigned ones, which may overflow. */
#define INTEGERS(_bits)                                                                                                \
    typedef int##_bits##_t LEVEL(i##_bits) __attribute__((vector_size(WIDTH)));                                        \
    typedef uint##_bits##_t LEVEL(u##_bits) __attribute__((vector_size(WIDTH)));                                       \
    KERNEL(sum_##_bits, LEVEL(u##_bits), LEVEL(u##_bits), AS_IT_IS, AS_IT_IS, (x + y))                                 \
    KERNEL(prod_##_bits, LEVEL(u##_bits), LEVEL(u##_bits), AS_IT_IS, AS_IT_IS, (x * y))                                \
    KERNEL(min_i##_bits, LEVEL(i##_bits), LEVEL(i##_bits), AS_IT_IS, AS_IT_IS, PICK(LEVEL(i##_bits), x < y, x, y))     \
    KERNEL(max_i##_bits, LEVEL(i##_bits), LEVEL(i##_bits), AS_IT_IS, AS_IT_IS, PICK(LEVEL(i##_bits), x > y, x, y))     \
    KERNEL(min_u##_bits, LEVEL(u##_bits), LEVEL(u##_bits), AS_IT_IS, AS_IT_IS, PICK(LEVEL(u##_bits), x < y, x, y))     \
    KERNEL(max_u##_bits, LEVEL(u##_bits), LEVEL(u##_bits), AS_IT_IS, AS_IT_IS, PICK(LEVEL(u##_bits), x > y, x, y))

typedef double LEVEL(doubles) __attribute__((vector_size(WIDTH)));
FLOATS(, f32, LEVEL(floats), LEVEL(floats), AS_IT_IS, AS_IT_IS, float)
FLOATS(, f64, LEVEL(doubles), LEVEL(doubles), AS_IT_IS, AS_IT_IS, double)
FLOATS(, f16, LEVEL(halves), LEVEL(floats), LEVEL(from_f16), LEVEL(to_f16), float)
FLOATS(_BF16, bf16, LEVEL(words), LEVEL(floats), AS_IT_IS, AS_IT_IS, float)
INTEGERS(8)
INTEGERS(16)
INTEGERS(32)
INTEGERS(64)

/* ---- What there is at this width --------------------------------------------------------------------------------- */

#define REDUCTIONS(_type, _kind)                                                                                       \
    {                                                                                                                  \
        [WEIR_SUM] = LEVEL(sum_##_kind), [WEIR_PROD] = LEVEL(prod_##_kind), [WEIR_MIN] = LEVEL(min_##_type),           \
        [WEIR_MAX] = LEVEL(max_##_type), [WEIR_AVG] = LEVEL(sum_##_kind),                                              \
    }

static wi_reduce_fn *const LEVEL(reductions)[WEIR_DTYPES][WEIR_REDOPS] = {
    [WEIR_F32] = REDUCTIONS(f32, f32), [WEIR_F64] = REDUCTIONS(f64, f64),    [WEIR_F16] = REDUCTIONS(f16, f16),
    [WEIR_I8] = REDUCTIONS(i8, 8),     [WEIR_BF16] = REDUCTIONS(bf16, bf16), [WEIR_I16] = REDUCTIONS(i16, 16),
    [WEIR_I32] = REDUCTIONS(i32, 32),  [WEIR_I64] = REDUCTIONS(i64, 64),     [WEIR_U8] = REDUCTIONS(u8, 8),
    [WEIR_U16] = REDUCTIONS(u16, 16),  [WEIR_U32] = REDUCTIONS(u32, 32),     [WEIR_U64] = REDUCTIONS(u64, 64),
};

static wi_divide_fn *const LEVEL(divisions)[WEIR_DTYPES] = {
    [WEIR_F32] = LEVEL(divide_f32),
    [WEIR_F64] = LEVEL(divide_f64),
    [WEIR_F16] = LEVEL(divide_f16),
    [WEIR_BF16] = LEVEL(divide_bf16),
};

#undef WIDTH
#undef TARGET
#undef LEVEL
#undef F16_TO_F32
#undef F32_TO_F16
#undef PICK
#undef LOOP
#undef KERNEL
#undef KERNEL_BF16
#undef LOOP_DIVISION
#undef DIVISION
#undef DIVISION_BF16
#undef AS_IT_IS
#undef FLOATS
#undef INTEGERS
#undef REDUCTIONS
