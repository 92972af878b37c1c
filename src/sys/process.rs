//! Other processes: their memory and descriptors; our children and signals.

use std::ffi::{CStr, CString};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::{cerr, owned, retry, seccomp};
use crate::supervise::filter::Insn;

/// Reads from a thread's memory, at most to the end of `into`; how much was there to read.
pub fn read_memory(tid: u32, address: u64, into: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: into.len() };
    // SAFETY: `local` describes a buffer of ours; `remote` is not dereferenced here, the kernel checks it.
    let read = unsafe { libc::process_vm_readv(tid as libc::pid_t, &local, 1, &remote, 1, 0) };
    cerr(read as libc::c_long).map(|n| n as usize)
}

fn pidfd_open(pid: u32, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: integers.
    owned(cerr(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) }))
}

/// A handle on a process.
pub fn open_process(pid: u32) -> io::Result<OwnedFd> {
    pidfd_open(pid, 0)
}

/// A handle on a thread, which can have a descriptor table of its own. EINVAL before Linux 6.9.
pub fn open_thread(tid: u32) -> io::Result<OwnedFd> {
    const PIDFD_THREAD: libc::c_int = libc::O_EXCL;
    pidfd_open(tid, PIDFD_THREAD)
}

/// A copy of a descriptor of a process or thread. EBADF if it has none of this number.
pub fn copy_descriptor(pidfd: BorrowedFd, number: i32) -> io::Result<OwnedFd> {
    // SAFETY: `pidfd` is open; integers otherwise.
    owned(cerr(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) }))
}

/// What the kernel tells of a thread (struct pidfd_info of linux/pidfd.h, its first 64 bytes).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Info {
    mask: u64,
    cgroup: u64,
    pid: u32,
    /// The process that it belongs to.
    pub process: u32,
    /// Its parent; real, effective and saved ids.
    others: [u32; 7],
    /// File-system user id.
    pub fsuid: u32,
    /// File-system group id.
    pub fsgid: u32,
    exit_code: i32,
}

/// Asks a handle. ENOTTY before Linux 6.13, ESRCH when the thread is gone.
pub fn info(pidfd: BorrowedFd) -> io::Result<Info> {
    /// _IOWR(0xff, 11, struct pidfd_info)
    const PIDFD_GET_INFO: u32 = 0xc040_ff0b;
    const PIDS_AND_CREDENTIALS: u64 = 3;
    let mut info = Info { mask: PIDS_AND_CREDENTIALS, ..Default::default() };
    // SAFETY: the request's number has the size of `info`, which the kernel fills.
    cerr(unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as libc::Ioctl, &raw mut info) }.into())?;
    match info.mask & PIDS_AND_CREDENTIALS {
        PIDS_AND_CREDENTIALS => Ok(info),
        _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

/// Starts a command, found by PATH, under the filter, and sends the filter's listener over the socket. Its pid.
/// To be called while this process has one thread. An error is that of the step that failed, in the child or here.
pub fn spawn_filtered(command: &[CString], program: &[Insn], to: UnixStream, mask: &SignalMask) -> io::Result<u32> {
    let mut arguments: Vec<*const libc::c_char> = command.iter().map(|a| a.as_ptr()).collect();
    arguments.push(std::ptr::null());
    let (mut failure, tell) = UnixStream::pair()?;
    let Some(child) = fork()? else {
        let start = || -> io::Result<()> {
            send_descriptor(&to, seccomp::install(program)?)?;
            // SAFETY: valid signals and a signal set of ours; `arguments` is a null-terminated list of strings that
            // live. Both signal dispositions and mask are inherited, and are to be as we got them: std ignores SIGPIPE.
            unsafe {
                libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                cerr(libc::sigprocmask(libc::SIG_SETMASK, &mask.0, std::ptr::null_mut()).into())?;
                cerr(libc::execvp(arguments[0], arguments.as_ptr()).into()).map(drop)
            }
        };
        let errno = start().err().and_then(|e| e.raw_os_error()).unwrap_or(libc::EINVAL);
        // If that fails too, the parent sees a child that ends with this status.
        let _ = (&tell).write_all(&errno.to_ne_bytes());
        std::process::exit(126);
    };
    drop((tell, to));
    let mut errno = [0; 4];
    match failure.read(&mut errno)? {
        // Closed by exec.
        0 => Ok(child),
        _ => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
    }
}

const CONTROL: usize = 24; // CMSG_SPACE(sizeof(int)) on 64-bit machines

#[repr(align(8))]
struct Control([u8; CONTROL]);

fn message(io: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: msghdr is a plain struct of pointers and integers, for which all zeros is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = io;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL as _;
    message
}

fn send_descriptor(to: &UnixStream, fd: OwnedFd) -> io::Result<()> {
    let (mut byte, mut control) = (0u8, Control([0; CONTROL]));
    let mut io = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let message = message(&mut io, &mut control);
    // SAFETY: `message` describes `io` and `control`, which live; `control` has room for one header and one descriptor.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<libc::c_int>() as u32) as _;
        libc::CMSG_DATA(header).cast::<libc::c_int>().write_unaligned(fd.as_raw_fd());
        retry(|| libc::sendmsg(to.as_raw_fd(), &message, 0) as libc::c_long).map(drop)
    }
}

