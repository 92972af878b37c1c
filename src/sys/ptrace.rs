//! Holding a thread for a moment (`ptrace(2)`). All calls about a thread are made by one thread of ours.

use std::io;
use std::ptr;

use super::{cerr, retry};

/// The kernel makes the call again on the way back to user space (linux/errno.h).
pub const ERESTARTNOINTR: i32 = 513;
/// A call that was interrupted before it began (linux/errno.h).
pub const ERESTARTSYS: i32 = 512;

const PTRACE_EVENT_STOP: i32 = 128;

/// Threads of every kind, but only those that the calling thread traces.
const OURS: libc::c_int = libc::__WALL | libc::__WNOTHREAD;

/// Why a thread has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// As we asked it to (PTRACE_INTERRUPT).
    Trap,
    /// At a system call's entry or exit.
    Syscall,
    /// This signal is about to be delivered.
    Signal(i32),
    /// The whole process is stopped (SIGSTOP and the like).
    Group,
    /// It is gone.
    Gone,
}

fn request(what: libc::c_uint, tid: u32, data: usize) -> io::Result<()> {
    // SAFETY: none of the requests made here takes a pointer: address 0, and an integer as data.
    cerr(unsafe { libc::syscall(libc::SYS_ptrace, what, tid, 0usize, data) }).map(drop)
}

/// Becomes the thread's tracer, without stopping it. EPERM: it has one, or we may not. Undone when this thread ends.
pub fn seize(tid: u32) -> io::Result<()> {
    request(libc::PTRACE_SEIZE as libc::c_uint, tid, libc::PTRACE_O_TRACESYSGOOD as usize)
}

/// Asks it to stop.
pub fn interrupt(tid: u32) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT as libc::c_uint, tid, 0)
}

/// Lets it go on to the next entry or exit of a system call, with this signal (0: none).
pub fn to_syscall(tid: u32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_SYSCALL as libc::c_uint, tid, signal as usize)
}

/// Lets it go for good, with this signal (0: none). False: it was killed meanwhile, and stays ours as a zombie, which its
/// own parent cannot reap, until the calling thread ends.
pub fn detach(tid: u32, signal: i32) -> bool {
    // SAFETY: a null status pointer says that the status is not wanted.
    let reaped = || retry(|| unsafe { libc::waitpid(tid as i32, ptr::null_mut(), OURS | libc::WNOHANG) }.into());
    request(libc::PTRACE_DETACH as libc::c_uint, tid, signal as usize).is_ok() || !matches!(reaped(), Ok(0))
}

/// So often a stop is looked for before it is waited for: it mostly comes within microseconds, and to be woken on an idle
/// processor takes longer. The thread may be on our processor, so it is given that each time.
const TRIES: u32 = 64;

/// Waits until it has stopped.
pub fn wait(tid: u32) -> Stop {
    let mut status = 0;
    let mut waited = Ok(0);
    for n in 0..=TRIES {
        let flags = if n < TRIES { OURS | libc::WNOHANG } else { OURS };
        // SAFETY: `status` is an int of ours.
        waited = retry(|| unsafe { libc::waitpid(tid as libc::pid_t, &raw mut status, flags) }.into());
        if !matches!(waited, Ok(0)) {
            break;
        }
        // SAFETY: takes nothing.
        unsafe { libc::sched_yield() };
    }
    if waited.is_err() || !libc::WIFSTOPPED(status) {
        return Stop::Gone;
    }
    match (libc::WSTOPSIG(status), status >> 16) {
        (libc::SIGTRAP, PTRACE_EVENT_STOP) => Stop::Trap,
        (_, PTRACE_EVENT_STOP) => Stop::Group,
        (signal, 0) if signal == libc::SIGTRAP | 0x80 => Stop::Syscall,
        (signal, _) => Stop::Signal(signal),
    }
}

/// The registers of a stopped thread that concern a system call.
#[derive(Clone, Copy)]
pub struct Registers(libc::user_regs_struct);

impl Registers {
    /// Reads them.
    pub fn read(tid: u32) -> io::Result<Registers> {
        // SAFETY: user_regs_struct is a plain struct of integers, for which all zeros is a value.
        let mut regs: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        transfer(Direction::Read, tid, &mut regs)?;
        Ok(Registers(regs))
    }

