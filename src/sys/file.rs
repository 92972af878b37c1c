//! Files by directory descriptor and single name, so that no path is ever resolved twice.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{cerr, cstr, owned, retry};

/// `statfs` magic of a namespace file (`linux/magic.h`).
pub const NSFS_MAGIC: i64 = 0x6e73_6673;
pub const SYSFS_MAGIC: i64 = 0x6265_6572;
/// The same of mqueue (`ipc/mqueue.c`).
pub const MQUEUE_MAGIC: i64 = 0x1980_0202;
pub const PROC_MAGIC: i64 = 0x9fa0;

fn openat(dir: libc::c_int, name: &str, flags: libc::c_int, mode: libc::mode_t) -> io::Result<OwnedFd> {
    let name = cstr(name)?;
    let flags = flags | libc::O_CLOEXEC;
    // SAFETY: `name` is a NUL-terminated string that outlives the call; the kernel only reads it.
    owned(retry(|| unsafe { libc::openat(dir, name.as_ptr(), flags, mode) }.into()))
}

/// Opens a directory by path; the last component may not be a link.
pub fn open_dir(path: &str) -> io::Result<OwnedFd> {
    openat(libc::AT_FDCWD, path, libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)
}

/// Opens the directory `name` in `dir`.
pub fn open_dir_at(dir: BorrowedFd, name: &str) -> io::Result<OwnedFd> {
    openat(dir.as_raw_fd(), name, libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)
}

/// Makes a new regular file, mode 0600; EEXIST if the name is taken, by whatever.
pub fn create_new_at(dir: BorrowedFd, name: &str) -> io::Result<File> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    openat(dir.as_raw_fd(), name, flags, 0o600).map(File::from)
}

/// Opens a file for reading and writing, making it (0600) if it is not there.
pub fn open_or_create_at(dir: BorrowedFd, name: &str) -> io::Result<File> {
    openat(dir.as_raw_fd(), name, libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW, 0o600).map(File::from)
}

/// Opens a file for reading.
pub fn open_at(dir: BorrowedFd, name: &str) -> io::Result<File> {
    openat(dir.as_raw_fd(), name, libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK, 0).map(File::from)
}

/// A handle that names a file without opening it, so that no driver or FIFO is touched.
pub fn open_path_at(dir: BorrowedFd, name: &str) -> io::Result<OwnedFd> {
    openat(dir.as_raw_fd(), name, libc::O_PATH | libc::O_NOFOLLOW, 0)
}

/// Opens something below a directory, following links: `/proc/TID/root` and the like.
pub fn open_below(dir: BorrowedFd, path: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: `path` is NUL-terminated and outlives the call, which only reads it.
    owned(retry(|| unsafe { libc::openat(dir.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC) }.into()))
}

/// Opens a namespace file such as `/proc/PID/ns/net`, a link that has to be followed; EINVAL if it is not one.
pub fn open_namespace(path: &str) -> io::Result<OwnedFd> {
    namespace(openat(libc::AT_FDCWD, path, libc::O_RDONLY | libc::O_NONBLOCK, 0)?)
}

/// The same below a directory.
pub fn open_namespace_at(dir: BorrowedFd, path: &str) -> io::Result<OwnedFd> {
    namespace(openat(dir.as_raw_fd(), path, libc::O_RDONLY | libc::O_NONBLOCK, 0)?)
}

fn namespace(fd: OwnedFd) -> io::Result<OwnedFd> {
    match file_system(&fd)? {
        NSFS_MAGIC => Ok(fd),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// Makes a directory with the given mode.
pub fn mkdir_at(dir: BorrowedFd, name: &str, mode: libc::mode_t) -> io::Result<()> {
    let name = cstr(name)?;
    // SAFETY: `name` is a NUL-terminated string that outlives the call; the kernel only reads it.
    cerr(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) }.into()).map(drop)
}

/// Removes a name: a file or link, or an empty directory.
pub fn remove_at(dir: BorrowedFd, name: &str) -> io::Result<()> {
    let name = cstr(name)?;
    // SAFETY: `name` is a NUL-terminated string that outlives the call; the kernel only reads it.
    let unlink = |flags| cerr(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), flags) }.into()).map(drop);
    match unlink(0) {
        Err(e) if e.raw_os_error() == Some(libc::EISDIR) => unlink(libc::AT_REMOVEDIR),
        result => result,
    }
}

/// The magic number of the file system that a descriptor is on.
pub fn file_system(fd: &OwnedFd) -> io::Result<i64> {
    // SAFETY: statfs is a plain struct of integers, for which all zeros is a value.
    let mut out: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `fd` is open and `out` is a statfs of ours that the kernel fills during the call.
    retry(|| unsafe { libc::fstatfs(fd.as_raw_fd(), &mut out) }.into())?;
    Ok(out.f_type as i64)
}

/// The number of a namespace, from the text of its link `/proc/PID/ns/user` (`user:[4026531837]`); an empty path: of the
/// link that `dir` itself is. Following the link instead makes the kernel build an inode each time.
pub fn namespace_number(dir: BorrowedFd, path: &CStr) -> io::Result<u64> {
    let mut text = [0u8; 64];
    let (start, size) = (text.as_mut_ptr().cast(), text.len());
    // SAFETY: `path` is NUL-terminated and only read; the kernel writes at most `size` bytes into `text`.
    let length = cerr(unsafe { libc::readlinkat(dir.as_raw_fd(), path.as_ptr(), start, size) } as libc::c_long)?;
    let digits = text[..length as usize].iter().filter(|b| b.is_ascii_digit());
    Ok(digits.fold(0, |n: u64, b| n.wrapping_mul(10) + u64::from(b - b'0')))
}

/// Whether a link such as `/proc/PID/root` leads to our own root.
pub fn leads_to_root(dir: BorrowedFd, path: &CStr) -> io::Result<bool> {
    let mut text = [0u8; 2];
    let (start, size) = (text.as_mut_ptr().cast(), text.len());
    // SAFETY: `path` is NUL-terminated and only read; the kernel writes at most `size` bytes into `text`.
    let length = cerr(unsafe { libc::readlinkat(dir.as_raw_fd(), path.as_ptr(), start, size) } as libc::c_long)?;
    Ok(&text[..length as usize] == b"/")
}

/// How many names a directory still has; 0 once it is removed.
pub fn links(dir: &OwnedFd) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(File::from(dir.try_clone()?).metadata()?.nlink())
}
