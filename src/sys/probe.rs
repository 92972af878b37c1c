//! Finding out what the kernel can do, by doing it where nobody else notices.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::fork;
use super::{cerr, cstr};

const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
const SECCOMP_GET_ACTION_AVAIL: libc::c_uint = 2;
const FLAG_NEW_LISTENER: libc::c_ulong = 1 << 3;
const FLAG_WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// Runs `work` in a child process, and returns what it finds: an errno each, 0 for success. EPIPE if the child died on the
/// way; it is killed after 5 s. To be called while this process has one thread.
pub fn in_child<const N: usize>(work: impl FnOnce() -> [i32; N]) -> io::Result<[i32; N]> {
    let (mut from, mut to) = UnixStream::pair()?;
    let Some(child) = fork::fork()? else {
        // SAFETY: an integer. SIGALRM ends the child, since nobody here sets another disposition.
        unsafe { libc::alarm(5) };
        let all: Vec<u8> = work().iter().flat_map(|errno| errno.to_ne_bytes()).collect();
        let _ = to.write_all(&all);
        // SAFETY: ends the process at once; nothing of the parent's is flushed or dropped a second time.
        unsafe { libc::_exit(0) };
    };
    drop(to);
    let mut found = [0; N];
    let mut read = Ok(());
    for errno in &mut found {
        let mut bytes = [0; 4];
        read = read.and_then(|()| from.read_exact(&mut bytes));
        *errno = i32::from_ne_bytes(bytes);
    }
    fork::wait_child(child)?;
    match read {
        Ok(()) => Ok(found),
        Err(_) => Err(io::Error::from_raw_os_error(libc::EPIPE)),
    }
}

/// Runs `work` with the pid of a child that is alone in a new user namespace, whose maps are empty. Others of this user may
/// write them, as they may not for a `Holder`. To be called while this process has one thread.
pub fn beside_namespace<T>(work: impl FnOnce(u32) -> T) -> io::Result<T> {
    let (mut ours, mut its) = UnixStream::pair()?;
    let Some(child) = fork::fork()? else {
        drop(ours);
        // SAFETY: an integer.
        let made = cerr(unsafe { libc::unshare(libc::CLONE_NEWUSER) }.into());
        // Until the other end is closed.
        let _ = its.write_all(&errno(&made).to_ne_bytes()).and_then(|()| its.read(&mut [0]));
        fork::exit_now(0);
    };
    drop(its);
    let mut made = [0; 4];
    let result = ours.read_exact(&mut made).and_then(|()| match i32::from_ne_bytes(made) {
        0 => Ok(work(child)),
        errno => Err(io::Error::from_raw_os_error(errno)),
    });
    drop(ours);
    fork::wait_child(child)?;
    result
}

/// The errno of a result, 0 for success.
pub fn errno<T>(result: &io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(e) => e.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// Leaves the mount namespace for a new one, whose mounts nobody else sees, and before that the user namespace if `user`.
pub fn new_namespaces(user: bool) -> io::Result<()> {
    let flags = libc::CLONE_NEWNS | if user { libc::CLONE_NEWUSER } else { 0 };
    // SAFETY: an integer.
    cerr(unsafe { libc::unshare(flags) }.into())?;
    let none = std::ptr::null();
    // SAFETY: `c"/"` is NUL-terminated; a change of propagation takes no source, type or data: all null.
    cerr(unsafe { libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) }.into())
        .map(drop)
}

/// Gives up rights that set-id programs would give, which lets a process without capabilities install filters.
pub fn no_new_privileges() -> io::Result<()> {
    // SAFETY: integers.
    cerr(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into()).map(drop)
}

/// Mounts an overlay on a directory; the options as in mount(8).
pub fn mount_overlay(on: &str, options: &str) -> io::Result<()> {
    let (on, options) = (cstr(on)?, cstr(options)?);
    let kind = c"overlay".as_ptr();
    // SAFETY: four NUL-terminated strings that outlive the call, which only reads them.
    cerr(unsafe { libc::mount(kind, on.as_ptr(), kind, 0, options.as_ptr().cast()) }.into()).map(drop)
}

/// Maps the ids of a detached mount by a user namespace.
pub fn map_mount(mount: BorrowedFd, user: BorrowedFd) -> io::Result<()> {
    /// struct mount_attr (linux/mount.h).
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user: u64,
    }
    let attributes = Attributes { set: MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, user: user.as_raw_fd() as u64 };
    let (at, size) = (&raw const attributes, size_of::<Attributes>());
    let empty = c"".as_ptr();
    // SAFETY: both descriptors are open; the string is empty, and `attributes` of the given size: both are only read.
    cerr(unsafe { libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), empty, libc::AT_EMPTY_PATH, at, size) })
        .map(drop)
}

/// Whether a filter can ask a supervisor (Linux 5.0).
pub fn has_notification() -> bool {
    let action: u32 = 0x7fc0_0000; // SECCOMP_RET_USER_NOTIF
    // SAFETY: the kernel reads one u32.
    unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}

/// Whether a wait for the supervisor can be such that only a fatal signal ends it (Linux 5.19).
pub fn has_killable_wait() -> bool {
    let none = std::ptr::null::<u8>();
    let flags = FLAG_NEW_LISTENER | FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: flags are looked at before the null pointer is (EFAULT), so no filter comes of it.
    let result = cerr(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, none) });
    errno(&result) == libc::EFAULT
}

/// Whether descriptors of other processes can be had (Linux 5.6).
pub fn has_pidfd_getfd() -> bool {
    // SAFETY: integers; -1 is no descriptor (EBADF).
    errno(&cerr(unsafe { libc::syscall(libc::SYS_pidfd_getfd, -1, 0, 0) })) != libc::ENOSYS
}

/// Whether a file has capabilities of its own.
pub fn has_file_capabilities(path: &str) -> bool {
    let Ok(path) = cstr(path) else { return false };
    let name = c"security.capability".as_ptr();
    // SAFETY: two NUL-terminated strings, only read; a size of 0 asks for the length alone, and nothing is written.
    unsafe { libc::getxattr(path.as_ptr(), name, std::ptr::null_mut(), 0) > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_tells_what_it_found() {
        assert_eq!(in_child(|| [1, 0, -7]).unwrap(), [1, 0, -7]);
        let died = in_child(|| -> [i32; 1] {
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) }
        });
        assert_eq!(errno(&died), libc::EPIPE);
    }
}
