//! chown by the node's root, made by the receiver itself.
//!
//! A caller that has all that the receiver has (containerd that unpacks an image, kubelet that sets up a volume) gains
//! nothing when the receiver makes its call, and that is three times as quick as having it make the call again. Only success
//! counts: whatever is refused or not plain here is made again by its caller, and then the kernel says what is wrong.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::calls::Op;
use super::thread::Thread;
use crate::sys::owner::{self, Start};
use crate::sys::seccomp::Notification;
use crate::sys::{file, process};

/// The most bytes of a path, its NUL among them.
const PATH_MAX: usize = 4096;

/// Changes the owner; `valid` says whether the caller still waits, so that all that was read is the caller's. Any error
/// means that the caller is to make its call again.
pub fn chown(
    n: &Notification,
    op: Op,
    uid: u32,
    gid: u32,
    caller: &Thread,
    root: BorrowedFd,
    valid: impl Fn() -> bool,
) -> io::Result<()> {
    let still_there = || if valid() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) };
    let not_plain = || io::Error::from_raw_os_error(libc::EINVAL);
    let (dir, path, flags) = match op {
        Op::Fchown => {
            let file = caller.descriptor(n.args[0] as i32)?;
            still_there()?;
            return owner::fchown(file.as_fd(), uid, gid);
        }
        Op::Fchownat => (n.args[0] as i32, n.args[1], n.args[4] as i32),
        Op::Chown => (libc::AT_FDCWD, n.args[0], 0),
        Op::Lchown => (libc::AT_FDCWD, n.args[0], libc::AT_SYMLINK_NOFOLLOW),
        _ => return Err(not_plain()),
    };
    if flags & !libc::AT_SYMLINK_NOFOLLOW != 0 {
        return Err(not_plain());
    }
    let mut bytes = [0; PATH_MAX];
    let path = path_at(n.tid, path, &mut bytes)?;
    let absolute = path.to_bytes().starts_with(b"/");
    let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
    let found = match dir {
        // Its root is ours.
        _ if absolute => owner::find(Start::Root(root), path, follow)?,
        libc::AT_FDCWD => owner::find(Start::Below(caller.folder(c"cwd")?.as_fd()), path, follow)?,
        number => owner::find(Start::Below(caller.descriptor(number)?.as_fd()), path, follow)?,
    };
    // What /proc shows depends on who looks.
    if file::file_system(&found)? == file::PROC_MAGIC {
        return Err(not_plain());
    }
    still_there()?;
    owner::chown(found.as_fd(), uid, gid)
}

/// The path at an address. Read once: what the caller's other threads make of it later does not matter.
fn path_at(tid: u32, address: u64, bytes: &mut [u8; PATH_MAX]) -> io::Result<&CStr> {
    const PAGE: usize = 4096;
    let mut length = 0;
    while length < PATH_MAX {
        let at = address.checked_add(length as u64).ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))?;
        // Not across a page's end: the next one may not be there. A short piece first: most paths are short.
        let to_page_end = PAGE - at as usize % PAGE;
        let piece = to_page_end.min(PATH_MAX - length).min(if length == 0 { 256 } else { PAGE });
        let read = process::read_memory(tid, at, &mut bytes[length..length + piece])?;
        let new = length..length + read;
        length += read;
        if bytes[new].contains(&0) {
            return CStr::from_bytes_until_nul(&bytes[..length])
                .map_err(|_| io::Error::from_raw_os_error(libc::EFAULT));
        }
        if read == 0 {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
    }
    Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_whole_or_not() {
        let tid = std::process::id();
        let mut bytes = [0; PATH_MAX];
        let mut at =
            |address| path_at(tid, address, &mut bytes).map(|p| p.to_bytes().to_vec()).map_err(|e| e.raw_os_error());
        let mut read = |bytes: &[u8]| at(bytes.as_ptr() as u64);
        assert_eq!(read(b"/etc/x\0rest"), Ok(b"/etc/x".to_vec()));
        assert_eq!(read(b"\0"), Ok(vec![]));
        let mut long = vec![b'a'; 4095];
        long.push(0);
        assert_eq!(read(&long).map(|p| p.len()), Ok(4095));
        assert_eq!(read(&[b'a'; 5000]), Err(Some(libc::ENAMETOOLONG)));
        assert_eq!(at(0), Err(Some(libc::EFAULT)));
        assert_eq!(at(u64::MAX - 2), Err(Some(libc::EFAULT)));
    }
}
