/*
 * The job's shared secret, and proofs of knowing it: HMAC-SHA256 (RFC 2104, FIPS 180-4, by OpenSSL's libcrypto) over a
 * label and the random numbers of both sides, so that a proof is good for one connection, one direction, and once.
 *
 * It tells who belongs to the job. It does not encrypt, and somebody who can change packets on the way between two ranks
 * can still cut or change what follows.
 */
#ifndef WI_BOOTSTRAP_SECRET_H
#define WI_BOOTSTRAP_SECRET_H

#include <weir/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WI_SECRET_MIN   16u   /* bytes: less could be guessed */
#define WI_SECRET_MAX   4096u /* bytes */
#define WI_SECRET_NONCE 32u   /* bytes of a random number */
#define WI_SECRET_PROOF 32u   /* bytes of a proof */

struct wi_secret {
    size_t len;   /* 0: the job has none */
    bool exposed; /* everybody on this host may read its file */
    uint8_t bytes[WI_SECRET_MAX];
};

/*
 * Reads the secret of `path`; "" means none. White space at the end does not count, so that a file made by echo works.
 * WEIR_ERR_CONFIG: it cannot be read, is too short or too long, or others may write to it.
 */
weir_status wi_secret_load(const char *path, struct wi_secret *secret);

/* Overwrites it, so that it does not stay in freed memory. */
void wi_secret_fini(struct wi_secret *secret);

/* A fresh random number. */
weir_status wi_secret_nonce(uint8_t nonce[WI_SECRET_NONCE]);

enum wi_secret_side { WI_SECRET_RANK, WI_SECRET_STORE };

/* The proof that `side` gives when the rank and the store have drawn these numbers. False: libcrypto failed. */
bool wi_secret_prove(const struct wi_secret *secret, enum wi_secret_side side, const uint8_t of_rank[WI_SECRET_NONCE],
                     const uint8_t of_store[WI_SECRET_NONCE], uint8_t proof[WI_SECRET_PROOF]);

/* Is it the proof? Takes the same time wherever they differ. */
bool wi_secret_check(const struct wi_secret *secret, enum wi_secret_side side, const uint8_t of_rank[WI_SECRET_NONCE],
                     const uint8_t of_store[WI_SECRET_NONCE], const void *proof, size_t proof_len);

#endif
