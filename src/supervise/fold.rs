//! What a call is to be made with in place of what it has.

use std::io;
use std::path::PathBuf;

use super::caller::{Ids, Node};
use super::calls::{Call, Op};
use super::thread::Thread;
use super::{Kind, NO_CHANGE};
use crate::sys::capability;
use crate::sys::seccomp::Notification;

/// The most groups that setgroups takes (NGROUPS_MAX).
const MAX_GROUPS: u64 = 65_536;
/// What setgroups takes (capabilities(7)).
const CAP_SETGID: u64 = 1 << 6;

/// What is to become of a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// The kernel knows all of its ids, or is to say what is wrong.
    LetThrough,
    /// To be refused: the kernel would stumble over an unmapped id before it comes to what is wrong.
    Refuse(i32),
    /// To be made with these arguments.
    Arguments([u64; 6]),
    /// To be made with this array in place of the one that it has, byte for byte.
    Array {
        /// Where it is in the thread's memory.
        address: u64,
        /// What is there.
        theirs: Vec<u8>,
        /// What is to be there during the call.
        ours: Vec<u8>,
    },
}

/// Works it out. `pin`: see `Ids::of`.
pub fn plan(n: &Notification, call: Call, node: &Node, thread: &Thread, pin: &mut Option<PathBuf>) -> io::Result<Plan> {
    let ids = Ids::of(thread, node, pin)?;
    if let Ids::Foreign = ids {
        return Ok(Plan::LetThrough);
    }
    let names = Names { ids, node, narrow: call.narrow };
    match call.op {
        Op::Groups => match names.groups(n, thread)? {
            // x32: most kernels have no such calls, and say so first.
            Plan::Refuse(_) if n.nr != call.nr => Ok(Plan::LetThrough),
            plan => Ok(plan),
        },
        Op::Uids(count) => Ok(names.arguments(n.args, 0, &[Kind::User; 3][..count])),
        Op::Gids(count) => Ok(names.arguments(n.args, 0, &[Kind::Group; 3][..count])),
        _ => Ok(names.arguments(n.args, call.op.ids().0, &[Kind::User, Kind::Group])),
    }
}

/// What a caller calls ids.
struct Names<'a> {
    ids: Ids,
    node: &'a Node,
    narrow: bool,
}

/// The caller has no name for the place of an id.
struct NoName;

impl Names<'_> {
    /// The id in place of this one. None: the kernel knows it.
    fn folded(&self, kind: Kind, id: u32) -> Result<Option<u32>, NoName> {
        if id == NO_CHANGE || self.ids.knows(self.node, kind, id) {
            return Ok(None);
        }
        let fits = |id: &u32| !self.narrow || *id < 0xffff;
        self.ids.fold(self.node, kind, id).filter(fits).map(Some).ok_or(NoName)
    }

    /// The ids begin at argument `first`, and are of these kinds.
    fn arguments(&self, mut args: [u64; 6], first: usize, kinds: &[Kind]) -> Plan {
        let mut changed = false;
        for (argument, kind) in args[first..].iter_mut().zip(kinds) {
            match self.folded(*kind, super::id(*argument, self.narrow)) {
                Ok(None) => {}
                // Those that are not folded keep whatever is in their high words.
                Ok(Some(id)) => (*argument, changed) = (id.into(), true),
                Err(NoName) => return Plan::LetThrough,
            }
        }
        if changed { Plan::Arguments(args) } else { Plan::LetThrough }
    }

    fn groups(&self, n: &Notification, thread: &Thread) -> io::Result<Plan> {
        let (count, address) = (u64::from(n.args[0] as u32), n.args[1]);
        if count > MAX_GROUPS {
            return Ok(Plan::LetThrough);
        }
        let width = if self.narrow { 2 } else { 4 };
        let mut theirs = vec![0; count as usize * width];
        let read = thread.read_memory(address, &mut theirs);
        let whole = read == theirs.len();
        theirs.truncate(read);
        let mut ours = theirs.clone();
        for item in ours.chunks_exact_mut(width) {
            let id = item.iter().rev().fold(0, |id, byte| id << 8 | u32::from(*byte));
            let id = super::id(id.into(), self.narrow);
            match self.folded(Kind::Group, id) {
                // The kernel says EINVAL here, whatever comes after.
                _ if id == NO_CHANGE => return Ok(Plan::LetThrough),
                Ok(None) => {}
                Ok(Some(id)) => item.copy_from_slice(&id.to_le_bytes()[..width]),
                Err(NoName) => return Ok(Plan::LetThrough),
            }
        }
        Ok(match (ours == theirs, whole) {
            (true, _) => Plan::LetThrough,
            (false, true) => Plan::Array { address, theirs, ours },
            (false, false) if capability::effective(n.tid)? & CAP_SETGID == 0 => Plan::LetThrough,
            (false, false) => Plan::Refuse(libc::EFAULT),
        })
    }
}