    /// Writes them.
    pub fn write(mut self, tid: u32) -> io::Result<()> {
        transfer(Direction::Write, tid, &mut self.0)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

/// The old requests: they have our own layout even for a 32-bit program, which PTRACE_GETREGSET has not.
#[cfg(target_arch = "x86_64")]
fn transfer(direction: Direction, tid: u32, regs: &mut libc::user_regs_struct) -> io::Result<()> {
    let what = if direction == Direction::Read { libc::PTRACE_GETREGS } else { libc::PTRACE_SETREGS };
    // SAFETY: `regs` is of the type that these requests fill or read.
    cerr(unsafe { libc::syscall(libc::SYS_ptrace, what as libc::c_uint, tid, 0usize, ptr::from_mut(regs)) }).map(drop)
}

/// ARM has no other requests. A 32-bit program's registers are of another layout, and shorter: EIO here.
#[cfg(target_arch = "aarch64")]
fn transfer(direction: Direction, tid: u32, regs: &mut libc::user_regs_struct) -> io::Result<()> {
    const NT_PRSTATUS: usize = 1;
    let what = if direction == Direction::Read { libc::PTRACE_GETREGSET } else { libc::PTRACE_SETREGSET };
    let size = size_of::<libc::user_regs_struct>();
    let mut io = libc::iovec { iov_base: ptr::from_mut(regs).cast(), iov_len: size };
    // SAFETY: `io` describes `regs`, which the kernel fills or reads during the call, no further than its length.
    cerr(unsafe { libc::syscall(libc::SYS_ptrace, what as libc::c_uint, tid, NT_PRSTATUS, &raw mut io) })?;
    if io.iov_len == size { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
}

#[cfg(target_arch = "x86_64")]
impl Registers {
    /// The call's first three arguments. `old`: made the 32-bit way.
    pub fn arguments(&self, old: bool) -> [u64; 3] {
        let r = &self.0;
        if old { [r.rbx, r.rcx, r.rdx] } else { [r.rdi, r.rsi, r.rdx] }
    }

    /// Replaces them.
    pub fn set_arguments(&mut self, old: bool, arguments: [u64; 3]) {
        let r = &mut self.0;
        let places = if old { [&mut r.rbx, &mut r.rcx, &mut r.rdx] } else { [&mut r.rdi, &mut r.rsi, &mut r.rdx] };
        for (place, argument) in places.into_iter().zip(arguments) {
            *place = argument;
        }
    }

    /// Whether the thread is about to make this call again.
    pub fn restarts(&self, nr: u32) -> bool {
        self.0.orig_rax as u32 == nr && self.0.rax as i32 == -ERESTARTNOINTR
    }

    /// Has the call end with an errno, instead of being made again.
    pub fn end_with(&mut self, errno: i32) {
        self.0.orig_rax = u64::MAX;
        self.set_result(-errno);
    }

    /// The call's result: a value or a negated errno.
    pub fn result(&self) -> i32 {
        self.0.rax as i32
    }

    /// Replaces it.
    pub fn set_result(&mut self, result: i32) {
        self.0.rax = i64::from(result) as u64;
    }
}

#[cfg(target_arch = "aarch64")]
impl Registers {
    /// The call's first three arguments; the same registers whichever way it was made.
    pub fn arguments(&self, _: bool) -> [u64; 3] {
        [self.0.regs[0], self.0.regs[1], self.0.regs[2]]
    }

    /// Replaces them.
    pub fn set_arguments(&mut self, _: bool, arguments: [u64; 3]) {
        self.0.regs[..3].copy_from_slice(&arguments);
    }

    /// Whether the thread is about to make this call again. Here the kernel has prepared that before the stop.
    pub fn restarts(&self, nr: u32) -> bool {
        self.0.regs[8] as u32 == nr
    }

    /// Has the call end with an errno, instead of being made again: goes past the instruction that makes it.
    pub fn end_with(&mut self, errno: i32) {
        self.0.pc += 4;
        self.set_result(-errno);
    }

    /// The call's result: a value or a negated errno.
    pub fn result(&self) -> i32 {
        self.0.regs[0] as i32
    }

    /// Replaces it.
    pub fn set_result(&mut self, result: i32) {
        self.0.regs[0] = i64::from(result) as u64;
    }
}
