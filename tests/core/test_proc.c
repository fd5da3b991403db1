/* One child process: its end, signals to it, and its tie to the parent. */
#include "os/fd.h"
#include "os/proc.h"
#include "cp_test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__linux__) && defined(__x86_64__)
#    include <linux/filter.h>
#    include <linux/seccomp.h>
#    include <sys/prctl.h>
#    include <sys/syscall.h>
#endif

/* A child that exits with this code when the gate closes. */
static int
start(struct cp_proc *proc, int gate[2], int code)
{
    CHECK_EQ(cp_proc_init(proc), 0);
    CHECK_EQ(cp_fd_pipe(gate), 0);
    int pid = cp_test_fork();
    if (pid == 0) {
        cp_fd_in_child(gate, 1);
        char byte;
        while (read(gate[0], &byte, 1) != 0) {
        }
        _exit(code);
    }
    cp_proc_started(proc, pid);
    CHECK_EQ(proc->sentinel, -1); /* nobody has asked for it */
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

static void
do_nothing(int signal)
{
    (void)signal;
}

/* Is the signal handled in a child that inherits this handler and mask? */
static bool
handles(void (*handler)(int), bool blocked)
{
    struct cp_proc proc;
    int gate[2];
    sigset_t only, old;
    (void)sigemptyset(&only);
    (void)sigaddset(&only, SIGURG);
    (void)signal(SIGURG, handler);
    (void)pthread_sigmask(blocked ? SIG_BLOCK : SIG_UNBLOCK, &only, &old);
    (void)start(&proc, gate, 5);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    bool found = cp_proc_handles(&proc, SIGURG);
    cp_fd_close(&gate[1]);
    CHECK_EQ(cp_proc_wait(&proc, CP_NEVER, NULL), 1);
    finish(&proc, gate);
    return found;
}

TEST(proc_that_handles_a_signal)
{
    CHECK(handles(do_nothing, false));
#ifdef CP_PORTABLE
    CHECK(handles(SIG_DFL, false)); /* that cannot be known */
#else
    CHECK(!handles(do_nothing, true));
    CHECK(!handles(SIG_DFL, false));
    CHECK(!handles(SIG_IGN, false));
    CHECK(!handles(SIG_IGN, true));
#endif
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

static bool
is_readable(int fd)
{
    struct pollfd pfd = {fd, POLLIN, 0};
    CHECK(poll(&pfd, 1, 0) >= 0);
    return pfd.revents != 0;
}

TEST(proc_sentinel_shows_the_end)
{
    struct cp_proc proc;
    int gate[2], code = 0;
    (void)start(&proc, gate, 3);
    int fd = cp_proc_open_sentinel(&proc, true);
    CHECK(fd >= 0);
    CHECK_EQ(cp_proc_open_sentinel(&proc, true), fd);
    CHECK(!is_readable(fd));
    cp_fd_close(&gate[1]);
    if (!cp_proc_needs_polling(&proc)) {
        struct pollfd pfd = {fd, POLLIN, 0};
        CHECK_EQ(poll(&pfd, 1, -1), 1);
    }
    CHECK_EQ(cp_proc_wait(&proc, CP_NEVER, &code), 1);
    CHECK_EQ(code, 3);
    CHECK(!cp_proc_needs_polling(&proc));
    CHECK(is_readable(fd));
    cp_proc_drop_sentinel(&proc); /* it was lent, and stays */
    CHECK_EQ(cp_proc_open_sentinel(&proc, true), fd);
    cp_proc_close_sentinel(&proc);
    cp_proc_close_sentinel(&proc);
    CHECK_EQ(proc.sentinel, -1);
    finish(&proc, gate);
}

TEST(proc_sentinel_is_dropped_unless_it_was_lent)
{
    struct cp_proc proc;
    int gate[2];
    (void)start(&proc, gate, 3);
    int before = cp_test_descriptors();
    int fd = cp_proc_open_sentinel(&proc, false);
#ifdef CP_PORTABLE
    CHECK_EQ(fd, CP_ERRNO(ENOSYS));
#else
    CHECK(fd >= 0);
    CHECK_EQ(cp_test_descriptors(), before + 1);
#endif
    cp_proc_drop_sentinel(&proc);
    CHECK_EQ(cp_test_descriptors(), before);
    cp_fd_close(&gate[1]);
    CHECK_EQ(cp_proc_wait(&proc, CP_NEVER, NULL), 1);
    finish(&proc, gate);
}

TEST(proc_sentinel_that_is_asked_for_after_the_end_shows_it)
{
    struct cp_proc proc;
    int gate[2];
    (void)start(&proc, gate, 3);
    cp_fd_close(&gate[1]);
    CHECK_EQ(cp_proc_wait(&proc, CP_NEVER, NULL), 1);
    CHECK(cp_proc_open_sentinel(&proc, false) < 0);
    CHECK(is_readable(cp_proc_open_sentinel(&proc, true)));
    finish(&proc, gate);
}

/* A long wait does not wake up more and more often. */
TEST(proc_wait_sleeps)
{
    struct cp_proc proc;
    struct rusage before, after;
    int gate[2];
    (void)start(&proc, gate, 3);
    CHECK_EQ(getrusage(RUSAGE_THREAD, &before), 0);
    CHECK_EQ(cp_proc_wait(&proc, cp_now() + 800 * CP_MS, NULL), 0);
    CHECK_EQ(getrusage(RUSAGE_THREAD, &after), 0);
#ifdef CP_PORTABLE
    CHECK(after.ru_nvcsw - before.ru_nvcsw < 80);
#else
    CHECK(after.ru_nvcsw - before.ru_nvcsw < 10);
#endif
    cp_fd_close(&gate[1]);
    CHECK_EQ(cp_proc_wait(&proc, CP_NEVER, NULL), 1);
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

/* ---- the pid belongs to another process ---- */

/* A child that waits for a signal. */
static int
start_pausing(void)
{
    int pid = cp_test_fork();
    if (pid == 0) {
        for (;;) {
            (void)pause();
        }
    }
    return pid;
}

/* Start a child with the pid that proc had, if the system lets us choose pids,
 * and late enough to have another start time. */
static int
start_stranger(const struct cp_proc *proc)
{
    struct cp_proc now;
    int pid = 0;
    for (int tries = 0; tries < 100; tries++) {
        if (pid != 0) {
            CHECK_EQ(kill(pid, SIGKILL), 0);
            (void)cp_test_reap(pid);
        }
        int last = open("/proc/sys/kernel/ns_last_pid", O_WRONLY);
        if (last >= 0) {
            (void)dprintf(last, "%d", proc->pid - 1);
            (void)close(last);
        }
        pid = start_pausing();
        CHECK_EQ(cp_proc_init(&now), 0);
        cp_proc_started(&now, pid);
        cp_proc_fini(&now);
        if (pid == proc->pid && now.birth.value != proc->birth.value) {
            break;
        }
    }
    return pid;
}

/* Our child was reaped behind our back, and another child has its pid now. If
 * that cannot be arranged, proc is changed so that it has that other child's
 * pid. */
static int
give_pid_away(struct cp_proc *proc, int gate[2], int code)
{
    int pid = start(proc, gate, code);
    CHECK(proc->birth.kind != CP_BIRTH_UNKNOWN);
    cp_fd_close(&gate[1]);
    CHECK_EQ(cp_test_reap(pid), code);
    int stranger = start_stranger(proc);
    if (stranger != pid) {
        proc->pid = stranger;
        proc->birth.value--;
    }
    return stranger;
}

static void
check_stranger_lives(int pid)
{
    CHECK_EQ(waitpid(pid, NULL, WNOHANG), 0);
    CHECK_EQ(kill(pid, SIGTERM), 0);
    CHECK_EQ(cp_test_reap(pid), -SIGTERM); /* nobody else has reaped it */
}

TEST(proc_no_signal_goes_to_another_process_with_the_pid)
{
    struct cp_proc proc;
    int gate[2];
    int stranger = give_pid_away(&proc, gate, 4);
    CHECK_EQ(cp_proc_kill(&proc, SIGKILL), 0);
    check_stranger_lives(stranger);
    finish(&proc, gate);
}

TEST(proc_another_process_with_the_pid_is_not_waited_for)
{
    struct cp_proc proc;
    int gate[2], code = 0;
    int stranger = give_pid_away(&proc, gate, 4);
    CHECK_EQ(cp_proc_check(&proc, &code), 1);
    CHECK_EQ(code, CP_EXIT_UNKNOWN);
    CHECK_EQ(cp_proc_poll(&proc, NULL), 1);
    check_stranger_lives(stranger);
    finish(&proc, gate);

    stranger = give_pid_away(&proc, gate, 4);
    CHECK(is_readable(cp_proc_open_sentinel(&proc, true))
          || cp_proc_needs_polling(&proc));
    CHECK_EQ(cp_proc_wait(&proc, CP_NEVER, &code), 1);
    CHECK_EQ(code, CP_EXIT_UNKNOWN);
    check_stranger_lives(stranger);
    finish(&proc, gate);
}

TEST(proc_another_child_with_the_pid_is_not_reaped)
{
    struct cp_proc proc;
    siginfo_t info;
    int gate[2], code = 0;
    int stranger = give_pid_away(&proc, gate, 4);
    CHECK_EQ(kill(stranger, SIGKILL), 0);
    CHECK_EQ(waitid(P_PID, (id_t)stranger, &info, WEXITED | WNOWAIT), 0);
    CHECK_EQ(cp_proc_poll(&proc, &code), 1);
    CHECK_EQ(code, CP_EXIT_UNKNOWN);
    CHECK_EQ(cp_test_reap(stranger), -SIGKILL);
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

/* Wait until the process has ended, and leave it to be reaped. */
static void
await_end(int pid)
{
    siginfo_t info;
    while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) != 0) {
        CHECK_EQ(errno, EINTR);
    }
}

TEST(proc_end_is_left_to_a_handler_of_sigchld_first)
{
    struct sigaction act = {.sa_handler = on_alarm};
    CHECK_EQ(sigaction(SIGCHLD, &act, NULL), 0);
    for (int reaps = 0; reaps < 2; reaps++) {
        struct cp_proc proc;
        int gate[2], code = 0;
        int pid = start(&proc, gate, 4);
        cp_fd_close(&gate[1]);
        await_end(pid);
        CHECK_EQ(cp_proc_check(&proc, &code), CP_EINTR);
        if (reaps == 1) {
            CHECK_EQ(cp_test_reap(pid), 4);
        }
        CHECK_EQ(cp_proc_check(&proc, &code), 1);
        CHECK_EQ(code, 4);
        CHECK_EQ(waitpid(pid, NULL, WNOHANG), -1);
        finish(&proc, gate);
    }
    CHECK(signal(SIGCHLD, SIG_DFL) != SIG_ERR);
}

TEST(proc_unused_is_released)
{
    struct cp_proc proc;
    CHECK_EQ(cp_proc_init(&proc), 0);
    cp_proc_fini(&proc);
}

/* Start a fork server's child. It is really a child of the test, so that its
 * end can be seen. */
static int
start_served(struct cp_proc *proc)
{
    int status[2];
    int pid = start_pausing();
    CHECK_EQ(cp_proc_init(proc), 0);
    CHECK_EQ(cp_fd_pipe(status), 0);
    cp_proc_started_by_server(proc, pid, status[0]);
    CHECK_EQ(proc->sentinel, status[0]);
    CHECK_EQ(cp_proc_open_sentinel(proc, true), status[0]);
    CHECK_EQ(cp_proc_poll(proc, NULL), 0);
    CHECK_EQ(cp_proc_wait(proc, cp_now() + CP_MS, NULL), 0);
    return status[1];
}

/* The exit code that the pipe reports; after that no signal is sent. */
static void
check_served_end(struct cp_proc *proc, int exitcode)
{
    int code = 77;
    CHECK_EQ(cp_proc_wait(proc, CP_NEVER, &code), 1);
    CHECK_EQ(code, exitcode);
    CHECK_EQ(cp_proc_kill(proc, SIGTERM), 0);
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
        int tell = start_served(&proc), pid = proc.pid;
        CHECK_EQ(write(tell, &codes[i], sizeof(codes[i])), sizeof(codes[i]));
        check_served_end(&proc, (int)codes[i]);
        check_stranger_lives(pid);
        cp_fd_close(&tell);
    }
}

/* The server was killed, or is no server at all. Its child is killed, since
 * nobody would report its end. */
TEST(proc_served_without_a_number_is_killed)
{
    int64_t absurd = INT64_MIN;
    for (size_t n = 0; n <= sizeof(absurd); n += 4) {
        struct cp_proc proc;
        int tell = start_served(&proc), pid = proc.pid;
        CHECK_EQ(write(tell, &absurd, n), n);
        cp_fd_close(&tell);
        check_served_end(&proc, CP_EXIT_UNKNOWN);
        CHECK_EQ(cp_test_reap(pid), -SIGKILL);
    }
}

TEST(proc_served_without_a_number_is_not_killed_if_the_pid_is_anothers)
{
    struct cp_proc proc;
    int tell = start_served(&proc), pid = proc.pid;
    proc.birth.value--;
    CHECK_EQ(cp_proc_kill(&proc, SIGKILL), 0);
    cp_fd_close(&tell);
    check_served_end(&proc, CP_EXIT_UNKNOWN);
    check_stranger_lives(pid);
}

TEST(proc_served_is_killed_by_its_pid)
{
    struct cp_proc proc;
    int tell = start_served(&proc), pid = proc.pid;
    CHECK_EQ(cp_proc_kill(&proc, SIGTERM), 0);
    CHECK_EQ(cp_test_reap(pid), -SIGTERM);
    cp_fd_close(&tell);
    check_served_end(&proc, CP_EXIT_UNKNOWN);
}

TEST(proc_served_without_a_pipe_is_unknown)
{
    struct cp_proc proc;
    int tell = start_served(&proc), pid = proc.pid;
    cp_proc_close_sentinel(&proc);
    check_served_end(&proc, CP_EXIT_UNKNOWN);
    CHECK_EQ(cp_test_reap(pid), -SIGKILL);
    cp_fd_close(&tell);
}

static volatile bool spins = true;

/* Make openat() fail, as in a sandbox. */
static void
refuse_files(void)
{
#if defined(__linux__) && defined(__x86_64__)
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};
    CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    CHECK_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
    CHECK(open("/dev/null", O_RDONLY) < 0);
#endif
}

