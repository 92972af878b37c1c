//! A set-id call with an id that the node lacks: made again by its own thread, with the id's place.
//!
//! Nobody can set the ids of another thread, and an answer to a notification carries no arguments. But a thread that is
//! told to make its call again passes a stop on its way: there its arguments are replaced, the kernel makes the call
//! with the thread's own rights, and at the call's end the thread gets back the arguments that it had.
//!
//! Whatever happens on the way, the thread is let go; at worst with its call to be made again as it was, which asks anew.

use std::io;
use std::os::unix::fs::FileExt;

use super::caller::{Ids, Node};
use super::calls::{Call, Op};
use super::thread::{Proc, Thread};
use super::{Kind, NO_CHANGE};
use crate::sys::process;
use crate::sys::ptrace::{self, ERESTARTNOINTR, ERESTARTSYS, Registers, Stop};
use crate::sys::seccomp::{Answer, Notification};

/// The most groups that setgroups takes (NGROUPS_MAX).
const MAX_GROUPS: u64 = 65_536;
/// What setgroups takes (capabilities(7)).
const CAP_SETGID: u64 = 1 << 6;

/// What the call is to be made with.
pub enum Folded {
    /// These first arguments.
    Arguments([u64; 3]),
    /// This array in place of the one it has, byte for byte.
    Array { address: u64, theirs: Vec<u8>, ours: Vec<u8> },
}

impl Folded {
    /// Whether the filter stops the call once more when it is made with these: it cannot read an array, and it does not
    /// know the names of a pinned namespace.
    pub fn asks_again(&self, node: &Node) -> bool {
        match self {
            Folded::Array { .. } => true,
            Folded::Arguments(ids) => ids
                .iter()
                .map(|id| *id as u32)
                .any(|id| id != NO_CHANGE && !(node.of(Kind::User).contains(id) && node.of(Kind::Group).contains(id))),
        }
    }
}

/// Works out the ids. None: the kernel knows them all, or is to say what is wrong.
pub fn plan(n: &Notification, call: Call, (proc, node): (&Proc, &Node), thread: &Thread) -> io::Result<Option<Folded>> {
    let ids = Ids::of(proc, node, thread)?;
    if let Ids::Foreign = ids {
        return Ok(None);
    }
    match call.op {
        Op::Groups => plan_groups(n, call.narrow, &ids, node, thread),
        Op::Uids(count) => Ok(plan_arguments(n, call.narrow, Kind::User, count, &ids, node)),
        Op::Gids(count) => Ok(plan_arguments(n, call.narrow, Kind::Group, count, &ids, node)),
        _ => Ok(None),
    }
}

fn plan_arguments(n: &Notification, narrow: bool, kind: Kind, count: usize, ids: &Ids, node: &Node) -> Option<Folded> {
    let mut folded = [n.args[0], n.args[1], n.args[2]];
    let mut changed = false;
    for argument in &mut folded[..count] {
        let id = super::id(*argument, narrow);
        if id != NO_CHANGE && !ids.knows(node, kind, id) {
            *argument = u64::from(ids.fold(node, kind, id).filter(|id| fits(*id, narrow))?);
            changed = true;
        }
    }
    changed.then_some(Folded::Arguments(folded))
}

fn plan_groups(n: &Notification, narrow: bool, ids: &Ids, node: &Node, thread: &Thread) -> io::Result<Option<Folded>> {
    let (count, address) = (n.args[0] as u32 as u64, n.args[1]);
    if count > MAX_GROUPS {
        return Ok(None);
    }
    let width = if narrow { 2 } else { 4 };
    let mut theirs = vec![0; count as usize * width];
    let readable = process::read_memory(n.tid, address, &mut theirs).is_ok_and(|read| read == theirs.len());
    if !readable {
        // The kernel would stumble over an unmapped id before it comes to the end of what is there.
        let may = thread.credentials()?.identity.capabilities & CAP_SETGID != 0;
        return if may { Err(io::Error::from_raw_os_error(libc::EFAULT)) } else { Ok(None) };
    }
    let mut ours = theirs.clone();
    let mut changed = false;
    for item in ours.chunks_exact_mut(width) {
        let id = item.iter().rev().fold(0, |id, byte| id << 8 | u32::from(*byte));
        if id != super::no_change(narrow) && !ids.knows(node, Kind::Group, id) {
            let Some(folded) = ids.fold(node, Kind::Group, id).filter(|id| fits(*id, narrow)) else { return Ok(None) };
            item.copy_from_slice(&folded.to_le_bytes()[..width]);
            changed = true;
        }
    }
    Ok(changed.then_some(Folded::Array { address, theirs, ours }))
}

fn fits(id: u32, narrow: bool) -> bool {
    !narrow || id < 0xffff
}

/// How far it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The call was made with its folded ids; what came of it is the caller's.
    Made,
    /// The thread is gone, or its call will be asked about again.
    Again,
    /// Somebody traces the thread already.
    Traced,
    /// It was killed while we had it: the thread that served it must end, so that its parent can reap it.
    Killed,
}

