/* CRC-32 (IEEE 802.3, by zlib) of blobs that peers exchange, against damage. */
#ifndef WI_CORE_CRC_H
#define WI_CORE_CRC_H

#include <stddef.h>
#include <stdint.h>

uint32_t wi_crc32(const void *data, size_t len);

#endif
