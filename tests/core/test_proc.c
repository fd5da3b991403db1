/* One child process: its end, signals to it, and its tie to the parent. */
#include "os/fd.h"
#include "os/proc.h"
#include "cp_test.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* A child that exits with this code when the gate closes. */
static int
start(struct cp_proc *proc, int gate[2], int code)
{
    CHECK_EQ(cp_proc_init(proc), 0);
    CHECK_EQ(cp_fd_pipe(gate), 0);
    int pid = cp_test_fork();
    if (pid == 0) {
        int keep[] = {gate[0], proc->child_end};
        cp_fd_in_child(keep, 2);
        char byte;
        while (read(gate[0], &byte, 1) != 0) {
        }
        _exit(code);
    }
    CHECK_EQ(cp_proc_started(proc, pid), 0);
    CHECK(proc->sentinel >= 0);
    cp_fd_close(&gate[0]);
    return pid;
}

static void
finish(struct cp_proc *proc, int gate[2])
{
    cp_fd_close(&gate[1]);
    cp_proc_fini(proc);
}

TEST(proc_exit_code)
{
    struct cp_proc proc;
    int gate[2], code = 77;
    (void)start(&proc, gate, 5);
    CHECK_EQ(cp_proc_poll(&proc, &code), 0);
    CHECK_EQ(code, 77);
    CHECK_EQ(cp_proc_wait(&proc, 0, &code), 0);
    CHECK_EQ(cp_proc_wait(&proc, cp_now() + CP_MS, &code), 0);
    cp_fd_close(&gate[1]);
    CHECK_EQ(cp_proc_wait(&proc, CP_NEVER, &code), 1);
    CHECK_EQ(code, 5);
    code = 0;
    CHECK_EQ(cp_proc_poll(&proc, &code), 1);
    CHECK_EQ(code, 5);
    CHECK_EQ(cp_proc_poll(&proc, NULL), 1);
    finish(&proc, gate);
}

TEST(proc_signal_is_negative_code)
{
    struct cp_proc proc;
    int gate[2], code = 0;
    (void)start(&proc, gate, 5);
    CHECK_EQ(cp_proc_kill(&proc, SIGKILL), 0);
    CHECK_EQ(cp_proc_wait(&proc, CP_NEVER, &code), 1);
    CHECK_EQ(code, -SIGKILL);
    finish(&proc, gate);
}

TEST(proc_sentinel_shows_the_end)
{
    struct cp_proc proc;
    int gate[2], code = 0;
    (void)start(&proc, gate, 3);
    struct pollfd pfd = {proc.sentinel, POLLIN, 0};
    CHECK_EQ(poll(&pfd, 1, 0), 0);
    cp_fd_close(&gate[1]);
    CHECK_EQ(poll(&pfd, 1, -1), 1);
    /* A pipe shows the end a moment before the process can be reaped. */
    CHECK_EQ(cp_proc_wait(&proc, CP_NEVER, &code), 1);
    CHECK_EQ(code, 3);
    finish(&proc, gate);
}

TEST(proc_waits_without_a_sentinel)
{
    struct cp_proc proc;
    int gate[2], code = 0;
    (void)start(&proc, gate, 3);
    cp_proc_close_sentinel(&proc);
    cp_proc_close_sentinel(&proc);
    CHECK_EQ(cp_proc_wait(&proc, cp_now() + CP_MS, &code), 0);
    cp_fd_close(&gate[1]);
    CHECK_EQ(cp_proc_wait(&proc, CP_NEVER, &code), 1);
    CHECK_EQ(code, 3);
    finish(&proc, gate);
}

/* A reaped pid may belong to another process: no signal may go there. The test's
 * process group stands in for the other process: a signal to pid 0 or to a wrong
 * pid would end the test. */
TEST(proc_nothing_is_sent_after_the_end)
{
    struct cp_proc proc;
    CHECK_EQ(cp_proc_init(&proc), 0);
    CHECK_EQ(cp_proc_kill(&proc, SIGKILL), 0); /* not forked yet */
    CHECK_EQ(cp_proc_poll(&proc, NULL), 0);
    cp_proc_fini(&proc);

    int gate[2], code;
    (void)start(&proc, gate, 0);
    cp_fd_close(&gate[1]);
    CHECK_EQ(cp_proc_wait(&proc, CP_NEVER, &code), 1);
    proc.pid = getpid(); /* as if the pid were reused */
    CHECK_EQ(cp_proc_kill(&proc, SIGKILL), 0);
    finish(&proc, gate);
}