/// Receives a descriptor; None if the other end was closed without sending one.
pub fn receive_descriptor(from: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let (mut byte, mut control) = (0u8, Control([0; CONTROL]));
    let mut io = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut message = message(&mut io, &mut control);
    // SAFETY: as in send_descriptor; what the kernel reports in `message` is checked before it is used, and a
    // descriptor that it reports is new and ours.
    unsafe {
        let flags = libc::MSG_CMSG_CLOEXEC;
        if retry(|| libc::recvmsg(from.as_raw_fd(), &mut message, flags) as libc::c_long)? == 0 {
            return Ok(None);
        }
        let header = libc::CMSG_FIRSTHDR(&message);
        if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
            return Err(io::Error::from_raw_os_error(libc::EBADMSG));
        }
        let fd = libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned();
        Ok(Some(OwnedFd::from_raw_fd(fd)))
    }
}

/// Signals that end or steer a program, passed on to the command; and those about us and our children.
pub const FORWARDED: [i32; 7] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR2, libc::SIGCONT, libc::SIGWINCH];

/// Which signals are blocked.
pub struct SignalMask(libc::sigset_t);

/// Blocks the signals that wait_signal waits for, so that none is lost before it is called. Threads and children
/// inherit this. Returns what was blocked before.
pub fn block_signals() -> io::Result<SignalMask> {
    let set = signals();
    let mut before = set_of([]);
    // SAFETY: a valid signal. Inherited as ignored, children would vanish without one.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    // SAFETY: both are signal sets of ours.
    cerr(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, &mut before) }.into())?;
    Ok(SignalMask(before))
}

/// Waits for one of them.
pub fn wait_signal() -> i32 {
    wait_for(&signals())
}

/// Waits for SIGUSR1 alone. A tracer gets SIGCHLD at each stop, and nobody need be woken for it.
pub fn wait_usr1() {
    wait_for(&set_of([libc::SIGUSR1]));
}

fn wait_for(set: &libc::sigset_t) -> i32 {
    loop {
        let mut signal = 0;
        // SAFETY: `set` is a signal set and `signal` an int of ours.
        if unsafe { libc::sigwait(set, &raw mut signal) } == 0 {
            return signal;
        }
    }
}

fn signals() -> libc::sigset_t {
    set_of(FORWARDED.into_iter().chain([libc::SIGCHLD, libc::SIGUSR1]))
}

fn set_of(signals: impl IntoIterator<Item = i32>) -> libc::sigset_t {
    // SAFETY: sigemptyset makes `set` a value, and sigaddset takes valid signal numbers.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}

/// Sends a signal to a child of ours that nobody has reaped.
pub fn kill(child: u32, signal: i32) -> io::Result<()> {
    // SAFETY: integers.
    cerr(unsafe { libc::kill(child as libc::pid_t, signal) }.into()).map(drop)
}

/// Forks: the child's pid, or None in the child.
pub fn fork() -> io::Result<Option<u32>> {
    // SAFETY: called while this process has one thread, so the child may do all that a process may.
    let pid = cerr(unsafe { libc::fork() }.into())?;
    Ok((pid != 0).then_some(pid as u32))
}

/// A child that has ended, if any has: its pid, and its status as wait(2) tells it.
pub fn reap() -> Option<(u32, i32)> {
    let mut status = 0;
    // SAFETY: `status` is an int of ours.
    let pid = retry(|| unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) }.into()).ok()?;
    (pid > 0).then_some((pid as u32, status))
}

/// Waits until a child of ours that nobody else reaps has ended: its status as wait(2) tells it.
pub fn wait_child(child: u32) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: `status` is an int of ours.
    retry(|| unsafe { libc::waitpid(child as libc::pid_t, &raw mut status, 0) }.into())?;
    Ok(status)
}

/// What a shell would make of a status: the exit code, or 128 and the signal.
pub fn exit_code(status: i32) -> u8 {
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) as u8 } else { 128 + libc::WTERMSIG(status) as u8 }
}

/// Opens something below a directory, following links: `/proc/TID/root` and the like.
pub fn open_below(dir: BorrowedFd, path: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: `path` is NUL-terminated and outlives the call, which only reads it.
    owned(retry(|| unsafe { libc::openat(dir.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC) }.into()))
}

/// Allows as many descriptors as we may have: each call that waits for a file system holds a few.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is an rlimit of ours.
    cerr(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }.into())?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above; only read here.
    cerr(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }.into()).map(drop)
}
