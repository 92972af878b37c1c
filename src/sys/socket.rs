//! Unix sockets (`unix(7)`): the one that the runtime hands down, and descriptors that are sent.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{cerr, retry};

/// Takes over an inherited descriptor. ENOTSOCK if it is no socket, EBADF if it is not open or is standard input,
/// output or error, or if one was taken over before.
pub fn inherited(fd: RawFd) -> io::Result<UnixStream> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if fd <= 2 || TAKEN.swap(true, Ordering::Relaxed) {
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
    // process was opened under an inherited number, and this is done once.
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

const CONTROL: usize = 24; // CMSG_SPACE(sizeof(int)) on 64-bit machines

#[repr(align(8))]
struct Control([u8; CONTROL]);

fn message(io: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: msghdr is a plain struct of pointers and integers, for which all zeros is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = io;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL as _;
    message
}

/// Sends a descriptor.
pub fn send_descriptor(to: &UnixStream, fd: BorrowedFd) -> io::Result<()> {
    let (mut byte, mut control) = (0u8, Control([0; CONTROL]));
    let mut io = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let message = message(&mut io, &mut control);
    // SAFETY: `message` describes `io` and `control`, which live; `control` has room for one header and one descriptor.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<libc::c_int>() as u32) as _;
        libc::CMSG_DATA(header).cast::<libc::c_int>().write_unaligned(fd.as_raw_fd());
        retry(|| libc::sendmsg(to.as_raw_fd(), &message, 0) as libc::c_long).map(drop)
    }
}

/// Receives a descriptor; None if the other end was closed without sending one.
pub fn receive_descriptor(from: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let (mut byte, mut control) = (0u8, Control([0; CONTROL]));
    let mut io = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut message = message(&mut io, &mut control);
    // SAFETY: as in send_descriptor; what the kernel reports in `message` is checked before it is used, and a
    // descriptor that it reports is new and ours.
    unsafe {
        let flags = libc::MSG_CMSG_CLOEXEC;
        if retry(|| libc::recvmsg(from.as_raw_fd(), &mut message, flags) as libc::c_long)? == 0 {
            return Ok(None);
        }
        let header = libc::CMSG_FIRSTHDR(&message);
        if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
            return Err(io::Error::from_raw_os_error(libc::EBADMSG));
        }
        let fd = libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned();
        Ok(Some(OwnedFd::from_raw_fd(fd)))
    }
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