/// Makes the call. `answer` answers the notification, `valid` says whether the caller still waits, and `over` is told
/// when the call is over but the thread not yet let go: what it asks from then on is about another call.
pub fn fold(
    n: &Notification,
    folded: &Folded,
    thread: &Thread,
    answer: impl Fn(Answer) -> io::Result<()>,
    valid: impl Fn() -> bool,
    over: impl FnOnce(),
) -> End {
    match ptrace::seize(n.tid) {
        Ok(()) => {}
        Err(_) => {
            over();
            // A dying thread says EPERM as well.
            return if valid() { End::Traced } else { End::Again };
        }
    }
    let mut held = Held { tid: n.tid, signal: 0 };
    let end = held.begin(n, folded, thread, answer, valid).unwrap_or(End::Again);
    over();
    if ptrace::detach(held.tid, held.signal) { end } else { End::Killed }
}

/// A thread that we trace, and the signal that it was about to get.
struct Held {
    tid: u32,
    signal: i32,
}

impl Held {
    fn begin(
        &mut self,
        n: &Notification,
        folded: &Folded,
        thread: &Thread,
        answer: impl Fn(Answer) -> io::Result<()>,
        valid: impl Fn() -> bool,
    ) -> io::Result<End> {
        ptrace::interrupt(self.tid)?;
        // The number could have become another thread's before it was seized.
        if !valid() {
            self.stopped_as(Stop::Trap);
            return Ok(End::Again);
        }
        // Before Linux 5.19 the interrupt has ended the wait by itself, and there is nothing to answer any more.
        let _ = answer(Answer::Restart);
        self.make(n, folded, thread)
    }

    fn make(&mut self, n: &Notification, folded: &Folded, thread: &Thread) -> io::Result<End> {
        let old = super::is_old(n.arch);
        if !self.stopped_as(Stop::Trap) {
            return Ok(End::Again);
        }
        let mut regs = Registers::read(self.tid)?;
        if !regs.restarts(n.nr) {
            return Ok(End::Again);
        }
        let before = regs.arguments(old);
        match folded {
            Folded::Arguments(ours) => {
                // Those that were not folded keep their dirty high words.
                let mut arguments = before;
                for (argument, ours) in arguments.iter_mut().zip(ours) {
                    if *argument as u32 != *ours as u32 {
                        *argument = *ours;
                    }
                }
                regs.set_arguments(old, arguments);
                regs.write(self.tid)?;
                let undo = |held: &mut Held| {
                    let mut regs = Registers::read(held.tid)?;
                    regs.set_arguments(old, before);
                    regs.write(held.tid)
                };
                if self.finish_call(undo)? {
                    self.restore(old, before)?;
                    return Ok(End::Made);
                }
            }
            Folded::Array { address, theirs, ours } => {
                let memory = thread.memory();
                let written = memory.and_then(|memory| {
                    let whole = memory.write_all_at(ours, *address);
                    // A part of it may have been written.
                    whole.map_err(|e| memory.write_all_at(theirs, *address).err().unwrap_or(e)).map(|()| memory)
                });
                let Ok(memory) = written else {
                    // An array in shared read-only memory, or a kernel that lets nobody write there. Asking again would
                    // never end.
                    regs.end_with(libc::EINVAL);
                    regs.write(self.tid)?;
                    return Ok(End::Again);
                };
                let back = || memory.write_all_at(theirs, *address);
                let result = self.finish_call(|_| back());
                // Whether it was made or not: other threads of the process may be about to read the array.
                back()?;
                if result? {
                    self.restore(old, before)?;
                    return Ok(End::Made);
                }
            }
        }
        Ok(End::Again)
    }

    /// Waits for the stop that is expected. Any other one means that the thread is to go on without us.
    fn stopped_as(&mut self, expected: Stop) -> bool {
        let stop = ptrace::wait(self.tid);
        if let Stop::Signal(signal) = stop {
            self.signal = signal;
        }
        stop == expected
    }

    /// Lets the thread make its call; true if it has. If a signal or a stop of the process comes before, `undo` puts
    /// back what was replaced: the signal's handler runs first, and then the call is made again and asks again.
    fn finish_call(&mut self, undo: impl Fn(&mut Held) -> io::Result<()>) -> io::Result<bool> {
        ptrace::to_syscall(self.tid, 0)?;
        if !self.stopped_as(Stop::Syscall) {
            undo(self)?;
            return Ok(false);
        }
        // Inside the call nothing is delivered, and nothing stops it but its end.
        ptrace::to_syscall(self.tid, 0)?;
        Ok(self.stopped_as(Stop::Syscall))
    }

    /// Puts the arguments back at the call's end, and keeps its result.
    fn restore(&self, old: bool, before: [u64; 3]) -> io::Result<()> {
        let mut regs = Registers::read(self.tid)?;
        let result = regs.result();
        // On ARM the result is in the first argument's register.
        regs.set_arguments(old, before);
        regs.set_result(result);
        if result == -ERESTARTSYS {
            // The call itself (setgroups asks again) was interrupted while it waited: it never returns EINTR.
            regs.set_result(-ERESTARTNOINTR);
        }
        regs.write(self.tid)
    }
}
