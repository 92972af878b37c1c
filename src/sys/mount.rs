//! Mounts made detached, as descriptors, and only then attached: a death in between leaves nothing (Linux 5.2).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use super::{cerr, cstr, owned, retry};

// linux/mount.h; the libc crate has none of these for musl.
const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const MOUNT_ATTR_RDONLY: libc::c_uint = 1;
const MOUNT_ATTR_NOSUID: libc::c_uint = 2;
const MOUNT_ATTR_NODEV: libc::c_uint = 4;
const MOUNT_ATTR_NOEXEC: libc::c_uint = 8;

/// A detached bind mount of what `path` leads to; a link at its end, such as `/proc/PID/ns/user`, is followed.
pub fn clone_tree(path: &str) -> io::Result<OwnedFd> {
    let path = cstr(path)?;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint;
    // SAFETY: `path` is a NUL-terminated string that outlives the call; the kernel only reads it.
    owned(cerr(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) }))
}

/// A new, detached instance of a file system, nosuid, nodev and noexec.
/// sysfs and mqueue show the network and IPC namespace of the calling thread, proc its *active* pid namespace.
pub fn fresh(fs: &CStr, read_only: bool) -> io::Result<OwnedFd> {
    // SAFETY: `fs` is a NUL-terminated string that outlives the call; the kernel only reads it.
    let context = owned(cerr(unsafe { libc::syscall(libc::SYS_fsopen, fs.as_ptr(), FSOPEN_CLOEXEC) }))?;
    let none = ptr::null::<libc::c_char>();
    // SAFETY: `context` is open; FSCONFIG_CMD_CREATE takes no key and no value: both null, and 0.
    retry(|| unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0 as libc::c_int)
    })?;
    let read_only = if read_only { MOUNT_ATTR_RDONLY } else { 0 };
    let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | read_only;
    // SAFETY: `context` is open; the other arguments are integers.
    owned(cerr(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) }))
}

/// Attaches a detached mount on `name` in `dir`; a link there is not followed.
pub fn attach(mount: OwnedFd, dir: BorrowedFd, name: &str) -> io::Result<()> {
    let name = cstr(name)?;
    let (from, to) = (mount.as_raw_fd(), dir.as_raw_fd());
    // SAFETY: both descriptors are open; both strings are NUL-terminated and outlive the call, which only reads them.
    cerr(unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, name.as_ptr(), MOVE_MOUNT_F_EMPTY_PATH) })
        .map(drop)
}

/// Detaches the topmost mount on `name` in `dir`; EINVAL if nothing is mounted there.
pub fn detach(dir: BorrowedFd, name: &str) -> io::Result<()> {
    // umount2 has no directory argument; the link leads to our own descriptor whatever the path has become.
    let path = cstr(&format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))?;
    // SAFETY: `path` is a NUL-terminated string that outlives the call; the kernel only reads it.
    cerr(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) }.into()).map(drop)
}