/* A child that is busy, has all signals blocked, and is tied to the pipe.
 * refused: it cannot open files. */
static int
tie_child(int life[2], bool refused)
{
    int ready[2], own;
    char byte;
    CHECK_EQ(cp_fd_pipe(ready), 0);
    int is_own = cp_proc_open_life(life[0], &own);
    CHECK(is_own >= 0);
    int pid = cp_test_fork();
    if (pid == 0) {
        int keep[] = {life[0], own, ready[1]};
        cp_fd_in_child(keep, 3);
        sigset_t all;
        (void)sigfillset(&all);
        (void)sigprocmask(SIG_SETMASK, &all, NULL);
        if (refused) {
            refuse_files(); /* as if the parent could not either */
        }
        cp_proc_tie_to_pipe(refused ? life[0] : own, !refused && is_own == 1);
        CHECK_EQ(write(ready[1], "x", 1), 1);
        while (spins) {
        }
    }
    CHECK_EQ(read(ready[0], &byte, 1), 1);
    cp_fd_close(&own);
    cp_fd_close(&ready[0]);
    cp_fd_close(&ready[1]);
    return pid;
}

static int
start_tied(int life[2])
{
    CHECK_EQ(cp_fd_pipe(life), 0);
    int pid = tie_child(life, false);
    cp_fd_close(&life[0]);
    return pid;
}

