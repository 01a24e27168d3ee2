/* Checks of the transports as a whole: each is tried by a process of its own, with itself as peer. */
#include "doctor.h"

#include <weir/transport.h>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TRIAL_BOUND_MS = 45000, WHY_SIZE = 512 };

/* "verbs: no RDMA device" below the heading of that check needs no name in front. */
static const char *without_name(const char *sentence, const char *name)
{
    size_t len = strlen(name);
    return strncmp(sentence, name, len) == 0 && strncmp(sentence + len, ": ", 2) == 0 ? sentence + len + 2 : sentence;
}

/* Becomes the process of the trial; its complaints come as the sentence, so standard error is not needed. */
static void become_trial(const struct doctor *doctor, const char *transport, int out)
{
    setenv("WEIR_TRANSPORT", transport, 1);
    setenv("WEIR_INTRANODE", strcmp(transport, "shm") == 0 ? "shm" : "off", 1);
    setenv("WEIR_TIMEOUT", "10s", 0);
    if (doctor->local.text[0])
        setenv("WEIR_INTERFACE", doctor->local.text, 0); /* as a job binds to the address that leads to rank 0 */
    unsetenv("WEIR_LOG_FILE");
    dup2(out, STDOUT_FILENO);
    if (!getenv("WEIR_LOG") && !freopen("/dev/null", "w", stderr))
        _exit(1);
    execl("/proc/self/exe", "weir", "doctor", "--trial", (char *)NULL);
    _exit(127);
}

/* Reads until the end of the pipe, at most TRIAL_BOUND_MS. False: the bound was reached. */
static bool read_answer(int fd, char *answer, size_t size)
{
    struct timespec start, now;
    size_t len = 0;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (;;) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        long left = TRIAL_BOUND_MS - (now.tv_sec - start.tv_sec) * 1000;
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        if (left <= 0 || poll(&readable, 1, (int)left) == 0)
            return false;
        ssize_t got = read(fd, answer + len, size - 1 - len);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        len += (size_t)got;
        answer[len] = '\0';
    }
    answer[strcspn(answer, "\n")] = '\0';
    return true;
}

/* What the trial said: "ok DEVICE", "fail SENTENCE", or how it ended without a word. */
static void run_trial(const struct doctor *doctor, const char *transport, char *answer, size_t size)
{
    int ends[2], status = 0;
    answer[0] = '\0';
    if (pipe(ends) != 0) {
        snprintf(answer, size, "fail no pipe to try it: %s", strerror(errno));
        return;
    }
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        become_trial(doctor, transport, ends[1]);
    }
    close(ends[1]);
    bool ended = child > 0 && read_answer(ends[0], answer, size);
    close(ends[0]);
    if (child > 0 && !ended)
        kill(child, SIGKILL);
    if (child > 0)
        waitpid(child, &status, 0);
    if (child < 0)
        snprintf(answer, size, "fail no process to try it: %s", strerror(errno));
    else if (!ended)
        snprintf(answer, size, "fail the trial did not end within %d s", TRIAL_BOUND_MS / 1000);
    else if (!answer[0] && WIFEXITED(status) && WEXITSTATUS(status) == 127)
        snprintf(answer, size, "fail the trial could not be started through /proc/self/exe");
    else if (!answer[0])
        snprintf(answer, size, "fail the trial ended without a word, status %d", status);
}

/* Returns whether it works. */
static bool check_transport(struct doctor *doctor, const char *name, enum doctor_need need)
{
    char text[WHY_SIZE + 8];
    if (weir_transport_probe(name, text, sizeof(text)) != WEIR_OK) {
        doctor_say(doctor, doctor_blame(need), "%s", without_name(text, name));
        return false;
    }
    if (!doctor->trials || need == DOCTOR_UNUSED) {
        doctor_say(doctor, DOCTOR_OK, "can be used, by its own look; not tried%s",
                   doctor->trials ? ", as WEIR_TRANSPORT does not ask for it" : "");
        return true;
    }
    run_trial(doctor, name, text, sizeof(text));
    if (strncmp(text, "ok ", 3) == 0)
        doctor_say(doctor, DOCTOR_OK, "%s", text + 3);
    else
        doctor_say(doctor, doctor_blame(need), "%s", without_name(text + 5, name));
    return strncmp(text, "ok ", 3) == 0;
}

void check_shm(struct doctor *doctor)
{
    check_transport(doctor, "shm", doctor->shm);
}

void check_verbs(struct doctor *doctor)
{
    if (!check_transport(doctor, "verbs", doctor->verbs) && doctor->ucx == DOCTOR_WANTED)
        doctor->ucx = DOCTOR_NEEDED; /* under auto it now has to carry all */
}

void check_ucx(struct doctor *doctor)
{
    check_transport(doctor, "ucx", doctor->ucx);
}