TEST(proc_zombie_takes_signals_quietly)
{
    struct cp_proc proc;
    int gate[2], code;
    int pid = start(&proc, gate, 4);
    cp_fd_close(&gate[1]);
    siginfo_t info;
    CHECK_EQ(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    CHECK_EQ(cp_proc_kill(&proc, SIGKILL), 0);
    CHECK_EQ(cp_proc_wait(&proc, CP_NEVER, &code), 1);
    CHECK_EQ(code, 4);
    finish(&proc, gate);
}

TEST(proc_stolen_exit_code_is_unknown)
{
    struct cp_proc proc;
    int gate[2], code = 0;
    int pid = start(&proc, gate, 4);
    cp_fd_close(&gate[1]);
    CHECK_EQ(cp_test_reap(pid), 4); /* a program that waits for any child */
    CHECK_EQ(cp_proc_wait(&proc, CP_NEVER, &code), 1);
    CHECK_EQ(code, CP_EXIT_UNKNOWN);
    finish(&proc, gate);
}

TEST(proc_end_is_seen_with_sigchld_ignored)
{
    struct cp_proc proc;
    int gate[2], code = 0;
    (void)signal(SIGCHLD, SIG_IGN);
    (void)start(&proc, gate, 4);
    CHECK_EQ(cp_proc_poll(&proc, &code), 0);
    cp_fd_close(&gate[1]);
    CHECK_EQ(cp_proc_wait(&proc, CP_NEVER, &code), 1);
    CHECK_EQ(code, CP_EXIT_UNKNOWN);
    finish(&proc, gate);
}

static void
on_alarm(int signal_number)
{
    (void)signal_number;
}

TEST(proc_wait_is_interrupted_by_a_signal)
{
    struct cp_proc proc;
    int gate[2], code = 0;
    (void)start(&proc, gate, 0);
    struct sigaction act = {.sa_handler = on_alarm};
    CHECK_EQ(sigaction(SIGALRM, &act, NULL), 0);
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    CHECK_EQ(setitimer(ITIMER_REAL, &often, NULL), 0);
    CHECK_EQ(cp_proc_wait(&proc, CP_NEVER, &code), CP_EINTR);
    CHECK_EQ(setitimer(ITIMER_REAL, &never, NULL), 0);
    cp_fd_close(&gate[1]);
    CHECK_EQ(cp_proc_wait(&proc, CP_NEVER, &code), 1);
    finish(&proc, gate);
}

TEST(proc_unused_is_released)
{
    struct cp_proc proc;
    CHECK_EQ(cp_proc_init(&proc), 0);
    cp_proc_fini(&proc);
}

/* A fork server's child, as seen through the pipe. No such process exists. */
static int
start_served(struct cp_proc *proc)
{
    int status[2];
    CHECK_EQ(cp_proc_init(proc), 0);
    CHECK_EQ(cp_fd_pipe(status), 0);
    cp_proc_started_by_server(proc, getpid(), status[0]);
    CHECK_EQ(proc->sentinel, status[0]);
    CHECK_EQ(cp_proc_poll(proc, NULL), 0);
    CHECK_EQ(cp_proc_wait(proc, cp_now() + CP_MS, NULL), 0);
    return status[1];
}

/* Report the exit code. After that no signal is sent, or the test would die. */
static void
check_served_end(struct cp_proc *proc, int exitcode)
{
    int code = 77;
    CHECK_EQ(cp_proc_wait(proc, CP_NEVER, &code), 1);
    CHECK_EQ(code, exitcode);
    CHECK_EQ(cp_proc_kill(proc, SIGKILL), 0);
    cp_proc_close_sentinel(proc);
    code = 77;
    CHECK_EQ(cp_proc_poll(proc, &code), 1);
    CHECK_EQ(code, exitcode);
    cp_proc_fini(proc);
}

TEST(proc_served_exit_codes_arrive_through_the_pipe)
{
    int64_t codes[] = {0, 3, -SIGKILL};
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        struct cp_proc proc;
        int tell = start_served(&proc);
        CHECK_EQ(write(tell, &codes[i], sizeof(codes[i])), sizeof(codes[i]));
        check_served_end(&proc, (int)codes[i]);
        cp_fd_close(&tell);
    }
}

