//! Changing the owner of a file that a path or descriptor of somebody else leads to.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{cerr, owned};

/// Where a path starts, and what it may not lead out of.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// At this directory, which is the root of all that follows: no absolute path, link or `..` leads out of it. EAGAIN if
    /// that cannot be told because something was renamed meanwhile.
    Root(BorrowedFd<'a>),
    /// At this directory, and it stays below: EXDEV for an absolute path or link, or a `..` that leads out of it.
    Below(BorrowedFd<'a>),
}

/// Finds a file, without opening it; `follow` says whether a link at the path's end leads on. ELOOP if the way leads
/// through a magic link such as `/proc/PID/root`.
pub fn find(start: Start, path: &CStr, follow: bool) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct OpenHow {
        flags: u64,
        mode: u64,
        resolve: u64,
    }
    const RESOLVE_NO_MAGICLINKS: u64 = 2;
    const RESOLVE_BENEATH: u64 = 8;
    const RESOLVE_IN_ROOT: u64 = 16;
    let no_follow = if follow { 0 } else { libc::O_NOFOLLOW };
    let (from, resolve) = match start {
        Start::Root(dir) => (dir, RESOLVE_IN_ROOT),
        Start::Below(dir) => (dir, RESOLVE_BENEATH),
    };
    let flags = (libc::O_PATH | libc::O_CLOEXEC | no_follow) as u64;
    let how = OpenHow { flags, mode: 0, resolve: resolve | RESOLVE_NO_MAGICLINKS };
    let (how, size) = (&raw const how, size_of::<OpenHow>());
    // SAFETY: `path` is NUL-terminated and `how` of the given size; both are only read during the call.
    owned(cerr(unsafe { libc::syscall(libc::SYS_openat2, from.as_raw_fd(), path.as_ptr(), how, size) }))
}

/// Changes the owner of what a descriptor, of whatever kind, refers to. 2^32-1 is "no change".
pub fn chown(file: BorrowedFd, uid: u32, gid: u32) -> io::Result<()> {
    let empty = c"".as_ptr();
    // SAFETY: `file` is open, and the string is a constant.
    cerr(unsafe { libc::fchownat(file.as_raw_fd(), empty, uid, gid, libc::AT_EMPTY_PATH) }.into()).map(drop)
}

/// The same as fchown(2) does it: EBADF for a descriptor that was opened with O_PATH. musl's own goes on from there.
pub fn fchown(file: BorrowedFd, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: `file` is open; integers otherwise.
    cerr(unsafe { libc::syscall(libc::SYS_fchown, file.as_raw_fd(), uid, gid) }).map(drop)
}
