//! Every unsafe call, each behind a safe function that returns `io::Result`.
//!
//! The only module that may say `unsafe`. Functions take and give owned or borrowed file descriptors, which are
//! close-on-exec, and never follow a link in their last path component unless they say so.
#![allow(unsafe_code)]

pub mod capability;
pub mod descriptor;
pub mod file;
pub mod fork;
pub mod lock;
pub mod mount;
pub mod ns;
pub mod owner;
pub mod pidfd;
pub mod pipe;
pub mod poll;
pub mod probe;
pub mod process;
pub mod ptrace;
pub mod seccomp;
pub mod shared;
pub mod signal;
pub mod socket;

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Turns the -1 of a system call into its errno.
fn cerr(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes the call again for as long as a signal interrupts it.
fn retry(mut call: impl FnMut() -> libc::c_long) -> io::Result<libc::c_long> {
    loop {
        match cerr(call()) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Takes over the descriptor that a system call has just returned.
fn owned(result: io::Result<libc::c_long>) -> io::Result<OwnedFd> {
    let fd = result? as libc::c_int;
    // SAFETY: the kernel has just opened `fd` for us, so it is valid and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A path for the kernel; a NUL inside is EINVAL.
fn cstr(path: &str) -> io::Result<CString> {
    CString::new(path).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}
