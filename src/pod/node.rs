//! The node: what its own user namespace maps.

use std::fs;

use crate::map::idmap::IdMap;
use crate::map::pool::NodeIds;

/// The ids of the user namespace that this process is in.
pub struct Node {
    /// Users, with the pool.
    pub uids: NodeIds,
    /// Groups, with the pool.
    pub gids: NodeIds,
    /// `/proc/self/gid_map`: the node's groups, and what the namespace around it calls them.
    pub gid_map: IdMap,
}

impl Node {
    /// Reads the maps of this process.
    pub fn read() -> Result<Node, String> {
        let read = |name: &str| {
            let path = format!("/proc/self/{name}");
            let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {path}: {e}"))?;
            let map = IdMap::parse(&text).map_err(|e| format!("{path}: {e}"))?;
            let ids = NodeIds::new(&map).map_err(|e| format!("{path}: {e}"))?;
            Ok::<_, String>((map, ids))
        };
        let ((_, uids), (gid_map, gids)) = (read("uid_map")?, read("gid_map")?);
        Ok(Node { uids, gids, gid_map })
    }

    /// Whether no image is expected to need an id that is not there.
    pub fn needs_nothing(&self) -> bool {
        self.uids.covers_16_bits() && self.gids.covers_16_bits()
    }
}
