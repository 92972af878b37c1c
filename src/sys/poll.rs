//! Waiting for descriptors (`ppoll(2)`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::time::{Duration, Instant};

use super::cerr;

#[derive(Clone, Copy, Debug)]
pub enum Watch<'a> {
    /// Something to read, or the end of the other side.
    Input(BorrowedFd<'a>),
    /// That a write is taken, of at least PIPE_BUF bytes where this is a pipe; or the end of the other side.
    Output(BorrowedFd<'a>),
    /// The end of the other side only.
    End(BorrowedFd<'a>),
    Nothing,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// What was waited for has come.
    pub ready: bool,
    pub hangup: bool,
}

impl Ready {
    /// Whether a read or write would not wait.
    pub fn any(self) -> bool {
        self.ready || self.hangup
    }
}

/// Waits until one of these comes or the time is over. None: without bound.
pub fn wait<const N: usize>(watched: [Watch; N], timeout: Option<Duration>) -> [Ready; N] {
    let end = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        match with_mask(watched, left, ptr::null()) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result.unwrap_or([Ready::default(); N]),
        }
    }
}

/// The same, once, with this signal mask meanwhile; null: with the one that there is. EINTR if a signal comes.
pub(super) fn with_mask<const N: usize>(
    watched: [Watch; N],
    timeout: Option<Duration>,
    mask: *const libc::sigset_t,
) -> io::Result<[Ready; N]> {
    let mut polls = watched.map(|watch| {
        let (fd, events) = match watch {
            Watch::Input(fd) => (fd.as_raw_fd(), libc::POLLIN),
            Watch::Output(fd) => (fd.as_raw_fd(), libc::POLLOUT),
            Watch::End(fd) => (fd.as_raw_fd(), 0),
            // ppoll(2) passes over it.
            Watch::Nothing => (-1, 0),
        };
        libc::pollfd { fd, events, revents: 0 }
    });
    let time = timeout.map(|t| libc::timespec { tv_sec: t.as_secs() as _, tv_nsec: t.subsec_nanos().into() });
    let time = time.as_ref().map_or(ptr::null(), |t| &raw const *t);
    // SAFETY: `polls` has N entries; the time and the mask, if any, live until the call returns.
    cerr(unsafe { libc::ppoll(polls.as_mut_ptr(), N as libc::nfds_t, time, mask) }.into())?;
    Ok(polls.map(|poll| Ready {
        ready: poll.revents & (libc::POLLIN | libc::POLLOUT) != 0,
        hangup: poll.revents & (libc::POLLHUP | libc::POLLERR) != 0,
    }))
}
