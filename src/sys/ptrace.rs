//! Holding threads for a moment (`ptrace(2)`). All calls about a thread are made by the process that seized it.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{cerr, retry};

/// The kernel makes the call again on the way back to user space (linux/errno.h).
pub const ERESTARTNOINTR: i32 = 513;
/// A call that was interrupted before it began (linux/errno.h).
pub const ERESTARTSYS: i32 = 512;

const PTRACE_EVENT_STOP: i32 = 128;

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
    Gone,
}

fn request(what: libc::c_uint, tid: u32, data: usize) -> io::Result<()> {
    // SAFETY: none of the requests made here takes a pointer: address 0, and an integer as data.
    cerr(unsafe { libc::syscall(libc::SYS_ptrace, what, tid, 0usize, data) }).map(drop)
}

/// Becomes the thread's tracer, without stopping it. EPERM: it has one, or we may not. Undone when this process ends.
///
/// While the thread's process executes another program this waits (for cred_guard_mutex), and that may wait for threads
/// of ours that have died: so these are reaped meanwhile, which takes a call of `reap_while_seizing` before.
pub fn seize(tid: u32) -> io::Result<()> {
    // SAFETY: sigemptyset makes `mask` a value; SIGCHLD is a valid signal.
    let change = |how| unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut mask);
        libc::sigaddset(&mut mask, libc::SIGCHLD);
        libc::sigprocmask(how, &mask, ptr::null_mut())
    };
    change(libc::SIG_UNBLOCK);
    let seized = request(libc::PTRACE_SEIZE as libc::c_uint, tid, libc::PTRACE_O_TRACESYSGOOD as usize);
    change(libc::SIG_BLOCK);
    seized
}

/// What was told of threads while another one was being seized: tid and status, in turn.
static TOLD: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];
/// How many of these there are, and how many of them have been looked at.
static COUNT: AtomicUsize = AtomicUsize::new(0);
static SEEN: AtomicUsize = AtomicUsize::new(0);

extern "C" fn reap(_: libc::c_int) {
    while COUNT.load(Ordering::Relaxed) < TOLD.len() {
        let mut status = 0;
        // SAFETY: `status` is ours; errno is what it was when the handler ends.
        let tid = unsafe {
            let errno = *libc::__errno_location();
            let tid = libc::waitpid(-1, &raw mut status, libc::__WALL | libc::WNOHANG);
            *libc::__errno_location() = errno;
            tid
        };
        if tid <= 0 {
            return;
        }
        let told = (tid as u64) << 32 | u64::from(status as u32);
        TOLD[COUNT.fetch_add(1, Ordering::Relaxed)].store(told, Ordering::Relaxed);
    }
}

/// Has `seize` reap what dies meanwhile. SIGCHLD must be blocked otherwise, but for waits.
pub fn reap_while_seizing() -> io::Result<()> {
    // SAFETY: a sigaction of zeros with a handler, an empty mask and no flags is one; the handler makes only calls that are
    // safe in one, and touches atomics and its own stack.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = reap as extern "C" fn(libc::c_int) as usize;
        cerr(libc::sigaction(libc::SIGCHLD, &action, ptr::null_mut()).into()).map(drop)
    }
}

/// Asks it to stop. ESRCH: it is gone.
pub fn interrupt(tid: u32) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT as libc::c_uint, tid, 0)
}

/// Lets it go on to the next entry or exit of a system call.
pub fn to_syscall(tid: u32) -> io::Result<()> {
    request(libc::PTRACE_SYSCALL as libc::c_uint, tid, 0)
}

/// Blocks all signals of a stopped thread and returns those that were blocked before.
pub fn block_signals(tid: u32) -> io::Result<u64> {
    const PTRACE_GETSIGMASK: libc::c_uint = 0x420a;
    let mut mask = 0u64;
    // SAFETY: the kernel writes the 8 bytes of `mask`.
    cerr(unsafe { libc::syscall(libc::SYS_ptrace, PTRACE_GETSIGMASK, tid, size_of::<u64>(), &raw mut mask) })?;
    set_blocked_signals(tid, u64::MAX)?;
    Ok(mask)
}

/// Has a stopped thread block just these signals.
pub fn set_blocked_signals(tid: u32, mask: u64) -> io::Result<()> {
    const PTRACE_SETSIGMASK: libc::c_uint = 0x420b;
    // SAFETY: the kernel reads the 8 bytes of `mask`.
    cerr(unsafe { libc::syscall(libc::SYS_ptrace, PTRACE_SETSIGMASK, tid, size_of::<u64>(), &raw const mask) })
        .map(drop)
}

/// Lets it go for good, with this signal (0: none). ESRCH: it was killed meanwhile, which is told by `stopped` later.
pub fn detach(tid: u32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_DETACH as libc::c_uint, tid, signal as usize)
}

