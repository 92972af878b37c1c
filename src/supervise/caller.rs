//! Who makes a call: the thread's credentials, where it is, and which ids its user namespace has.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use super::Kind;
use crate::map::idmap::IdMap;
use crate::map::pool::{NodeId, NodeIds};
use crate::map::ranges::Ranges;
use crate::sys::identity::Identity;
use crate::sys::{file, process};

/// The node's ids.
pub struct Node {
    /// Users.
    pub uids: NodeIds,
    /// Groups.
    pub gids: NodeIds,
}

impl Node {
    /// Of one kind.
    pub fn of(&self, kind: Kind) -> &NodeIds {
        match kind {
            Kind::User => &self.uids,
            Kind::Group => &self.gids,
        }
    }
}

/// What is used of /proc, held open: a worker's root changes.
pub struct Proc {
    dir: OwnedFd,
    /// Our own user namespace.
    user: u64,
}

impl Proc {
    /// Opens /proc.
    pub fn open() -> io::Result<Proc> {
        let dir = file::open_dir("/proc")?;
        let user = file::namespace_number(dir.as_fd(), c"self/ns/user")?;
        Ok(Proc { dir, user })
    }

    /// A file of a thread.
    pub fn read(&self, tid: u32, name: &str) -> io::Result<String> {
        let mut text = String::new();
        File::from(self.open_of(tid, name, libc::O_RDONLY)?).read_to_string(&mut text)?;
        Ok(text)
    }

    fn open_of(&self, tid: u32, name: &str, flags: i32) -> io::Result<OwnedFd> {
        named(tid, &[name], |path| process::open_below(self.dir.as_fd(), path, flags))
    }

    /// A place of a thread: "root" or "cwd".
    pub fn place(&self, tid: u32, name: &str) -> io::Result<OwnedFd> {
        self.open_of(tid, name, libc::O_PATH)
    }

    /// A thread's memory, to be written to.
    pub fn memory(&self, tid: u32) -> io::Result<File> {
        self.open_of(tid, "mem", libc::O_RDWR).map(File::from)
    }

    /// The namespace of a thread, by its number. That may be used again when the namespace is gone.
    pub fn namespace(&self, tid: u32, kind: &str) -> io::Result<u64> {
        named(tid, &["ns/", kind], |path| file::namespace_number(self.dir.as_fd(), path))
    }
}

/// Builds `TID/NAME` without allocating, as every call does it several times.
fn named<T>(tid: u32, name: &[&str], work: impl FnOnce(&CStr) -> io::Result<T>) -> io::Result<T> {
    let mut path = [0u8; 40];
    let mut rest = &mut path[..];
    write!(rest, "{tid}/")?;
    name.iter().try_for_each(|part| rest.write_all(part.as_bytes()))?;
    work(CStr::from_bytes_until_nul(&path).map_err(io::Error::other)?)
}

/// Our own identity, to come back to.
pub fn own_identity() -> io::Result<Identity> {
    Status::parse(&fs::read_to_string("/proc/thread-self/status")?).map(|s| s.identity)
}

/// What is used of /proc/TID/status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The process that the thread belongs to.
    pub process: u32,
    /// As whom it acts on files.
    pub identity: Identity,
}

impl Status {
    /// Reads it once, so that all of it is of one moment's credentials.
    pub fn of(proc: &Proc, tid: u32) -> io::Result<Status> {
        // The kernel makes the text anew for each read, and it rarely is longer: one read.
        let mut first = [0; 4096];
        let mut file = File::from(proc.open_of(tid, "status", libc::O_RDONLY)?);
        let read = file.read(&mut first)?;
        let mut rest = Vec::new();
        if read == first.len() {
            rest.extend_from_slice(&first);
            file.read_to_end(&mut rest)?;
        }
        let text = if rest.is_empty() { &first[..read] } else { &rest };
        Status::parse(&String::from_utf8_lossy(text))
    }

    fn parse(text: &str) -> io::Result<Status> {
        let odd = || io::Error::new(io::ErrorKind::InvalidData, "/proc/TID/status lacks a line");
        let field = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).ok_or_else(odd);
        // Real, effective, saved, file-system.
        let fs_id = |key| field(key)?.split_ascii_whitespace().nth(3).and_then(|n| n.parse().ok()).ok_or_else(odd);
        let groups = field("Groups:")?.split_ascii_whitespace().map(|n| n.parse().map_err(|_| odd()));
        Ok(Status {
            process: field("Tgid:")?.trim().parse().map_err(|_| odd())?,
            identity: Identity {
                fsuid: fs_id("Uid:")?,
                fsgid: fs_id("Gid:")?,
                groups: groups.collect::<io::Result<_>>()?,
                capabilities: u64::from_str_radix(field("CapEff:")?.trim(), 16).map_err(|_| odd())?,
            },
        })
    }
}

/// The user namespace of a caller, as far as ids go.
pub enum Ids {
    /// Ours: ids are the node's.
    Node,
    /// One that the plugin made for a container: its ids, as the node's.
    Pinned {
        /// Users.
        uids: IdMap,
        /// Groups.
        gids: IdMap,
    },
    /// Somebody else's: the kernel decides.
    Foreign,
}

