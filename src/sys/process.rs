//! What this process is and may (`prctl(2)`, `setrlimit(2)`, `sched(7)`), and another one's memory.

use std::ffi::CStr;
use std::io;

use super::cerr;

/// Reads from a thread's memory, at most to the end of `into`; how much was there to read.
pub fn read_memory(tid: u32, address: u64, into: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: into.len() };
    // SAFETY: `local` describes a buffer of ours; `remote` is not dereferenced here, the kernel checks it.
    let read = unsafe { libc::process_vm_readv(tid as libc::pid_t, &local, 1, &remote, 1, 0) };
    cerr(read as libc::c_long).map(|n| n as usize)
}

/// Allows as many descriptors as we may have: each call that waits for a file system holds a few.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is an rlimit of ours.
    cerr(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }.into())?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above; only read here.
    cerr(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }.into()).map(drop)
}

/// A name for this process in /proc/PID/comm, of at most 15 bytes.
pub fn set_name(name: &CStr) {
    // SAFETY: a string that outlives the call. Only cosmetic: nothing to do if it fails.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// Makes this process the first of a session of its own, away from any terminal.
pub fn new_session() {
    // SAFETY: takes nothing. It fails only for a process that leads a group already.
    unsafe { libc::setsid() };
}

/// Gives up this process's additional groups, where it may.
pub fn drop_groups() -> bool {
    // SAFETY: no groups, so no array.
    unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) == 0 }
}

/// Gives up the processor for the moment.
pub fn yield_now() {
    // SAFETY: takes nothing.
    unsafe { libc::sched_yield() };
}

/// Asks the scheduler for short turns, as one who mostly waits and whom others wait for: it then gets its turn sooner (Linux
/// 6.12; without effect before).
pub fn take_short_turns() {
    #[derive(Default)]
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    const SHORTEST: u64 = 100_000;
    // SAFETY: integers.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let attributes = Attributes { size: 48, nice, runtime: SHORTEST, ..Default::default() };
    // SAFETY: `attributes` has the size that it says, and is only read.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// The real uid of this process.
pub fn real_uid() -> u32 {
    // SAFETY: takes nothing and always succeeds.
    unsafe { libc::getuid() }
}