/// A thread of ours that has stopped or ended, if any has since it was last asked. A process that traces has no children
/// but such threads.
pub fn stopped() -> Option<(u32, Stop)> {
    // The handler only runs in `seize` and in waits, not here.
    let (seen, count) = (SEEN.load(Ordering::Relaxed), COUNT.load(Ordering::Relaxed));
    let (tid, status) = if seen < count {
        SEEN.store(seen + 1, Ordering::Relaxed);
        let told = TOLD[seen].load(Ordering::Relaxed);
        ((told >> 32) as i32, told as i32)
    } else {
        SEEN.store(0, Ordering::Relaxed);
        COUNT.store(0, Ordering::Relaxed);
        let mut status = 0;
        // SAFETY: `status` is an int of ours.
        let tid = retry(|| unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::WNOHANG) }.into()).ok()?;
        (tid as i32, status)
    };
    if tid <= 0 {
        return None;
    }
    let stop = match (libc::WIFSTOPPED(status), libc::WSTOPSIG(status), status >> 16) {
        (false, ..) => Stop::Gone,
        (_, libc::SIGTRAP, PTRACE_EVENT_STOP) => Stop::Trap,
        (_, _, PTRACE_EVENT_STOP) => Stop::Group,
        (_, signal, 0) if signal == libc::SIGTRAP | 0x80 => Stop::Syscall,
        (_, signal, _) => Stop::Signal(signal),
    };
    Some((tid as u32, stop))
}

/// Where a thread is that has stopped at a system call (struct ptrace_syscall_info of linux/ptrace.h; Linux 5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Syscall {
    op: u8,
    pad: [u8; 3],
    /// AUDIT_ARCH_*.
    pub arch: u32,
    pub ip: u64,
    sp: u64,
    nr: u64,
    /// The call's arguments, at its entry.
    pub args: [u64; 6],
}

impl Syscall {
    pub fn read(tid: u32) -> io::Result<Syscall> {
        const PTRACE_GET_SYSCALL_INFO: libc::c_uint = 0x420e;
        let mut info = Syscall::default();
        let size = size_of::<Syscall>();
        // SAFETY: the kernel writes at most `size` bytes to `info`.
        cerr(unsafe { libc::syscall(libc::SYS_ptrace, PTRACE_GET_SYSCALL_INFO, tid, size, &raw mut info) })?;
        Ok(info)
    }

    /// The number of the call that it is about to make. None: it is not at the entry of one.
    pub fn entry(&self) -> Option<u32> {
        (self.op == 1).then_some(self.nr as u32)
    }

    /// Whether it is at the end of a call.
    pub fn is_exit(&self) -> bool {
        self.op == 2
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
    fn ip(&self) -> u64 {
        self.0.rip
    }

    /// The call's arguments. `old`: made the 32-bit way.
    fn places(&mut self, old: bool) -> [&mut u64; 6] {
        let r = &mut self.0;
        match old {
            true => [&mut r.rbx, &mut r.rcx, &mut r.rdx, &mut r.rsi, &mut r.rdi, &mut r.rbp],
            false => [&mut r.rdi, &mut r.rsi, &mut r.rdx, &mut r.r10, &mut r.r8, &mut r.r9],
        }
    }

    /// Whether the thread is about to make this call again.
    pub fn restarts(&self, nr: u32) -> bool {
        const ERESTARTNOHAND: i32 = 514;
        let again = [-ERESTARTSYS, -ERESTARTNOINTR, -ERESTARTNOHAND];
        self.0.orig_rax as u32 == nr && again.contains(&(self.0.rax as i32))
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
    fn ip(&self) -> u64 {
        self.0.pc
    }

    /// The call's arguments; the same registers whichever way it was made.
    fn places(&mut self, _: bool) -> [&mut u64; 6] {
        let [a, b, c, d, e, f, ..] = &mut self.0.regs;
        [a, b, c, d, e, f]
    }

    /// Whether the thread is about to make this call again. Here the kernel has prepared that before the stop.
    pub fn restarts(&self, nr: u32) -> bool {
        self.0.regs[8] as u32 == nr
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

impl Registers {
    /// Whether the thread has made no step since a call at this place with these arguments.
    pub fn are_of(&mut self, old: bool, ip: u64, arguments: [u64; 6]) -> bool {
        self.ip() == ip && self.places(old).into_iter().zip(arguments).all(|(place, argument)| *place == argument)
    }

    /// Replaces the arguments that differ between `from` and `to`.
    pub fn set_arguments(&mut self, old: bool, from: [u64; 6], to: [u64; 6]) {
        for (place, (from, to)) in self.places(old).into_iter().zip(from.into_iter().zip(to)) {
            if from != to {
                *place = to;
            }
        }
    }
}
