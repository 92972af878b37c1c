//! Which ids the user namespace of a caller has.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::thread::Thread;
use crate::map::idmap::IdMap;
use crate::map::kind::{Both, Kind};
use crate::map::pool::{NodeId, NodeIds};
use crate::map::ranges::Ranges;

pub type Node = Both<NodeIds>;

/// The user namespace of a caller, as far as ids go.
pub enum Ids {
    /// Ours: ids are the node's.
    Node,
    /// One that the plugin made for a container: its ids, as the node's.
    Pinned(Both<IdMap>),
    /// Somebody else's: the kernel decides.
    Foreign,
}

impl Ids {
    /// Those of a thread. `pin` is where the last pin was found: most callers of a container are in one namespace.
    pub fn of(thread: &Thread, node: &Node, pin: &mut Option<PathBuf>) -> io::Result<Ids> {
        if thread.is_of_the_node()? {
            return Ok(Ids::Node);
        }
        if !is_pinned(thread.user()?, pin) {
            return Ok(Ids::Foreign);
        }
        // Seen from the parent namespace, the second column is the node's ids.
        let maps = Both::try_new(|kind| {
            let name = if kind == Kind::Uid { c"uid_map" } else { c"gid_map" };
            IdMap::parse(&thread.read(name)?).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
        })?;
        // The plugin's maps have a name for each of the node's ids; nothing is folded for any other namespace.
        match Kind::BOTH.iter().all(|kind| covers(maps.of(*kind), node.of(*kind))) {
            true => Ok(Ids::Pinned(maps)),
            false => Ok(Ids::Foreign),
        }
    }

    /// Whether the kernel knows an id of the caller by itself.
    pub fn knows(&self, node: &Node, kind: Kind, id: u32) -> bool {
        match self {
            Ids::Node => node.of(kind).contains(id),
            Ids::Pinned(_) => self.map(kind).is_some_and(|map| outside(map, id).is_some()),
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
        match self {
            Ids::Pinned(maps) => Some(maps.of(kind)),
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

/// Whether the plugin has pinned this namespace.
fn is_pinned(namespace: u64, last: &mut Option<PathBuf>) -> bool {
    let Ok(own) = fs::metadata("/proc/self/ns/user") else { return false };
    let is_it = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (own.dev(), namespace));
    if !last.as_ref().is_some_and(is_it) {
        let list = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
        let pods = Path::new(crate::pod::rundir::PATH).join("pods");
        let pins = list(&pods).flat_map(|pod| list(&pod).collect::<Vec<_>>());
        *last = pins.filter(|path| path.extension().is_some_and(|e| e == "user")).find(is_it);
    }
    last.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_pinned_namespace() {
        let node = NodeIds::new(&IdMap::parse("0 1 2048").unwrap()).unwrap();
        let node = Node { uids: node.clone(), gids: node };
        let map = || IdMap::parse("0 0 1569\n1570 1570 478\n10001 1569 1\n").unwrap();
        let pinned = Ids::Pinned(Both { uids: map(), gids: map() });
        let k = Kind::Uid;
        assert!(pinned.knows(&node, k, 10001) && !pinned.knows(&node, k, 1569) && !pinned.knows(&node, k, 50000));
        assert_eq!(pinned.place(&node, k, 10001), NodeId(1569));
        assert_eq!(pinned.fold(&node, k, 50000), Some(1744));
        // Its place is 10001's: that is its name there.
        assert_eq!(pinned.fold(&node, k, 10001 + 1048), Some(10001));
        assert_eq!(Ids::Node.fold(&node, k, 50000), Some(1744));
        assert!(Ids::Foreign.knows(&node, k, 50000));
        assert!(covers(&map(), &node.uids));
        assert!(!covers(&IdMap::parse("0 0 1569\n1570 1570 478\n").unwrap(), &node.uids));
    }
}