impl Ids {
    /// Those of a thread.
    pub fn of(proc: &Proc, node: &Node, tid: u32) -> io::Result<Ids> {
        let theirs = proc.namespace(tid, "user")?;
        if theirs == proc.user {
            return Ok(Ids::Node);
        }
        if !is_pinned(theirs) {
            return Ok(Ids::Foreign);
        }
        // Seen from the parent namespace, the second column is the node's ids.
        let map = |name| {
            IdMap::parse(&proc.read(tid, name)?).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
        };
        let (uids, gids) = (map("uid_map")?, map("gid_map")?);
        // The plugin's maps have a name for each of the node's ids. Only then do capabilities in that namespace reach as
        // far as the same ones in the node's (capable_wrt_inode_uidgid), which is what we act with.
        match covers(&uids, &node.uids) && covers(&gids, &node.gids) {
            true => Ok(Ids::Pinned { uids, gids }),
            false => Ok(Ids::Foreign),
        }
    }

    /// Whether the kernel knows an id of the caller by itself.
    pub fn knows(&self, node: &Node, kind: Kind, id: u32) -> bool {
        match self {
            Ids::Node => node.of(kind).contains(id),
            Ids::Pinned { .. } => self.map(kind).is_some_and(|map| outside(map, id).is_some()),
            Ids::Foreign => true,
        }
    }

    /// The node's id for one of the caller.
    pub fn place(&self, node: &Node, kind: Kind, id: u32) -> NodeId {
        match self.map(kind).and_then(|map| outside(map, id)) {
            Some(id) => NodeId(id),
            None => node.of(kind).place(id),
        }
    }

    /// What the caller calls the place of an id of its own. None: its namespace has no name for it.
    pub fn fold(&self, node: &Node, kind: Kind, id: u32) -> Option<u32> {
        let place = self.place(node, kind, id);
        match self.map(kind) {
            Some(map) => inside(map, place.0),
            None => Some(place.0),
        }
    }

    fn map(&self, kind: Kind) -> Option<&IdMap> {
        match (self, kind) {
            (Ids::Pinned { uids, .. }, Kind::User) => Some(uids),
            (Ids::Pinned { gids, .. }, Kind::Group) => Some(gids),
            _ => None,
        }
    }
}

fn outside(map: &IdMap, id: u32) -> Option<u32> {
    let e = map.extents().iter().find(|e| id >= e.inside && id - e.inside < e.count)?;
    Some(e.outside + (id - e.inside))
}

fn inside(map: &IdMap, id: u32) -> Option<u32> {
    let e = map.extents().iter().find(|e| id >= e.outside && id - e.outside < e.count)?;
    Some(e.inside + (id - e.outside))
}

/// Whether a map has a name for all of the node's ids.
fn covers(map: &IdMap, ids: &NodeIds) -> bool {
    let named = map.extents().iter().map(|e| e.outside..=e.outside + (e.count - 1)).collect();
    Ranges::new(named) == *ids.ids()
}

/// Whether the plugin has pinned this namespace. Asked with the supervisor's own root, never with a caller's.
fn is_pinned(namespace: u64) -> bool {
    let Ok(own) = fs::metadata("/proc/self/ns/user") else { return false };
    let is_it = |m: fs::Metadata| (m.dev(), m.ino()) == (own.dev(), namespace);
    let list = |path: &std::path::Path| fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
    let pods = std::path::Path::new(crate::pod::rundir::PATH).join("pods");
    list(&pods)
        .flat_map(|pod| list(&pod).collect::<Vec<_>>())
        .any(|path| path.extension().is_some_and(|e| e == "user") && fs::symlink_metadata(&path).is_ok_and(is_it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read() {
        let text = "Name:\tUid:\t7\nTgid:\t12\nPid:\t13\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t4 24 27 \n\
                    CapInh:\t0\nCapPrm:\t0\nCapEff:\t00000000a80425fb\n";
        let status = Status::parse(text).unwrap();
        assert_eq!(status.process, 12);
        let i = status.identity;
        assert_eq!((i.fsuid, i.fsgid, i.groups, i.capabilities), (4, 8, vec![4, 24, 27], 0xa804_25fb));
        assert!(Status::parse("Tgid:\t1\n").is_err());
        assert_eq!(own_identity().unwrap().fsuid, 0);
    }

    #[test]
    fn names_of_a_pinned_namespace() {
        let node = NodeIds::new(&IdMap::parse("0 1 2048").unwrap()).unwrap();
        let node = Node { uids: node.clone(), gids: node };
        let map = || IdMap::parse("0 0 1809\n1810 1810 238\n10001 1809 1\n").unwrap();
        let pinned = Ids::Pinned { uids: map(), gids: map() };
        let k = Kind::User;
        assert!(pinned.knows(&node, k, 10001) && !pinned.knows(&node, k, 1809) && !pinned.knows(&node, k, 50000));
        assert_eq!(pinned.place(&node, k, 10001), NodeId(1809));
        assert_eq!(pinned.fold(&node, k, 50000), Some(848));
        // Its place is 10001's: that is its name there.
        assert_eq!(pinned.fold(&node, k, 10001 + 2048), Some(10001));
        assert_eq!(Ids::Node.fold(&node, k, 50000), Some(848));
        assert!(Ids::Foreign.knows(&node, k, 50000));
        assert!(covers(&map(), &node.uids));
        assert!(!covers(&IdMap::parse("0 0 1809\n1810 1810 238\n").unwrap(), &node.uids));
    }
}
