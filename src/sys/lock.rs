//! One instance at a time: a POSIX record lock (`fcntl_locking(2)`).
//!
//! Not flock(2): a record lock is not shared with a child, tells its holder's pid, and is dropped before any socket
//! of a dying process closes, so that whoever sees the socket close can take the lock.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::{cerr, retry};

fn whole_file(kind: libc::c_int) -> libc::flock {
    // SAFETY: flock is a plain struct of integers, for which all zeros (the whole file, from its start) is a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock
}

/// Takes the lock if it is free. Closing any descriptor of this file in this process drops it again.
pub fn try_lock(file: &File) -> io::Result<bool> {
    let lock = whole_file(libc::F_WRLCK);
    // SAFETY: `file` is open and `lock` is a flock that outlives the call; F_SETLK only reads it.
    match retry(|| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &lock) }.into()) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Takes the lock, waiting for as long as another process has it.
pub fn lock(file: &File) -> io::Result<()> {
    let lock = whole_file(libc::F_WRLCK);
    // SAFETY: as in try_lock; F_SETLKW only reads it too.
    retry(|| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLKW, &lock) }.into()).map(drop)
}

/// The pid of the process that has the lock, if another one has and it can be told.
pub fn holder(file: &File) -> io::Result<Option<u32>> {
    let mut lock = whole_file(libc::F_WRLCK);
    // SAFETY: as in try_lock, and F_GETLK may write `lock`, which is ours alone.
    cerr(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &mut lock) }.into())?;
    // A holder that this pid namespace does not see is pid 0.
    let seen = lock.l_type != libc::F_UNLCK as libc::c_short && lock.l_pid > 0;
    Ok(seen.then_some(lock.l_pid as u32))
}
