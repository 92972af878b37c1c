//! seccomp user notification (`seccomp_unotify(2)`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{cerr, owned};

/// A classic BPF instruction (`linux/filter.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if true.
    pub jt: u8,
    /// Instructions to skip if false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// What a filter returns to let a call through (SECCOMP_RET_ALLOW).
pub const ALLOW: u32 = 0x7fff_0000;
/// What it returns to ask whoever has the listener (SECCOMP_RET_USER_NOTIF).
pub const NOTIFY: u32 = 0x7fc0_0000;

const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
const FLAG_SPEC_ALLOW: libc::c_ulong = 1 << 2;
const FLAG_NEW_LISTENER: libc::c_ulong = 1 << 3;
const FLAG_WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
// linux/seccomp.h: _IOWR('!', 0, struct seccomp_notif) and so on.
const NOTIF_RECV: u32 = 0xc050_2100;
const NOTIF_SEND: u32 = 0xc018_2101;
const NOTIF_ID_VALID: u32 = 0x4008_2102;
const NOTIF_SET_FLAGS: u32 = 0x4008_2104;
const FD_SYNC_WAKE_UP: libc::c_ulong = 1;
const NOTIF_FLAG_CONTINUE: u32 = 1;

/// A call that waits for an answer (struct seccomp_notif).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notification {
    /// What an answer names it by; never 0.
    pub id: u64,
    /// The thread, as our pid namespace names it.
    pub tid: u32,
    pub nr: u32,
    /// AUDIT_ARCH_*.
    pub arch: u32,
    pub ip: u64,
    /// The call's arguments, as the registers have them.
    pub args: [u64; 6],
}

/// struct seccomp_notif in words: id; pid and flags; number and architecture; instruction pointer; arguments.
pub const WORDS: usize = 10;

impl Notification {
    /// What is in the words that `receive` has filled.
    pub fn load(words: &[AtomicU64; WORDS]) -> Notification {
        let word = |i: usize| words[i].load(Ordering::Acquire);
        Notification {
            id: word(0),
            tid: word(1) as u32,
            nr: word(2) as u32,
            arch: (word(2) >> 32) as u32,
            ip: word(3),
            args: std::array::from_fn(|i| word(4 + i)),
        }
    }
}

#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The kernel makes the call as it is.
    Continue,
    Done,
    /// This errno.
    Errno(i32),
    /// The call is made again from the start, once the thread gets back to user space (ERESTARTNOINTR).
    Restart,
}

/// Filters this thread and all that come of it; returns what notifications arrive on. Not undone by exec(2).
/// Leaves no_new_privs alone, so it takes CAP_SYS_ADMIN in the user namespace.
pub fn install(program: &[Insn]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Program {
        length: libc::c_ushort,
        first: *const Insn,
    }
    let length = program.len().try_into().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = Program { length, first: program.as_ptr() };
    let with = |flags: libc::c_ulong| {
        // SAFETY: `program` describes a live slice of instructions that the kernel copies during the call.
        owned(cerr(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const program) }))
    };
    let flags = FLAG_NEW_LISTENER | FLAG_SPEC_ALLOW;
    match with(flags | FLAG_WAIT_KILLABLE_RECV) {
        // Before Linux 5.19.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => with(flags),
        result => result,
    }
}

/// Has a caller and whoever serves it run on one processor in turn, where the kernel can (Linux 6.6).
pub fn wake_in_turn(listener: BorrowedFd) {
    // SAFETY: this request takes an integer. A kernel that does not know it says EINVAL, and nothing is lost.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SET_FLAGS as libc::Ioctl, FD_SYNC_WAKE_UP) };
}

/// Waits for the next call, and puts it into these words. The kernel takes back a call that it cannot write there, so what
/// it gives is in them, whatever becomes of this process. ENOENT: its caller died meanwhile.
pub fn receive(listener: BorrowedFd, words: &[AtomicU64; WORDS]) -> io::Result<()> {
    for word in words {
        word.store(0, Ordering::Relaxed);
    }
    // SAFETY: the request's number has the size of `words`, which the kernel wants zeroed, and fills; they are atomics, and
    // nobody else reads them before the call returns.
    cerr(unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV as libc::Ioctl, words.as_ptr()) }.into()).map(drop)
}

/// Answers. ENOENT: the caller is gone, or was interrupted.
pub fn send(listener: BorrowedFd, id: u64, answer: Answer) -> io::Result<()> {
    let (error, flags) = match answer {
        Answer::Continue => (0, NOTIF_FLAG_CONTINUE),
        Answer::Done => (0, 0),
        Answer::Errno(errno) => (-errno, 0),
        Answer::Restart => (-super::ptrace::ERESTARTNOINTR, 0),
    };
    let response = Response { id, value: 0, error, flags };
    // SAFETY: the request's number has the size of `response`, which the kernel only reads.
    cerr(unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND as libc::Ioctl, &raw const response) }.into()).map(drop)
}

/// Whether the caller still waits. While it does, its thread id is its own.
pub fn is_waiting(listener: BorrowedFd, id: u64) -> bool {
    // SAFETY: the request takes a pointer to the id, which is only read.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_ID_VALID as libc::Ioctl, &raw const id) == 0 }
}
