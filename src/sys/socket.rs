//! The socket that the runtime hands down.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
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

/// Whether a write would be taken right now, at least PIPE_BUF bytes of it where this is a pipe.
pub fn can_write(fd: BorrowedFd) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: `poll` is one pollfd of ours; a timeout of 0 does not wait.
    let ready = unsafe { libc::poll(&mut poll, 1, 0) };
    ready == 1 && poll.revents & libc::POLLOUT != 0
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
