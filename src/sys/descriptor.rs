//! Descriptors of this process (`read(2)`, `pipe(2)`, `dup(2)`, `memfd_create(2)`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{cerr, owned, retry};

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

/// A file in memory without a name.
pub fn memory_file() -> io::Result<OwnedFd> {
    // SAFETY: a constant string.
    owned(cerr(unsafe { libc::memfd_create(c"uid-nri-plugin".as_ptr(), libc::MFD_CLOEXEC) }.into()))
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
