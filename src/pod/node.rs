//! The node: what its own user namespace maps.

use std::fs;

use super::Context;
use crate::map::idmap::IdMap;
use crate::map::kind::Both;
use crate::map::pool::NodeIds;

/// The ids of the user namespace that this process is in.
pub fn read() -> Result<Both<NodeIds>, String> {
    Both::try_new(|kind| {
        let path = format!("/proc/self/{kind}_map");
        let text = fs::read_to_string(&path).doing(format_args!("read {path}"))?;
        let map = IdMap::parse(&text).map_err(|e| format!("{path}: {e}"))?;
        NodeIds::new(&map).map_err(|e| format!("{path}: {e}"))
    })
}

/// Whether no image is expected to need an id that is not there.
pub fn needs_nothing(node: &Both<NodeIds>) -> bool {
    node.all(NodeIds::covers_16_bits)
}
