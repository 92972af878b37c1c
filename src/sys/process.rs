//! Other processes: their memory and descriptors; our children and signals.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{cerr, owned, retry};

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
    /// The number of its control group (version 2), if the kernel has told it.
    pub cgroup: u64,
    pid: u32,
    /// The process that it belongs to.
    pub process: u32,
    parent: u32,
    /// Real, effective, saved and file-system user and group ids, in turn.
    pub ids: [u32; 8],
    exit_code: i32,
}

/// Asks a handle. ENOTTY before Linux 6.13, ESRCH when the thread is gone.
pub fn info(pidfd: BorrowedFd) -> io::Result<Info> {
    /// _IOWR(0xff, 11, struct pidfd_info)
    const PIDFD_GET_INFO: u32 = 0xc040_ff0b;
    /// PIDFD_INFO_PID and PIDFD_INFO_CREDS, which are always told, and PIDFD_INFO_CGROUPID.
    const PIDS_AND_CREDENTIALS: u64 = 3;
    const CGROUP: u64 = 4;
    let mut info = Info { mask: PIDS_AND_CREDENTIALS | CGROUP, ..Default::default() };
    // SAFETY: the request's number has the size of `info`, which the kernel fills.
    cerr(unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as libc::Ioctl, &raw mut info) }.into())?;
    match info.mask & PIDS_AND_CREDENTIALS {
        PIDS_AND_CREDENTIALS => Ok(info),
        _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

/// Becomes this program, found by PATH if it has no slash, with these arguments. Returns only if that fails.
pub fn execute(program: &Path, command: &[CString]) -> io::Error {
    let Ok(program) = CString::new(program.as_os_str().as_bytes()) else {
        return io::Error::from_raw_os_error(libc::EINVAL);
    };
    let mut arguments: Vec<*const libc::c_char> = command.iter().map(|a| a.as_ptr()).collect();
    arguments.push(std::ptr::null());
    // SAFETY: `arguments` is a null-terminated list of strings that live, as does `program`.
    unsafe { libc::execvp(program.as_ptr(), arguments.as_ptr()) };
    io::Error::last_os_error()
}

/// The pid of the process that started this one, or of whoever has taken its place.
pub fn parent() -> u32 {
    // SAFETY: takes nothing and always succeeds.
    unsafe { libc::getppid() as u32 }
}

/// Writes once.
pub fn write(to: BorrowedFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: `bytes` are ours and only read.
    retry(|| unsafe { libc::write(to.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) } as libc::c_long)
        .map(|n| n as usize)
}

/// Reads once.
pub fn read(from: BorrowedFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `into` is ours, of the given length.
    retry(|| unsafe { libc::read(from.as_raw_fd(), into.as_mut_ptr().cast(), into.len()) } as libc::c_long)
        .map(|n| n as usize)
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

/// Sends a descriptor.
pub fn send_descriptor(to: &UnixStream, fd: BorrowedFd) -> io::Result<()> {
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

/// Sends a signal to a process that cannot have been reaped by anybody yet: a child of ours, or one whose end we would see.
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

/// A name for this process in /proc/PID/comm, of at most 15 bytes.
pub fn set_name(name: &CStr) {
    // SAFETY: a string that outlives the call. Only cosmetic: nothing to do if it fails.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// Makes this process the first of a session of its own, away from any terminal.
pub fn new_session() {
    // SAFETY: takes nothing. It fails only for a process that leads a group already.
    unsafe { libc::setsid() };
}

/// Ends this process at once; nothing of a parent's is flushed or dropped a second time.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// Has a descriptor number (0, 1, 2) refer to what another one does.
pub fn replace_descriptor(number: i32, by: BorrowedFd) -> io::Result<()> {
    // SAFETY: both are numbers; what `number` was is closed.
    cerr(unsafe { libc::dup2(by.as_raw_fd(), number) }.into()).map(drop)
}

/// A pipe: where to read, and where to write. Neither end blocks.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for two descriptors.
    cerr(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) }.into())?;
    // SAFETY: the kernel has just opened both for us.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Gives up this process's additional groups, where it may.
pub fn drop_groups() -> bool {
    // SAFETY: no groups, so no array.
    unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) == 0 }
}

/// A file in memory without a name.
pub fn memory_file() -> io::Result<OwnedFd> {
    // SAFETY: a constant string.
    owned(cerr(unsafe { libc::memfd_create(c"uid-nri-plugin".as_ptr(), libc::MFD_CLOEXEC) }.into()))
}

/// Gives up the processor for the moment.
pub fn yield_now() {
    // SAFETY: takes nothing.
    unsafe { libc::sched_yield() };
}

/// Asks the scheduler for short turns, as one who mostly waits and whom others wait for: it then gets its turn sooner (Linux
/// 6.12; without effect before).
pub fn take_short_turns() {
    #[derive(Default)]
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    const SHORTEST: u64 = 100_000;
    // SAFETY: integers.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let attributes = Attributes { size: 48, nice, runtime: SHORTEST, ..Default::default() };
    // SAFETY: `attributes` has the size that it says, and is only read.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// The real uid of this process.
pub fn real_uid() -> u32 {
    // SAFETY: takes nothing and always succeeds.
    unsafe { libc::getuid() }
}

/// Closes all descriptors but 0, 1, 2 and this one. For a process that has just been forked and owns no other.
pub fn close_inherited(but: BorrowedFd) -> io::Result<()> {
    let but = but.as_raw_fd();
    let names: Vec<_> = std::fs::read_dir("/proc/self/fd")?.flatten().map(|entry| entry.file_name()).collect();
    for fd in names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok()).filter(|fd| *fd > 2 && *fd != but) {
        // SAFETY: a number. Nothing in this process owns it; the folder's own, among them, is closed already (EBADF).
        unsafe { libc::close(fd) };
    }
    Ok(())
}
