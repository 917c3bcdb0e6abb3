package runtime

// sysSetns is the number of the system call setns, which package syscall lacks
// on some architectures.
const sysSetns = 268
