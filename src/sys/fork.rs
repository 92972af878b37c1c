//! Children (`fork(2)`, `execve(2)`, `wait(2)`, `kill(2)`).
//!
//! Only a process of one thread may do whatever it likes after a fork. So this program starts no thread: clippy.toml
//! refuses the functions that would.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{cerr, retry};

/// Sends a signal to a process that cannot have been reaped by anybody yet: a child of ours, or one whose end we would see.
pub fn kill(child: u32, signal: i32) -> io::Result<()> {
    // SAFETY: integers.
    cerr(unsafe { libc::kill(child as libc::pid_t, signal) }.into()).map(drop)
}

/// Forks: the child's pid, or None in the child.
pub fn fork() -> io::Result<Option<u32>> {
    // SAFETY: this process has one thread (see above), so the child may do all that a process may.
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

/// Ends this process at once; nothing of a parent's is flushed or dropped a second time.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
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
