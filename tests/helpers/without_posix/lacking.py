"""Names that Windows' Python does not have."""

MODULES = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog", "readline", "posix", "curses"}
OS = {
    *("pread", "preadv", "pwrite", "pwritev", "uname", "getuid", "geteuid", "getgid", "getegid", "setsid", "fork"),
    *("forkpty", "killpg", "getpgid", "nice", "getpriority", "setpriority", "PRIO_PROCESS", "sched_getaffinity"),
    *("sched_setaffinity", "sched_yield", "posix_fadvise", "posix_fallocate", "statvfs", "fstatvfs", "mkfifo"),
    *("fchmod", "fchown", "chown", "chroot", "getloadavg", "sysconf", "confstr", "sync", "fdatasync", "sendfile"),
    *("wait", "wait3", "wait4", "WIFEXITED", "posix_spawn", "ctermid", "openpty", "O_NONBLOCK", "O_CLOEXEC"),
    *("O_DIRECTORY", "O_NOFOLLOW", "O_SYNC", "O_DSYNC", "O_NOCTTY", "O_TMPFILE", "O_DIRECT", "copy_file_range"),
    *("memfd_create", "splice", "getresuid", "getgroups", "lockf", "readv", "writev", "eventfd", "pidfd_open"),
}
SIGNAL = {
    *("SIGHUP", "SIGKILL", "SIGXCPU", "SIGXFSZ", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGQUIT", "SIGPIPE"),
    *("SIGSTOP", "SIGCONT", "SIGTSTP", "alarm", "setitimer", "pause", "pthread_kill", "pthread_sigmask", "sigwait"),
}