/* The server was killed, or is not a fork server. */
TEST(proc_served_without_a_number_is_unknown)
{
    int64_t absurd = INT64_MIN;
    for (size_t n = 0; n <= sizeof(absurd); n += 4) {
        struct cp_proc proc;
        int tell = start_served(&proc);
        CHECK_EQ(write(tell, &absurd, n), n);
        cp_fd_close(&tell);
        check_served_end(&proc, CP_EXIT_UNKNOWN);
    }
}

TEST(proc_served_without_a_pipe_is_unknown)
{
    struct cp_proc proc;
    int tell = start_served(&proc);
    cp_proc_close_sentinel(&proc);
    check_served_end(&proc, CP_EXIT_UNKNOWN);
    cp_fd_close(&tell);
}

static volatile bool spins = true;

/* A busy child with all signals blocked, tied to the pipe. */
static int
start_tied(int life[2])
{
    int ready[2];
    char byte;
    CHECK_EQ(cp_fd_pipe(life), 0);
    CHECK_EQ(cp_fd_pipe(ready), 0);
    int pid = cp_test_fork();
    if (pid == 0) {
        int keep[] = {life[0], ready[1]};
        cp_fd_in_child(keep, 2);
        sigset_t all;
        (void)sigfillset(&all);
        (void)sigprocmask(SIG_SETMASK, &all, NULL);
        cp_proc_tie_to_pipe(life[0]);
        CHECK_EQ(write(ready[1], "x", 1), 1);
        while (spins) {
        }
    }
    cp_fd_close(&life[0]);
    CHECK_EQ(read(ready[0], &byte, 1), 1);
    cp_fd_close(&ready[0]);
    cp_fd_close(&ready[1]);
    return pid;
}

TEST(proc_tied_process_dies_with_the_pipe)
{
    int life[2];
    int pid = start_tied(life);
    CHECK_EQ(waitpid(pid, NULL, WNOHANG), 0);
    cp_fd_close(&life[1]);
    CHECK_EQ(cp_test_reap(pid), -SIGKILL);
}

TEST(proc_tied_too_late_ends_at_once)
{
    int life[2];
    CHECK_EQ(cp_fd_pipe(life), 0);
    int pid = cp_test_fork();
    if (pid == 0) {
        char byte;
        cp_fd_close(&life[1]);
        CHECK_EQ(read(life[0], &byte, 1), 0); /* the parent has ended */
        cp_proc_tie_to_pipe(life[0]);
        _exit(20);
    }
    cp_fd_close(&life[1]);
    CHECK_EQ(cp_test_reap(pid), 1);
    cp_fd_close(&life[0]);
}

static void *
tied_from_a_thread(void *arg)
{
    static int pid;
    pid = start_tied(arg);
    return &pid;
}

/* The tie is to the process, not to the thread that forked. */
TEST(proc_tie_outlives_the_forking_thread)
{
    int life[2];
    void *pid;
    pthread_t thread = cp_test_start(tied_from_a_thread, life);
    pid = cp_test_join(thread);
    CHECK_EQ(waitpid(*(int *)pid, NULL, WNOHANG), 0);
    cp_fd_close(&life[1]);
    CHECK_EQ(cp_test_reap(*(int *)pid), -SIGKILL);
}

TEST(proc_copies_know_that_they_are_copies)
{
    CHECK_EQ(cp_proc_self(), getpid());
    int pid = cp_test_fork();
    if (pid == 0) {
        bool known = cp_proc_self() == getpid();
        int inner = cp_test_fork();
        if (inner == 0) {
            _exit(cp_proc_self() == getpid() ? 0 : 1);
        }
        _exit(known && cp_test_reap(inner) == 0 ? 0 : 1);
    }
    CHECK_EQ(cp_test_reap(pid), 0);
    CHECK_EQ(cp_proc_self(), getpid());
}
