#include "bootstrap/secret.h"

#include "core/error.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* Who may write to it could make it his own; who may read it knows it, which may be meant (a mounted secret). */
static weir_status check_mode(const char *path, int fd, bool *exposed)
{
    struct stat about;
    if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode))
        return wi_error(WEIR_ERR_CONFIG, "WEIR_SECRET_FILE=%s: it is not a file", path);
    if (about.st_mode & S_IWOTH)
        return wi_error(WEIR_ERR_CONFIG, "WEIR_SECRET_FILE=%s: everybody may write to it; chmod 600 it", path);
    *exposed = about.st_mode & S_IROTH;
    return WEIR_OK;
}

/* Reads up to the room and one byte more, so that too much is seen. */
static weir_status read_all(const char *path, int fd, struct wi_secret *secret)
{
    uint8_t bytes[WI_SECRET_MAX + 1];
    size_t len = 0;
    ssize_t got;
    while (len < sizeof(bytes) && (got = read(fd, bytes + len, sizeof(bytes) - len)) != 0) {
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return wi_error(WEIR_ERR_CONFIG, "WEIR_SECRET_FILE=%s: %s", path, strerror(errno));
        len += (size_t)got;
    }
    weir_status status = WEIR_OK;
    if (len > WI_SECRET_MAX)
        status = wi_error(WEIR_ERR_CONFIG, "WEIR_SECRET_FILE=%s: it has more than %u bytes", path, WI_SECRET_MAX);
    while (len > 0 && strchr(" \t\r\n", bytes[len - 1]) && bytes[len - 1])
        len--;
    if (status == WEIR_OK && len < WI_SECRET_MIN)
        status = wi_error(WEIR_ERR_CONFIG,
                          "WEIR_SECRET_FILE=%s: %zu bytes can be guessed, it needs at least %u; make one with "
                          "'openssl rand -hex 32 > %s'",
                          path, len, WI_SECRET_MIN, path);
    if (status == WEIR_OK) {
        memcpy(secret->bytes, bytes, len);
        secret->len = len;
    }
    OPENSSL_cleanse(bytes, sizeof(bytes));
    return status;
}

weir_status wi_secret_load(const char *path, struct wi_secret *secret)
{
    secret->len = 0;
    secret->exposed = false;
    if (!*path)
        return WEIR_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not hold us */
    if (fd < 0)
        return wi_error(WEIR_ERR_CONFIG, "WEIR_SECRET_FILE=%s: %s", path, strerror(errno));
    weir_status status = check_mode(path, fd, &secret->exposed);
    if (status == WEIR_OK)
        status = read_all(path, fd, secret);
    close(fd);
    return status;
}

void wi_secret_fini(struct wi_secret *secret)
{
    OPENSSL_cleanse(secret, sizeof(*secret));
}

weir_status wi_secret_nonce(uint8_t nonce[WI_SECRET_NONCE])
{
    if (getrandom(nonce, WI_SECRET_NONCE, 0) != (ssize_t)WI_SECRET_NONCE)
        return wi_error(WEIR_ERR_IO, "joining the job: no random number: %s", strerror(errno));
    return WEIR_OK;
}

bool wi_secret_prove(const struct wi_secret *secret, enum wi_secret_side side, const uint8_t of_rank[WI_SECRET_NONCE],
                     const uint8_t of_store[WI_SECRET_NONCE], uint8_t proof[WI_SECRET_PROOF])
{
    static const char labels[2][16] = {[WI_SECRET_RANK] = "weir 1 rank", [WI_SECRET_STORE] = "weir 1 store"};
    uint8_t text[sizeof(labels[0]) + 2 * WI_SECRET_NONCE];
    unsigned len = WI_SECRET_PROOF;
    memcpy(text, labels[side], sizeof(labels[0]));
    memcpy(text + sizeof(labels[0]), of_rank, WI_SECRET_NONCE);
    memcpy(text + sizeof(labels[0]) + WI_SECRET_NONCE, of_store, WI_SECRET_NONCE);
    return HMAC(EVP_sha256(), secret->bytes, (int)secret->len, text, sizeof(text), proof, &len) &&
           len == WI_SECRET_PROOF;
}

bool wi_secret_check(const struct wi_secret *secret, enum wi_secret_side side, const uint8_t of_rank[WI_SECRET_NONCE],
                     const uint8_t of_store[WI_SECRET_NONCE], const void *proof, size_t proof_len)
{
    uint8_t right[WI_SECRET_PROOF];
    return proof_len == sizeof(right) && wi_secret_prove(secret, side, of_rank, of_store, right) &&
           CRYPTO_memcmp(right, proof, sizeof(right)) == 0;
}
