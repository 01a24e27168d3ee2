/* CRC-32, as zlib computes it. */
#include "core/crc.h"

#include <zlib.h>

uint32_t wi_crc32(const void *data, size_t len)
{
    return (uint32_t)crc32_z(0, data, len);
}
