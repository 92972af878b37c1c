//! Handles on processes and threads (`pidfd_open(2)`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{cerr, owned};

fn pidfd_open(pid: u32, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: integers.
    owned(cerr(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) }))
}

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
