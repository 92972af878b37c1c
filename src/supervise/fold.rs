//! What a call is to be made with in place of what it has.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::NO_CHANGE;
use super::caller::{Ids, Node};
use super::calls::{Call, Op};
use super::thread::Thread;
use crate::map::kind::Kind;
use crate::sys::capability;
use crate::sys::seccomp::Notification;

/// The most groups that setgroups takes (NGROUPS_MAX).
const MAX_GROUPS: u64 = 65_536;
/// The largest value of an extended attribute (XATTR_SIZE_MAX).
const MAX_ATTRIBUTE: u64 = 65_536;
/// What setgroups takes (capabilities(7)).
const CAP_SETGID: u64 = 1 << 6;

/// What is to become of a call.
#[derive(Debug)]
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
        theirs: Vec<u8>,
        /// What is to be there during the call.
        ours: Vec<u8>,
        /// That memory. It stays that of the program which made the call, whatever the thread may execute meanwhile.
        memory: File,
        /// The program (Thread::program).
        program: u64,
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
        Op::Xattr => names.attribute(thread, [n.args[1], n.args[2], n.args[3]]),
        Op::Xattrat => {
            // struct xattr_args: value, size, flags.
            let mut args = [0; 12];
            if read(&thread.memory()?, n.args[4], &mut args) < args.len() {
                return Ok(Plan::LetThrough);
            }
            let [value, size] = [&args[..8], &args[8..]].map(little_endian);
            names.attribute(thread, [n.args[3], value, size])
        }
        Op::Uids(count) => Ok(names.arguments(n.args, 0, &[Kind::Uid; 3][..count])),
        Op::Gids(count) => Ok(names.arguments(n.args, 0, &[Kind::Gid; 3][..count])),
        _ => Ok(names.arguments(n.args, call.op.ids().0, &[Kind::Uid, Kind::Gid])),
    }
}

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
        let memory = thread.memory()?;
        let mut theirs = vec![0; count as usize * width];
        let there = read(&memory, address, &mut theirs);
        let whole = there == theirs.len();
        theirs.truncate(there);
        let mut ours = theirs.clone();
        for item in ours.chunks_exact_mut(width) {
            let id = super::id(little_endian(item), self.narrow);
            match self.folded(Kind::Gid, id) {
                // The kernel says EINVAL here, whatever comes after.
                _ if id == NO_CHANGE => return Ok(Plan::LetThrough),
                Ok(None) => {}
                Ok(Some(id)) => item.copy_from_slice(&id.to_le_bytes()[..width]),
                Err(NoName) => return Ok(Plan::LetThrough),
            }
        }
        Ok(match (ours == theirs, whole) {
            (true, _) => Plan::LetThrough,
            (false, true) => Plan::Array { address, theirs, ours, memory, program: thread.program()? },
            (false, false) if capability::effective(n.tid)? & CAP_SETGID == 0 => Plan::LetThrough,
            (false, false) => Plan::Refuse(libc::EFAULT),
        })
    }

    /// An extended attribute with ids in it, at these addresses of its name and value, of this size. Whatever is not as it
    /// should be is for the kernel to refuse.
    fn attribute(&self, thread: &Thread, [name, address, size]: [u64; 3]) -> io::Result<Plan> {
        let memory = thread.memory()?;
        let mut start = [0; 32];
        read(&memory, name, &mut start);
        let name = CStr::from_bytes_until_nul(&start).unwrap_or_default();
        let find = match name.to_bytes() {
            b"system.posix_acl_access" | b"system.posix_acl_default" => ids_of_acl,
            b"security.capability" => id_of_capability,
            _ => return Ok(Plan::LetThrough),
        };
        if size > MAX_ATTRIBUTE {
            return Ok(Plan::LetThrough);
        }
        let mut theirs = vec![0; size as usize];
        if read(&memory, address, &mut theirs) < theirs.len() {
            return Ok(Plan::LetThrough);
        }
        let mut ours = theirs.clone();
        for (kind, at) in find(&theirs) {
            match self.folded(kind, little_endian(&theirs[at..at + 4]) as u32) {
                Ok(None) => {}
                Ok(Some(id)) => ours[at..at + 4].copy_from_slice(&id.to_le_bytes()),
                Err(NoName) => return Ok(Plan::LetThrough),
            }
        }
        Ok(match ours == theirs {
            true => Plan::LetThrough,
            false => Plan::Array { address, theirs, ours, memory, program: thread.program()? },
        })
    }
}

/// Reads from a thread's memory, at most to the end of `into`; how much there was to read. By the file, since another way
/// (process_vm_readv) waits for whoever the thread has told to fill its memory in (userfaultfd).
pub fn read(memory: &File, address: u64, into: &mut [u8]) -> usize {
    let mut read = 0;
    while read < into.len() {
        match memory.read_at(&mut into[read..], address.wrapping_add(read as u64)) {
            Ok(n @ 1..) => read += n,
            _ => break,
        }
    }
    read
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Where the ids of named users and groups are in an access control list (`struct posix_acl_xattr_header` and `_entry`).
fn ids_of_acl(value: &[u8]) -> Vec<(Kind, usize)> {
    const VERSION: &[u8] = &[2, 0, 0, 0];
    let Some(entries) = value.strip_prefix(VERSION) else { return Vec::new() };
    let kind = |entry: &[u8]| match little_endian(&entry[..2]) {
        0x02 => Some(Kind::Uid),
        0x08 => Some(Kind::Gid),
        _ => None,
    };
    let all = entries.chunks_exact(8).enumerate();
    all.filter_map(|(i, entry)| Some((kind(entry)?, VERSION.len() + 8 * i + 4))).collect()
}

/// Where the root's id is in a file's capabilities; only version 3 has it (`struct vfs_ns_cap_data`).
fn id_of_capability(value: &[u8]) -> Vec<(Kind, usize)> {
    if value.len() == 24 && value[3] == 3 { vec![(Kind::Uid, 20)] } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_attributes() {
        let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[6, 0], &id.to_le_bytes()].concat();
        let acl = [vec![2, 0, 0, 0], entry(1, 9), entry(2, 70), entry(4, 9), entry(8, 71), entry(16, 9)].concat();
        assert_eq!(ids_of_acl(&acl), [(Kind::Uid, 16), (Kind::Gid, 32)]);
        // Half an entry, no entry, another version, nothing.
        assert_eq!(ids_of_acl(&acl[..35]), [(Kind::Uid, 16)]);
        for none in [&acl[..4], &[&[1], &acl[1..]].concat(), &[]] {
            assert_eq!(ids_of_acl(none), []);
        }
        let capability = |version, length| id_of_capability(&[&[1, 0, 0, version][..], &[0; 20]].concat()[..length]);
        assert_eq!(capability(3, 24), [(Kind::Uid, 20)]);
        assert!(capability(2, 20).is_empty() && capability(2, 24).is_empty() && capability(3, 20).is_empty());
    }
}
