//! Signals as events: caught ones are only noted, and only while this process waits.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::cerr;
use super::poll::{self, Ready, Watch};

/// Signals that have come since they were last asked for, by bit.
static NOTED: AtomicU64 = AtomicU64::new(0);

extern "C" fn note(signal: libc::c_int) {
    NOTED.fetch_or(1 << signal, Ordering::Relaxed);
}

pub struct Waiter(libc::sigset_t);

/// Blocks all signals, and notes these while `Waiter::wait` waits. All others that can be blocked no longer do anything.
/// Children inherit this, so each calls it for itself.
pub fn catch(signals: &[libc::c_int]) -> io::Result<Waiter> {
    // SAFETY: sigfillset makes `mask` a value; a sigaction of zeros with a handler, an empty mask and no flags is one. The
    // handler only touches an atomic. Without SA_RESTART, so that a wait ends.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut mask);
        cerr(libc::sigprocmask(libc::SIG_SETMASK, &mask, std::ptr::null_mut()).into())?;
        for signal in signals {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note as extern "C" fn(libc::c_int) as usize;
            cerr(libc::sigaction(*signal, &action, std::ptr::null_mut()).into())?;
            libc::sigdelset(&mut mask, *signal);
        }
        NOTED.store(0, Ordering::Relaxed);
        Ok(Waiter(mask))
    }
}

/// Whether this signal has come since it was last asked for.
pub fn came(signal: libc::c_int) -> bool {
    NOTED.fetch_and(!(1 << signal), Ordering::Relaxed) & 1 << signal != 0
}

impl Waiter {
    /// Waits until one of these comes, a caught signal comes, or the time is over.
    pub fn wait<const N: usize>(&self, watched: [Watch; N], timeout: Option<Duration>) -> [Ready; N] {
        poll::with_mask(watched, timeout, &self.0).unwrap_or([Ready::default(); N])
    }
}

/// Has the kernel send this signal to us when the thread that started us is gone. False: it is gone already.
pub fn on_death_of(parent: u32, signal: libc::c_int) -> bool {
    // SAFETY: integers.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0);
        libc::getppid() as u32 == parent
    }
}

/// Lets all signals in again, for a program that is about to be executed in this process.
pub fn unblock() -> io::Result<()> {
    // SAFETY: sigemptyset makes `mask` a value.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut mask);
        cerr(libc::sigprocmask(libc::SIG_SETMASK, &mask, std::ptr::null_mut()).into()).map(drop)
    }
}

/// Has SIGALRM end this process whenever it comes, even while it waits in the kernel.
pub fn die_of_alarm() -> io::Result<()> {
    // SAFETY: sigemptyset makes `mask` a value; SIGALRM is a valid signal, whose default action is to end the process.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut mask);
        libc::sigaddset(&mut mask, libc::SIGALRM);
        cerr(libc::sigprocmask(libc::SIG_UNBLOCK, &mask, std::ptr::null_mut()).into()).map(drop)
    }
}

/// Has SIGALRM come in so many seconds, in place of any earlier time; 0: not at all.
pub fn alarm(seconds: u32) {
    // SAFETY: an integer.
    unsafe { libc::alarm(seconds) };
}

/// Gives SIGPIPE its default back, for a program that is about to be executed: Rust's start has had it ignored.
pub fn default_pipe() {
    // SAFETY: a valid signal.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
