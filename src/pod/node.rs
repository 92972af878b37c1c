//! The node: what its own user namespace maps.

use std::fs;

use crate::map::idmap::IdMap;
use crate::map::kind::Both;
use crate::map::pool::NodeIds;

/// The ids of the user namespace that this process is in.
pub struct Node {
    /// With the pools.
    pub ids: Both<NodeIds>,
    /// `/proc/self/gid_map`: the node's groups, and what the namespace around it calls them.
    pub gid_map: IdMap,
}

impl Node {
    /// Reads the maps of this process.
    pub fn read() -> Result<Node, String> {
        let maps = Both::try_new(|kind| {
            let path = format!("/proc/self/{kind}_map");
            let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {path}: {e}"))?;
            IdMap::parse(&text).map_err(|e| format!("{path}: {e}"))
        })?;
        let ids = Both::try_new(|kind| NodeIds::new(maps.of(kind)).map_err(|e| format!("/proc/self/{kind}_map: {e}")))?;
        Ok(Node { ids, gid_map: maps.gids })
    }

    /// Whether no image is expected to need an id that is not there.
    pub fn needs_nothing(&self) -> bool {
        self.ids.all(NodeIds::covers_16_bits)
    }
}
