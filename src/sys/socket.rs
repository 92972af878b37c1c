//! The socket that the runtime hands down.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use super::cerr;

/// Takes over an inherited descriptor. ENOTSOCK if it is no socket, EBADF if it is not open or is standard input,
/// output or error. To be called once for a descriptor.
pub fn inherited(fd: RawFd) -> io::Result<UnixStream> {
    if fd <= 2 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` has room for what fstat writes; any number may be asked about.
    cerr(unsafe { libc::fstat(fd, stat.as_mut_ptr()) }.into())?;
    // SAFETY: fstat succeeded, so it has written `stat`.
    if unsafe { stat.assume_init() }.st_mode & libc::S_IFMT != libc::S_IFSOCK {
        return Err(io::Error::from_raw_os_error(libc::ENOTSOCK));
    }
    // SAFETY: F_SETFD takes an integer, and `fd` is open.
    cerr(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: `fd` is open, and by the runtime's contract (NRI_PLUGIN_SOCKET) it is ours: nothing else in this
    // process was opened under an inherited number.
    let socket = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    socket.set_nonblocking(false)?;
    Ok(socket)
}

/// Who was at the other end when the connection was made (SO_PEERCRED): a process, if this pid namespace has it.
pub fn peer(socket: &UnixStream) -> Option<u32> {
    let mut who = MaybeUninit::<libc::ucred>::uninit();
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    let (fd, into) = (socket.as_raw_fd(), who.as_mut_ptr().cast());
    // SAFETY: `socket` is open; `into` has room for the ucred whose size is given.
    cerr(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, into, &raw mut size) }.into()).ok()?;
    // SAFETY: getsockopt succeeded, and has filled the whole of it.
    let pid = unsafe { who.assume_init() }.pid;
    u32::try_from(pid).ok().filter(|pid| *pid > 0)
}

/// How many bytes a read waits for (SO_RCVLOWAT). It still returns less at the end of the stream.
pub fn set_low_water(socket: &UnixStream, bytes: usize) -> io::Result<()> {
    let bytes = bytes as libc::c_int;
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    let value = (&raw const bytes).cast();
    // SAFETY: `socket` is open; `value` points to an int of ours, whose size is given, and is only read.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, size) };
    cerr(set.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_is_known() {
        let (socket, _other) = UnixStream::pair().unwrap();
        assert_eq!(peer(&socket), Some(std::process::id()));
    }
}