/* Several processes have the pipe. The end of one of them does not affect the
 * others. When the write end is closed, all die, including one that cannot open
 * the pipe anew. */
TEST(proc_tied_processes_share_the_pipe)
{
    int life[2], pids[4];
    CHECK_EQ(cp_fd_pipe(life), 0);
    for (int i = 0; i < 4; i++) {
        pids[i] = tie_child(life, i == 3);
    }
    CHECK_EQ(kill(pids[0], SIGTERM), 0); /* which is blocked */
    CHECK_EQ(kill(pids[1], SIGKILL), 0);
    CHECK_EQ(cp_test_reap(pids[1]), -SIGKILL);
    cp_fd_close(&life[0]);
    for (int i = 0; i < 4; i++) {
        CHECK(i == 1 || waitpid(pids[i], NULL, WNOHANG) == 0);
    }
    cp_fd_close(&life[1]);
    for (int i = 0; i < 4; i++) {
        CHECK(i == 1 || cp_test_reap(pids[i]) == -SIGKILL);
    }
}

/* The parent could not open the pipe anew, as without /proc. */
TEST(proc_tied_by_a_parent_without_files)
{
    int life[2];
    CHECK_EQ(cp_fd_pipe(life), 0);
    int parent = cp_test_fork();
    if (parent == 0) {
        int copy = 0, own;
        refuse_files();
#if defined(__linux__) && defined(__x86_64__)
        CHECK_EQ(cp_fd_reopen(life[0], &copy), CP_ERRNO(EACCES));
        CHECK_EQ(copy, -1);
        CHECK_EQ(cp_proc_open_life(life[0], &own), 0);
        CHECK_EQ(fcntl(own, F_GETFD), FD_CLOEXEC);
        cp_fd_close(&own);
#endif
        int pid = tie_child(life, false);
        CHECK_EQ(waitpid(pid, NULL, WNOHANG), 0);
        CHECK_EQ(write(life[1], "x", 1), 1); /* this is no end */
        cp_fd_close(&life[0]);
        cp_fd_close(&life[1]);
        _exit(cp_test_reap(pid) == -SIGKILL ? 0 : 1);
    }
    cp_fd_close(&life[0]);
    cp_fd_close(&life[1]);
    CHECK_EQ(cp_test_reap(parent), 0);
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
        cp_proc_tie_to_pipe(life[0], false);
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

/* The tie is to the parent process, not to the thread that forked. */
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
